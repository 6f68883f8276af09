"""What a scorer is and what it gives back; user scorers and the miniature's oracle keep to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from valign.records import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnInfo:
    """What the numbers of a column mean."""

    low: float
    """The least value possible."""
    high: float
    """The greatest value possible."""
    higher_means: str
    """What a higher value says, as a phrase."""
    classes: tuple[str, ...] = ()
    """Names of the K values per image; empty for one value per image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerInfo:
    """What a scorer is; kept beside its scores."""

    kind: str
    """As the recipe names it."""
    version: str
    """Which published weights, for people."""
    weights: str
    """sha256 (hex) of the weights that are its own; "" for a class of the user's."""
    fingerprint: str
    """Changes whenever the scores could: with the weights, their CLIP's, or the settings."""
    columns: Mapping[str, ColumnInfo]
    """What its columns mean."""


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """Scores of N images: NaN where there is none, and the reason if that is an error."""

    values: np.ndarray
    """float32, (N,) or (N, K)."""
    classes: tuple[str, ...]
    """Names of the K classes; empty for (N,)."""
    errors: list[str | None]
    """One per image."""

    @classmethod
    def of(cls, values: np.ndarray, classes: tuple[str, ...] = ()) -> "ScoreColumn":
        """Return a column without errors."""
        return cls(values.astype(np.float32), classes, [None] * len(values))


@runtime_checkable
class Scorer(Protocol):
    """Scores images by their pixels and prompts; a recipe names one as `package.module:Class`.

    Plain attributes do for the properties.
    """

    @property
    def fingerprint(self) -> str:
        """Changes whenever the scores could: a hash of weights and settings, or a version."""
        ...

    @property
    def columns(self) -> Mapping[str, ColumnInfo]:
        """Every column that `score` returns."""
        ...

    def score(
        self, images_NHWC: np.ndarray, prompts: Sequence[Prompt], /
    ) -> Mapping[str, ScoreColumn]:
        """Return the columns for uint8 images and their prompts."""
        ...
