"""Tables of others, read without trust: Parquet, CSV, TSV and JSONL whose columns we did not name.

In: a file or a folder. Out: rows of plain values without their pictures, and the pictures' bytes by
place. A text that is not UTF-8 comes with lone surrogates, so that the caller can tell. Nothing is
unpickled or executed, and no path leads out of the folder that was given. What rows mean, and
whether bytes are a picture, is left to the stages.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TABLES = (".parquet", ".csv", ".tsv", ".jsonl")
LARGEST_FILE_BYTES = 1 << 28
_EDGE_BYTES = 1 << 16  # of a file's start and end, where formats keep what changes
_ROWS_PER_BATCH = 4096

PICK_A_PIC = pa.schema(
    [
        ("caption", pa.string()),
        ("jpg_0", pa.binary()),  # encoded pictures of any format, in spite of the name
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),  # 1: the first is preferred, 0: the second
        ("label_1", pa.float64()),
        ("image_0_uid", pa.string()),
        ("image_1_uid", pa.string()),
        ("best_image_uid", pa.string()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("has_label", pa.bool_()),
        ("are_different", pa.bool_()),
        ("principle", pa.string()),  # ours: what it was labelled under, "": nothing
    ],
    metadata={"valign.schema": "pick_a_pic", "valign.version": "1"},
)
"""Pairs as Pick-a-Pic keeps them, for others to read."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies: a file of its own, or a cell of a Parquet file (row 0 and up)."""

    file: str  # relative to the source's folder
    row: int = -1
    column: str = ""


def files(source: Path) -> list[str]:
    """Return the visible files of a source, relative to its folder, sorted."""
    if source.is_file():
        return [source.name]
    found = (path.relative_to(source) for path in source.rglob("*") if path.is_file())
    return sorted(
        path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)
    )


def folder(source: Path) -> Path:
    """Return the folder that places of a source are relative to."""
    return source.parent if source.is_file() else source


def fingerprint(source: Path, names: Sequence[str]) -> str:
    """Return a hash of the files' names, sizes, starts and ends; cheap for any size."""
    found = hashlib.sha256()
    for name in names:
        path = folder(source) / name
        size = path.stat().st_size
        found.update(f"{name}\0{size}\0".encode())
        with path.open("rb") as file:
            found.update(file.read(_EDGE_BYTES))
            file.seek(max(0, size - _EDGE_BYTES))
            found.update(file.read(_EDGE_BYTES))
    return found.hexdigest()


def columns(path: Path) -> dict[str, str]:
    """Return a table's column names and for each whether it holds `picture` bytes or a `value`.

    Raises:
        ValueError: the file is not such a table.
    """
    try:
        if path.suffix == ".parquet":
            return {field.name: _kind(field.type) for field in pq.read_schema(path)}
        first = next(iter(_lines(path)), (0, {}))[1]
    except (pa.ArrowInvalid, csv.Error, OSError) as error:
        raise ValueError(f"{path.name} is not a readable table: {error}") from error
    return dict.fromkeys(first, "value")


def schema_name(path: Path) -> str:
    """Return the name of the valign schema that a file was written with, or ""."""
    if path.suffix != ".parquet":
        return ""
    return (pq.read_schema(path).metadata or {}).get(b"valign.schema", b"").decode()


def rows(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield some columns of every row, pictures excepted; a missing value is None.

    Raises:
        ValueError: the file cannot be read any further.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path, names)
            return
        for _, row in _lines(path):
            yield {name: row.get(name) for name in names}
    except (pa.ArrowInvalid, csv.Error, OSError) as error:
        raise ValueError(f"{path.name} is not a readable table: {error}") from error


def count(path: Path) -> int:
    """Return how many rows a table has."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    return sum(1 for _ in _lines(path))


def pictures(base: Path, places: Sequence[Place]) -> dict[Place, bytes | None]:
    """Return the bytes at each place; None where there are none, or more than any picture has.

    Raises:
        ValueError: a Parquet file cannot be read.
    """
    found: dict[Place, bytes | None] = {}
    cells: dict[str, list[Place]] = {}
    for place in places:
        if place.column:
            cells.setdefault(place.file, []).append(place)
        else:
            found[place] = _file(base, place.file)
    for name, wanted in cells.items():
        try:
            found |= _cells(base / name, wanted)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{name} is not a readable table: {error}") from error
    return found


def _parquet_rows(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(path).iter_batches(_ROWS_PER_BATCH, columns=list(names)):
        values = [_plain(batch.column(name)) for name in names]
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))


def _file(base: Path, name: str) -> bytes | None:
    path = (base / name).resolve()
    if not path.is_relative_to(base.resolve()) or not path.is_file():
        return None
    return path.read_bytes() if path.stat().st_size <= LARGEST_FILE_BYTES else None


def _cells(path: Path, wanted: Sequence[Place]) -> dict[Place, bytes | None]:
    found: dict[Place, bytes | None] = {}
    file = pq.ParquetFile(path)
    names = sorted({place.column for place in wanted})
    first = 0
    for group in range(file.num_row_groups):
        rows_here = file.metadata.row_group(group).num_rows
        here = [place for place in wanted if first <= place.row < first + rows_here]
        if here:
            table = file.read_row_group(group, columns=names)
            for place in here:
                found[place] = _bytes(table.column(place.column)[place.row - first].as_py())
        first += rows_here
    return found


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        kind = next((field.type for field in kind if field.name == "bytes"), kind)
    return "picture" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else "value"


def _plain(array: pa.Array) -> list[Any]:
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        # Arrow does not check what a file calls text.
        large = pa.types.is_large_string(array.type)
        raw = array.cast(pa.large_binary() if large else pa.binary())
        return [
            None if v is None else v.decode("utf-8", "surrogateescape") for v in raw.to_pylist()
        ]
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode())
    return list(array.to_pylist())


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and fields of every row of a CSV, TSV or JSONL file."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield number, _object(line)
        return
    source = io.StringIO(text, newline="")
    if path.suffix == ".tsv":
        reader = csv.DictReader(source, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(source)
    for row in reader:
        yield reader.line_num, {name: value for name, value in row.items() if name is not None}


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
