"""Pictures for a dataset's card: some pairs of every kind, as one grid each.

The upper row are the preferred images, the lower row what they were preferred to. Grids of toxic
prompts lie under a prefix of their own, and no other grid shows an image that a classifier finds
toxic.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from valign.records import digest
from valign.stages.image_files import pixels, png
from valign.stages.work import part_keys
from valign.storage import layout, tables
from valign.storage.objects import Store

PAIRS_PER_GRID = 6
LEAST_PX, LARGEST_PX = 96, 256  # of an image in a grid
GAP_PX = 4
SIDES = ("winner", "loser")


@dataclass(frozen=True, slots=True)
class Grid:
    """A drawn grid: under which heading, of which prompts, and where it was written."""

    title: str
    prompts: tuple[str, ...]
    key: str
    toxic: bool


def write_grids(
    store: Store,
    columns: Mapping[str, list[Any]],
    unfit: Set[str],
    toxicity: Sequence[str],
) -> list[Grid]:
    """Draw some decided pairs of each principle and category; return the grids that were written.

    Args:
        store: the run's root.
        columns: the pairs, as the columns of `tables.PAIRS`.
        unfit: images that only a grid of toxic prompts may show.
        toxicity: the toxicity principles.
    """
    kinds: dict[tuple[str, str], list[int]] = {}
    for row, verdict in enumerate(columns["verdict"]):
        kind = {columns["principle"][row], columns["category"][row]}
        fit = unfit.isdisjoint(columns[side][row] for side in SIDES)
        if verdict and (fit or kind & set(toxicity)):
            kinds.setdefault((columns["principle"][row], columns["category"][row]), []).append(row)
    chosen = {kind: of_many_prompts(rows, columns["text"]) for kind, rows in kinds.items()}
    wanted = {
        columns[side][row]
        for rows in chosen.values()
        for row in rows
        for side in ("winner", "loser")
    }
    data = _read(store, wanted)
    grids = []
    for (principle, category), some in chosen.items():
        # Pictures can be gone while their scores stay: they may be purged.
        rows = [row for row in some if all(columns[side][row] in data for side in SIDES)]
        if not rows:
            continue
        words = list(dict.fromkeys(word for word in (principle, category) if word))
        toxic = bool({principle, category} & set(toxicity))
        place = layout.toxic("label") if toxic else "label"
        key = f"{place}/samples-{'-'.join(words)}.png"
        sides = [[data[columns[side][row]] for row in rows] for side in SIDES]
        store.write(key, draw(sides))
        texts = tuple(dict.fromkeys(columns["text"][row] for row in rows))
        grids.append(Grid(", ".join(words), texts, key.removeprefix("label/"), toxic))
    return grids


def draw(sides: list[list[bytes]]) -> bytes:
    """Return encoded images as one PNG: a row per side, columns apart by a white gap."""
    shown = [[_sized(pixels(image)) for image in side] for side in sides]
    side_px = max(image.shape[0] for row in shown for image in row)
    step = side_px + GAP_PX
    height, width = len(shown) * step - GAP_PX, len(shown[0]) * step - GAP_PX
    canvas_HWC = np.full((height, width, 3), 255, np.uint8)
    for y, row in enumerate(shown):
        for x, image in enumerate(row):
            canvas_HWC[y * step : y * step + image.shape[0], x * step :][:, : image.shape[1]] = (
                image
            )
    return png(canvas_HWC)


def _sized(image_HWC: np.ndarray) -> np.ndarray:
    """Return a small image enlarged by a whole factor, a large one made smaller."""
    largest = max(image_HWC.shape[:2])
    if largest > LARGEST_PX:
        picture = Image.fromarray(image_HWC)
        picture.thumbnail((LARGEST_PX, LARGEST_PX))
        return np.asarray(picture)
    times = -(-LEAST_PX // largest)
    return image_HWC.repeat(times, axis=0).repeat(times, axis=1)


def of_many_prompts(rows: list[int], texts: list[str]) -> list[int]:
    """Return a few rows: one of each prompt, prompts ordered by hash, then another of each."""
    ranked = sorted(rows, key=lambda row: (digest("sample", texts[row]), row))
    seen: Counter[str] = Counter()
    turns = []
    for place, row in enumerate(ranked):
        turns.append((seen[texts[row]], place, row))
        seen[texts[row]] += 1
    return [row for *_, row in sorted(turns)[:PAIRS_PER_GRID]]


def _read(store: Store, wanted: set[str]) -> dict[str, bytes]:
    """Return the encoded images; shards that hold none of them are not read.

    Which shard holds an image is read from the scores, whose parts are small and named alike.
    """
    names = {
        key.rpartition("/")[2]
        for key in store.list(layout.parts("score"))
        if not wanted.isdisjoint(
            tables.read_scores(store, key, ["image_id"])["image_id"].to_pylist()
        )
    }
    found: dict[str, bytes] = {}
    for key in part_keys(store, "generate"):
        if key.rpartition("/")[2] in names:
            part = tables.read(store, key, tables.IMAGES, ["image_id", "image"]).to_pylist()
            found |= {i["image_id"]: i["image"]["bytes"] for i in part if i["image_id"] in wanted}
    return found
