"""Bring what encode made to this node, as the memory-mapped arrays that training reads."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from valign.stages import encode
from valign.stages.work import part_keys
from valign.storage import layout, tables
from valign.storage.objects import Store


@contextlib.contextmanager
def local_pairs(store: Store) -> Iterator[Path]:
    """Assemble what encode made into memory-mapped arrays, in a folder of this process alone.

    Workers of one node do not share it: a folder that outlived a killed worker could be stale.
    """
    with tempfile.TemporaryDirectory(prefix="valign-pairs-") as folder:
        assemble(store, Path(folder))
        yield Path(folder)


def assemble(store: Store, folder: Path) -> None:
    """Write the arrays that `training.batches.PairSource` reads."""
    from valign.training.batches import write_pair_source

    images = _columns(store, part_keys(store, "encode"), tables.LATENTS)
    texts = _columns(store, part_keys(store, encode.TEXTS), tables.TEXTS)
    pairs = value_pairs(store)
    used = [row for row, ids in enumerate(texts["value_ids"]) if ids]
    texts = {name: [values[row] for row in used] for name, values in texts.items()}
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


def value_pairs(store: Store) -> dict[str, list[Any]]:
    """Return the pairs that a value is learnt from: decided, and under a principle.

    Raises:
        ValueError: there are none.
    """
    wanted = ("pair_id", "principle", "text", "winner", "loser", "verdict")
    pairs = tables.lists(tables.read(store, layout.pairs(), tables.PAIRS, wanted))
    both = zip(pairs.pop("verdict"), pairs["principle"], strict=True)
    rows = [row for row, (verdict, principle) in enumerate(both) if verdict and principle]
    if not rows:
        raise ValueError(
            f"none of the {len(pairs['text']):,} pairs is decided and under a principle, so no "
            "value can be learnt from them; label with label.rule=livo or joint"
        )
    return {name: [values[row] for row in rows] for name, values in pairs.items()}


def _columns(store: Store, keys: list[str], schema: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for key in keys:
        for name, values in tables.read(store, key, schema).to_pydict().items():
            columns[name] += values
    return columns
