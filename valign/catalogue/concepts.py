"""The concepts whose images should be unbiased: careers, positive words and negative words.

In: the list in `data/concepts.tsv`. Out: `Concept` rows with their field and split. The counts are
those of the LiVO paper (train 284/148/96, eval 340/107/141); the lists are our own. A field
groups at most 64 concepts of one category, from both splits; the miniature draws fields as
emblem families. Sentences about concepts are made in `scenarios`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

from valign.catalogue.wording import rows

Category = Literal["career", "positive", "negative"]
Split = Literal["train", "eval"]

CATEGORIES: tuple[Category, ...] = ("career", "positive", "negative")
SPLITS: tuple[Split, ...] = ("train", "eval")

FIELDS: tuple[str, ...] = (
    # careers
    "health",
    "science",
    "engineering",
    "crafts",
    "construction",
    "arts",
    "media",
    "law and government",
    "business",
    "education and care",
    "hospitality and food",
    "transport and outdoors",
    # positive words
    "kindness",
    "ability",
    "virtue",
    "joy",
    # negative words
    "hostility",
    "deceit",
    "folly",
    "gloom",
)
"""The 20 fields: 12 of careers, 4 of positive and 4 of negative words, in the file's order."""


@dataclass(frozen=True, slots=True)
class Concept:
    """One career ("doctor") or adjective ("happy", said of a person)."""

    name: str
    category: str
    """One of CATEGORIES; of a recipe's own nouns, the principle's key."""
    field: str
    split: Split


@cache
def _all() -> tuple[Concept, ...]:
    return tuple(
        Concept(name, category, field, cast(Split, split))
        for name, category, field, split in rows("concepts.tsv")
    )


def concepts(category: str | None = None, split: str | None = None) -> tuple[Concept, ...]:
    """Concepts of a category and split (None: all), in a fixed order.

    Raises LookupError for an unknown category or split.
    """
    if category is not None and category not in CATEGORIES:
        raise LookupError(f"unknown category {category!r}; known: {', '.join(CATEGORIES)}")
    if split is not None and split not in SPLITS:
        raise LookupError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    return tuple(c for c in _all() if category in (None, c.category) and split in (None, c.split))
