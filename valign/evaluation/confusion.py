"""How often a classifier takes one attribute for another, measured on labelled images.

With the shares p of true attributes and the confusion matrix C (row: true, column: classified), a
classifier sees the shares pC on average, so what it saw times the inverse of C is unbiased for p
(Rogan & Gladen, 1978; Buonaccorsi, 2010, chapter 2). C is itself known from a finite number of
images only: `draws` gives matrices that these are compatible with, and an interval of a corrected
number is taken over them and over prompts together.

Shapes: N images, K attributes, C draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.evaluation import bias_correction

DRAWS = 60
FEWEST = 5  # labelled images of every attribute


@dataclass(frozen=True)
class Confusion:
    """Labelled images by true (row) and classified (column) attribute.

    Attributes:
        counts_KK: how many images.
        source: who labelled them, for a reader.
    """

    counts_KK: NDArray[np.int64]
    source: str = ""

    @property
    def matrix_KK(self) -> NDArray[np.float64]:
        """The share of each true attribute's images that is classified as each attribute."""
        return self.counts_KK / self.counts_KK.sum(axis=1, keepdims=True)

    def draws(self, count: int = DRAWS, *, seed: int = 0) -> NDArray[np.float64]:
        """Return (C, K, K) matrices from the posterior under Jeffreys' prior, one half a cell.

        The matrix itself stands for those that are too near to singular to be inverted.
        """
        rng = np.random.default_rng([seed, int(self.counts_KK.sum())])
        drawn = np.stack([rng.dirichlet(row + 0.5, size=count) for row in self.counts_KK], axis=1)
        poor = np.linalg.svd(drawn, compute_uv=False)[:, -1] < bias_correction.NEAREST_SINGULAR
        return np.where(poor[:, None, None], self.matrix_KK, drawn)

    def as_dict(self) -> dict[str, object]:
        """Return plain numbers for JSON."""
        right = int(np.trace(self.counts_KK))
        images = int(self.counts_KK.sum())
        return {
            "counts": self.counts_KK.tolist(),
            "images": images,
            "accuracy": right / images,
            "labelled_by": self.source,
        }


def measured(
    true_N: ArrayLike, classified_N: ArrayLike, k: int, *, source: str = ""
) -> Confusion | None:
    """Count a classifier's errors; images without either label (negative) are left out.

    Returns None where some attribute has fewer than five labelled images, or where the classifier
    hardly tells some of them apart: then there is nothing to correct with.

    Raises:
        ValueError: arrays of different lengths, or a label out of range.
    """
    true, seen = np.asarray(true_N, dtype=np.int64), np.asarray(classified_N, dtype=np.int64)
    if true.shape != seen.shape or true.ndim != 1:
        raise ValueError(f"labels {true.shape} and classes {seen.shape} must be equally long")
    if true.size and max(true.max(), seen.max()) >= k:
        raise ValueError(f"labels must be below {k}")
    both = (true >= 0) & (seen >= 0)
    flat = np.bincount(true[both] * k + seen[both], minlength=k * k)
    counts_KK = flat.reshape(k, k)
    if counts_KK.sum(axis=1).min() < FEWEST:
        return None
    found = Confusion(counts_KK, source)
    try:
        bias_correction.inverse(found.matrix_KK)
    except ValueError:
        return None
    return found
