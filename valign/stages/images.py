"""The plan of images, as rows, as a table and as shards, shared by generate and what reads it.

Images of toxic prompts come last in a plan, in shards of their own, and their parts lie under a
prefix of their own: who may read or keep those can be said by prefix.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from valign.records import Prompt, prompt_id
from valign.stages.work import Shard, cut
from valign.storage import layout, tables
from valign.storage.objects import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedImage:
    """One image to make: its prompt, which of the prompt's samples, its noise and its token."""

    prompt: Prompt
    sample: int
    seed: int
    image_id: str
    token: str = ""  # the principle whose value token is applied; "": the base model's own image


def toxic(role: str, category: str) -> bool:
    """Say whether images of prompts of this role and category are kept apart.

    A user's prompt has no category but the toxicity principle that it goes against.
    """
    return role == "toxic" or (role == "user" and category != "user")


def ordered(rows: Sequence[PlannedImage]) -> list[PlannedImage]:
    """Return rows in the order of a plan: toxic prompts last, images with tokens after others."""
    return sorted(
        rows, key=lambda row: (toxic(row.prompt.role, row.prompt.category), bool(row.token))
    )


def shards(store: Store, prefix: str, size: int) -> list[Shard]:
    """Cut the plan under `prefix` into shards of `size` rows that are all toxic or all not.

    Rows with and without tokens do not share a shard either, so that few batches are mixed.
    """
    plan = tables.read(store, layout.plan(prefix), tables.PLAN, ["role", "category", "token"])
    kinds = (
        (toxic(role, category), bool(token))
        for role, category, token in zip(*tables.lists(plan).values(), strict=True)
    )
    found: list[Shard] = []
    first_row = 0
    for (apart, _), group in itertools.groupby(kinds):
        rows = sum(1 for _ in group)
        found += cut(rows, size, first_row=first_row, first_number=len(found), toxic=apart)
        first_row += rows
    return found


def columns(rows: Sequence[PlannedImage]) -> dict[str, list[object]]:
    """Return the rows as the columns of `storage.tables.PLAN`."""
    return {
        "image_id": [row.image_id for row in rows],
        "prompt_id": [prompt_id(row.prompt) for row in rows],
        "text": [row.prompt.text for row in rows],
        "scene": [row.prompt.scene for row in rows],
        "role": [row.prompt.role for row in rows],
        "category": [row.prompt.category for row in rows],
        "principle": [row.prompt.principle for row in rows],
        "concept": [row.prompt.concept for row in rows],
        "attributes": [
            ";".join(f"{key}={value}" for key, value in row.prompt.attributes) for row in rows
        ],
        "negative": [row.prompt.negative for row in rows],
        "cleaned": [row.prompt.cleaned for row in rows],
        "sample": [row.sample for row in rows],
        "seed": [row.seed for row in rows],
        "token": [row.token for row in rows],
    }


class Plan:
    """A plan that was written with `columns`, read shard by shard: it may hold many images."""

    def __init__(self, store: Store, key: str) -> None:
        self._table = tables.Rows(store, key, tables.PLAN)

    def rows(self, start: int, stop: int) -> list[PlannedImage]:
        """Return rows `start` up to `stop`."""
        return [planned_row(row) for row in self._table.slice(start, stop).to_pylist()]


def planned_row(row: Mapping[str, Any]) -> PlannedImage:
    """Return the planned image of a row of the plan or of the images."""
    return PlannedImage(
        prompt=prompt_of(row),
        sample=row["sample"],
        seed=row["seed"],
        image_id=row["image_id"],
        token=row["token"],
    )


def prompt_of(row: Mapping[str, Any]) -> Prompt:
    """Return the prompt of a row of the plan or of the images."""
    return Prompt(
        text=row["text"],
        scene=row["scene"],
        role=row["role"],
        category=row["category"],
        principle=row["principle"],
        concept=row["concept"],
        attributes=parse_attributes(row["attributes"]),
        negative=row["negative"],
        cleaned=row["cleaned"],
    )


def parse_attributes(text: str) -> tuple[tuple[str, str], ...]:
    """Return `gender=female;race=Asian` as pairs."""
    pairs = (item.partition("=") for item in text.split(";") if item)
    return tuple((key, value) for key, _, value in pairs)


def fitted(image_HWC: np.ndarray, size_px: int) -> np.ndarray:
    """Return an image as a square of this side: its shorter side scaled, the longer one cropped.

    An image of that size is returned as it is. Training on others' images does the same (the
    Diffusion-DPO trainer); scores are of the whole image.
    """
    height, width = image_HWC.shape[:2]
    if height == width == size_px:
        return image_HWC
    scale = size_px / min(height, width)
    size = (max(size_px, round(width * scale)), max(size_px, round(height * scale)))
    scaled = np.asarray(Image.fromarray(image_HWC).resize(size, Image.Resampling.LANCZOS))
    top, left = (size[1] - size_px) // 2, (size[0] - size_px) // 2
    return scaled[top : top + size_px, left : left + size_px]
