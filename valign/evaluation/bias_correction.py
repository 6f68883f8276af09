"""D1 and D2 without the part that sampling adds, and without a classifier's known errors.

What a prompt's n images show is more uneven than the model is. The bias of a metric is estimated
by a parametric bootstrap (Efron & Tibshirani, 1993, chapter 10): draw n images anew from assumed
frequencies and see by how much the metric of the draws exceeds that of the assumption. Observed
frequencies would be a poor assumption, being more spread out than the true ones, so they are first
shrunk towards their mean over prompts until their variance is what is left when the variance of
sampling is taken away (Efron & Morris, 1973). Where a confusion matrix is given, the draws pass
through it and its inverse is applied to what was classified, so the correction covers what the
inversion adds too.

A corrected value may be negative for one prompt; its mean over prompts is the number to read.

Shapes: G prompts, D distinct counts among them, K attributes, B draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.evaluation.bias import spread_d1, spread_d2

DRAWS = 400
NEAREST_SINGULAR = 0.1  # least singular value of a matrix that is inverted
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Corrected:
    """Corrected metrics per prompt; NaN for prompts with fewer than two readable images.

    Attributes:
        d1_G, d2_G: D1 and D2, corrected.
        d2_squared_G: the unbiased estimate of D2 squared.
    """

    d1_G: Floats
    d2_G: Floats
    d2_squared_G: Floats


def corrected(
    counts_GK: ArrayLike,
    confusion_KK: ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Corrected:
    """Return D1 and D2 per prompt, corrected for sampling and, if asked, for misclassification.

    Args:
        counts_GK: images of each attribute, as classified, per prompt.
        confusion_KK: share of the images of attribute i that are classified as j; none: no errors.
        seed: of the bootstrap's draws.
        draws: how many sets of images are drawn per prompt, on average.

    Raises:
        ValueError: negative counts, another shape, or a matrix that cannot be inverted.
    """
    counts = np.asarray(counts_GK, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[1] < 2 or (counts < 0).any():
        raise ValueError(
            f"counts must be (prompts, attributes >= 2), none negative: {counts.shape}"
        )
    k = counts.shape[1]
    forward_KK = np.eye(k) if confusion_KK is None else np.asarray(confusion_KK, np.float64)
    back_KK = inverse(forward_KK)
    n_G = counts.sum(axis=1)
    known = n_G >= 2
    made = Corrected(*(np.full(len(counts), np.nan) for _ in range(3)))
    if not known.any():
        return made
    # Prompts with the same counts share their draws, so the order of prompts plays no part.
    distinct_DK, place_G, times_D = np.unique(
        counts[known], axis=0, return_inverse=True, return_counts=True
    )
    n_D = distinct_DK.sum(axis=1)
    seen_DK = distinct_DK / n_D[:, None]
    freq_DK = seen_DK @ back_KK
    spread_D = (seen_DK * (back_KK**2).sum(axis=1)).sum(axis=1) - (freq_DK**2).sum(axis=1)
    noise_D = spread_D / (n_D - 1)
    assumed_DK = _shrunk(freq_DK, noise_D, times_D)
    classified_DK = assumed_DK @ forward_KK
    classified_DK /= classified_DK.sum(axis=1, keepdims=True)
    rng = np.random.default_rng([seed, k])
    each = draws * len(place_G) // len(n_D)
    drawn_BDK = rng.multinomial(n_D.astype(np.int64), classified_DK, size=(each, len(n_D)))
    drawn_BDK = (drawn_BDK / n_D[:, None]) @ back_KK
    for metric, out_G in ((spread_d1, made.d1_G), (spread_d2, made.d2_G)):
        added_D = metric(drawn_BDK).mean(axis=0) - metric(assumed_DK)
        out_G[known] = (metric(freq_DK) - added_D)[place_G]
    made.d2_squared_G[known] = (spread_d2(freq_DK) ** 2 - noise_D)[place_G]
    return made


def inverse(confusion_KK: ArrayLike) -> Floats:
    """Return the inverse of a confusion matrix whose rows sum to one.

    Raises:
        ValueError: it is no such matrix, or so near to singular that nothing can be told apart.
    """
    matrix = np.asarray(confusion_KK, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion matrix is square, not {matrix.shape}")
    if (matrix < 0).any() or not np.allclose(matrix.sum(axis=1), 1):
        raise ValueError("the rows of a confusion matrix must be shares that sum to 1")
    if np.linalg.svd(matrix, compute_uv=False)[-1] < NEAREST_SINGULAR:
        raise ValueError(
            "the classifier hardly tells some attributes apart, so its errors cannot be taken out; "
            "use a better classifier"
        )
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _shrunk(freq_DK: Floats, noise_D: Floats, times_D: NDArray[np.int64]) -> Floats:
    """Return distributions round the same mean whose variance is without that of sampling."""
    prompts = times_D.sum()
    mean_K = times_D @ freq_DK / prompts
    apart_DK = freq_DK - mean_K
    seen = times_D @ (apart_DK**2).sum(axis=1) / max(1, prompts - 1)
    kept = max(0.0, seen - times_D @ noise_D / prompts) / seen if seen > 0 else 0.0
    return _to_simplex(mean_K + np.sqrt(min(1.0, kept)) * apart_DK)


def _to_simplex(points_GK: Floats) -> Floats:
    """Return the nearest distributions (Duchi et al., 2008, figure 1)."""
    k = points_GK.shape[1]
    sorted_GK = -np.sort(-points_GK, axis=1)
    excess_GK = (np.cumsum(sorted_GK, axis=1) - 1) / np.arange(1, k + 1)
    last_G = (sorted_GK > excess_GK).sum(axis=1) - 1
    theta_G1 = np.take_along_axis(excess_GK, last_G[:, None], axis=1)
    return np.maximum(points_GK - theta_G1, 0)
