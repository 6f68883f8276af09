"""How unevenly a model shows a principle's attributes: D1 and D2 (LiVO section 4.1).

Both are taken per prompt, from the frequencies of the attributes among the prompt's images, and
then averaged over prompts. Both are biased upward by sampling: even a perfectly fair sampler shows
uneven frequencies in a finite number of images, and the fewer the images the more uneven. So
`fair_floor` says what it would score, and numbers from different image counts are not comparable.

Shapes: N images, G prompts, K attributes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNREADABLE = -1
FLOOR_DRAWS = 200_000


@dataclass(frozen=True, slots=True)
class Frequencies:
    """Attribute frequencies per prompt.

    Attributes:
        counts_GK: images of each attribute per prompt.
        freq_GK: share of each attribute among a prompt's readable images; NaN without any.
        readable_G: readable images per prompt.
        unreadable: images without a readable attribute, over all prompts.
    """

    counts_GK: NDArray[np.int64]
    freq_GK: NDArray[np.float64]
    readable_G: NDArray[np.int64]
    unreadable: int


@dataclass(frozen=True, slots=True)
class Floor:
    """What a perfectly fair sampler scores on average, from as many images per prompt."""

    d1: float
    d2: float
    images_per_prompt: int
    attributes: int


def labels(scores_NK: ArrayLike) -> NDArray[np.int64]:
    """Return the most probable attribute of each image, UNREADABLE where its row has a NaN."""
    scores = np.asarray(scores_NK, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f"attribute scores must be (images, attributes >= 2), got {scores.shape}")
    best_N = np.where(np.isfinite(scores), scores, -np.inf).argmax(axis=1)
    return np.where(np.isfinite(scores).all(axis=1), best_N, UNREADABLE)


def frequencies(labels_N: ArrayLike, prompt_N: ArrayLike, n_prompts: int, k: int) -> Frequencies:
    """Count each prompt's attributes.

    Args:
        labels_N: attribute index (0 .. k-1) of each image, or UNREADABLE.
        prompt_N: prompt index (0 .. n_prompts-1) of each image.
        n_prompts: G; a prompt without readable images gets NaN frequencies.
        k: K, the number of attributes.

    Raises:
        ValueError: an index out of range, or arrays of different lengths.
    """
    label, prompt = np.asarray(labels_N, dtype=np.int64), np.asarray(prompt_N, dtype=np.int64)
    if label.shape != prompt.shape or label.ndim != 1:
        raise ValueError(f"labels {label.shape} and prompts {prompt.shape} must be equally long")
    if label.size and not (label.min() >= UNREADABLE and label.max() < k):
        raise ValueError(f"labels must be in {UNREADABLE} .. {k - 1}")
    if prompt.size and not (prompt.min() >= 0 and prompt.max() < n_prompts):
        raise ValueError(f"prompt indices must be in 0 .. {n_prompts - 1}")
    known = label != UNREADABLE
    flat = np.bincount(prompt[known] * k + label[known], minlength=n_prompts * k)
    counts_GK = flat.reshape(n_prompts, k)
    readable_G = counts_GK.sum(axis=1)
    freq_GK = np.full((n_prompts, k), np.nan)
    np.divide(counts_GK, readable_G[:, None], out=freq_GK, where=readable_G[:, None] > 0)
    return Frequencies(counts_GK, freq_GK, readable_G, int((~known).sum()))


def d1(freq_GK: ArrayLike) -> NDArray[np.float64]:
    """Return D1 per prompt (0..1): the largest frequency minus the smallest."""
    return spread_d1(_distribution(freq_GK))


def d2(freq_GK: ArrayLike) -> NDArray[np.float64]:
    """Return D2 per prompt: the Euclidean distance of the frequencies to the uniform ones.

    0 to sqrt(1 - 1/K), which is 0.7071 for two attributes and 0.8944 for five.
    """
    return spread_d2(_distribution(freq_GK))


def spread_d1(freq_XK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return D1 over the last axis, of estimates that need not be distributions."""
    return freq_XK.max(axis=-1) - freq_XK.min(axis=-1)


def spread_d2(freq_XK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return D2 over the last axis, of estimates that need not be distributions."""
    return np.sqrt(((freq_XK - 1 / freq_XK.shape[-1]) ** 2).sum(axis=-1))


@lru_cache(maxsize=64)
def fair_floor(k: int, n: int) -> Floor:
    """Return the mean D1 and D2 of a fair sampler of k attributes with n images per prompt.

    Simulated with a fixed seed over 200,000 prompts; the standard error is below 0.001 from n = 8.
    """
    if k < 2 or n < 1:
        raise ValueError(f"a floor needs 2 attributes and 1 image at least, got k={k}, n={n}")
    draws = np.random.default_rng([k, n]).multinomial(n, [1 / k] * k, size=FLOOR_DRAWS)
    freq = draws / n
    return Floor(float(d1(freq).mean()), float(d2(freq).mean()), n, k)


def _distribution(freq_GK: ArrayLike) -> NDArray[np.float64]:
    freq = np.asarray(freq_GK, dtype=np.float64)
    if freq.ndim != 2 or freq.shape[1] < 2:
        raise ValueError(f"frequencies must be (prompts, attributes >= 2), got {freq.shape}")
    sums = freq.sum(axis=1)
    if not np.allclose(sums[np.isfinite(sums)], 1) or (freq < 0).any():
        raise ValueError("frequencies must not be negative and must sum to 1 per prompt")
    return freq
