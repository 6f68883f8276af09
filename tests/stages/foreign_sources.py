"""Sources of images as others keep them, built for tests."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(seed: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """Return a random picture, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pick_a_pic(path: Path, rows: list[dict], **replaced: pa.Array | None) -> Path:
    """Write rows as Pick-a-Pic does; a replaced column of None is left out."""
    columns = {name: pa.array([row.get(name) for row in rows]) for name in rows[0]}
    columns |= replaced
    kept = {name: array for name, array in columns.items() if array is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(kept), path, row_group_size=3)
    return path


def pair(first: int, second: int, label: float | None, caption: str = "a house") -> dict:
    """Return a row of Pick-a-Pic: pictures of these seeds, which are also their ids."""
    return {
        "jpg_0": png(first),
        "jpg_1": png(second),
        "image_0_uid": f"uid-{first}",
        "image_1_uid": f"uid-{second}",
        "label_0": label,
        "caption": caption,
    }


def folder(path: Path, files: dict[str, bytes], rows: list[dict], index: str = "pairs.csv") -> Path:
    """Write files and a CSV that lists them."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    with (path / index).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
