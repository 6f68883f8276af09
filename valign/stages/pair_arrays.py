"""Bring what encode made to this node, as the memory-mapped arrays that training reads."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from valign.stages import encode
from valign.storage import layout, manifests, tables
from valign.storage.objects import Store


@contextlib.contextmanager
def local_pairs(store: Store) -> Iterator[Path]:
    """Assemble what encode made into memory-mapped arrays on this node; removed afterwards.

    Workers of one node share the folder: each assembles its own copy aside and the first to finish
    gives it its name.
    """
    manifest = manifests.get(store, "encode")
    assert manifest is not None, "execute checks that encode is finished"
    folder = Path(tempfile.gettempdir()) / f"valign-{os.getuid()}-{manifest.fingerprint[:16]}"
    if not folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
        assemble(store, aside)
        try:
            aside.rename(folder)
        except OSError:  # another worker of this node was first
            shutil.rmtree(aside)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def assemble(store: Store, folder: Path) -> None:
    """Write the arrays that `training.batches.PairSource` reads."""
    from valign.training.batches import write_pair_source

    images = _columns(store, layout.parts("encode"), tables.LATENTS)
    texts = _columns(store, layout.parts(encode.TEXTS), tables.TEXTS)
    pairs = tables.read(store, layout.pairs(), tables.PAIRS).to_pydict()
    image_row = {image: row for row, image in enumerate(images["image_id"])}
    text_row = {
        key: row for row, key in enumerate(zip(texts["principle"], texts["text"], strict=True))
    }
    text_of = [text_row[key] for key in zip(pairs["principle"], pairs["text"], strict=True)]
    write_pair_source(
        folder,
        latents_NCHW=encode.float16(images["latents"], images["shape"]),
        contexts_MLD=encode.float16(texts["context"], texts["shape"]),
        value_ids_VL=np.array(texts["value_ids"], np.int32),
        pairs_P4=np.stack(
            [
                [image_row[image] for image in pairs["winner"]],
                [image_row[image] for image in pairs["loser"]],
                text_of,
                text_of,
            ],
            axis=1,
        ),
        pair_ids=pairs["pair_id"],
    )


def _columns(store: Store, prefix: str, schema: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for key in store.list(prefix):
        for name, values in tables.read(store, key, schema).to_pydict().items():
            columns[name] += values
    return columns
