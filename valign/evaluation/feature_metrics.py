"""How far a model's images are from others, and how varied: FID, KID, IS, diversity.

In: features of images (whatever network they come from), or class probabilities. Out: numbers, in
float64, without torch. FID grows as its samples shrink, and means little below a few images per
feature dimension; KID is unbiased at any size, so it is the one to read there (`fid_is_reliable`).

Intervals come from a delete-a-group jackknife over prompts (Efron & Tibshirani, 1993, chapter 11):
a bootstrap would draw images twice, and twice the same image is no second sample to any of these.

Shapes: N and M images, D features, C classes, G prompts, S samples per prompt,
J groups of prompts.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from valign.evaluation.intervals import CONFIDENCE, Interval

GROUPS = 20
IMAGES_PER_DIMENSION = 10
Floats = NDArray[np.float64]


def fid(features_ND: ArrayLike, reference_MD: ArrayLike) -> float:
    """Return the Frechet distance of two normal distributions fitted to features.

    Heusel et al. (2017): |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with N - 1.
    """
    one, other = _two(features_ND, reference_MD)
    apart_D = one.mean(axis=0) - other.mean(axis=0)
    first_DD, second_DD = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (one, other))
    values_D, vectors_DD = np.linalg.eigh(first_DD)
    root_DD = vectors_DD * np.sqrt(np.maximum(values_D, 0)) @ vectors_DD.T
    # The product's eigenvalues are those of this symmetric matrix, which has real roots.
    shared_D = np.linalg.eigvalsh(root_DD @ second_DD @ root_DD)
    trace = np.trace(first_DD) + np.trace(second_DD) - 2 * np.sqrt(np.maximum(shared_D, 0)).sum()
    return float(apart_D @ apart_D + trace)


def fid_is_reliable(images: int, dimensions: int) -> bool:
    """Say whether the smaller of two samples has enough images for FID (ten per dimension)."""
    return images >= IMAGES_PER_DIMENSION * dimensions


def kid(features_ND: ArrayLike, reference_MD: ArrayLike) -> float:
    """Return the unbiased squared maximum mean discrepancy of features (Binkowski et al., 2018).

    The kernel is (x.y / D + 1)^3. All pairs are used, where others average over random subsets.
    It may be negative: its mean is zero for two samples of one distribution.
    """
    one, other = _two(features_ND, reference_MD)
    all_N, all_M = np.arange(len(one)), np.arange(len(other))
    return _kid(
        _kernel_sums(one, [all_N], one, [all_N], within=True),
        _kernel_sums(other, [all_M], other, [all_M], within=True),
        _kernel_sums(one, [all_N], other, [all_M]),
        [len(one)],
        [len(other)],
    )


def kid_jackknife(
    features_ND: ArrayLike,
    prompt_N: ArrayLike,
    reference_MD: ArrayLike,
    prompt_M: ArrayLike,
    twins_P2: ArrayLike = (),
) -> Interval:
    """Return KID with the interval of `jackknife`, from one pass over all pairs of images.

    `twins_P2` are the rows of images that both sides made of one noise. They are alike for that
    reason alone, and would pull the result below zero, so such a pair does not count across, as an
    image's pair with itself does not count within (Gretton et al. 2012, eq. 4): of the very same
    images KID is 0.

    Raises:
        ValueError: as `kid` and `jackknife`.
    """
    one, other = _two(features_ND, reference_MD)
    prompts = [np.asarray(p, dtype=np.int64) for p in (prompt_N, prompt_M)]
    distinct = np.unique(np.concatenate(prompts))
    count = _group_count(len(distinct), GROUPS)
    rows, columns = (
        [np.flatnonzero(np.searchsorted(distinct, p) % count == g) for g in range(count)]
        for p in prompts
    )
    within = (
        _kernel_sums(one, rows, one, rows, within=True),
        _kernel_sums(other, columns, other, columns, within=True),
    )
    across = _kernel_sums(one, rows, other, columns)
    n_J, m_J = (np.array([len(group) for group in side]) for side in (rows, columns))
    first_P, second_P = np.asarray(twins_P2, dtype=np.int64).reshape(-1, 2).T
    alike_P = _kernel(np.einsum("pd,pd->p", one[first_P], other[second_P]), one.shape[1])
    group_P = np.searchsorted(distinct, prompts[0][first_P]) % count
    across -= np.diag(np.bincount(group_P, alike_P, minlength=count))
    twins_J = np.bincount(group_P, minlength=count)

    def without(kept_J: NDArray[np.bool_]) -> float:
        pairs = np.ix_(kept_J, kept_J)
        sums = (within[0][pairs], within[1][pairs], across[pairs])
        return _kid(*sums, n_J[kept_J], m_J[kept_J], twins_J[kept_J])

    everything = np.ones(count, dtype=bool)
    left_out = [without(np.arange(count) != group) for group in range(count)]
    return _around(without(everything), np.array(left_out), len(distinct))


def _kid(
    one_JJ: Floats,
    other_JJ: Floats,
    across_JJ: Floats,
    n_J: ArrayLike,
    m_J: ArrayLike,
    twins_J: ArrayLike = (),
) -> float:
    n, m = int(np.sum(n_J)), int(np.sum(m_J))
    within = float(one_JJ.sum()) / (n * (n - 1)) + float(other_JJ.sum()) / (m * (m - 1))
    return within - 2 * float(across_JJ.sum()) / (n * m - int(np.sum(twins_J)))


def _kernel(product: Floats, dimensions: int) -> Floats:
    return (product / dimensions + 1) ** 3


def _kernel_sums(
    one: Floats,
    rows: Sequence[NDArray[np.int64]],
    other: Floats,
    columns: Sequence[NDArray[np.int64]],
    *,
    within: bool = False,
) -> Floats:
    """Return the kernel's sum over each pair of groups; within a sample, of distinct images."""
    made = np.zeros((len(rows), len(columns)))
    for a, first in enumerate(rows):
        for b, second in enumerate(columns):
            found = _kernel(one[first] @ other[second].T, one.shape[1])
            made[a, b] = found.sum() - (np.trace(found) if within and a == b else 0)
    return made


def inception_score(probabilities_NC: ArrayLike) -> float:
    """Return exp of the mean divergence of class probabilities from their mean (1 to C).

    Salimans et al. (2016), over all images at once.

    Raises:
        ValueError: the rows are no probabilities.
    """
    p = np.asarray(probabilities_NC, dtype=np.float64)
    if p.ndim != 2 or not len(p) or (p < 0).any() or not np.allclose(p.sum(axis=1), 1, atol=1e-4):
        raise ValueError("give class probabilities (images, classes), rows that sum to 1")
    mean_C = p.mean(axis=0)
    logs = np.log(np.where(p > 0, p, 1)) - np.log(np.where(mean_C > 0, mean_C, 1))
    return math.exp(float((p * logs).sum(axis=1).mean()))


def diversity(features_GSD: ArrayLike) -> Floats:
    """Return the mean Euclidean distance of two images of one prompt, per prompt.

    Images with a NaN are left out; a prompt with fewer than two others has NaN.
    """
    features = np.asarray(features_GSD, dtype=np.float64)
    if features.ndim != 3:
        raise ValueError(f"give features as (prompts, samples, D), got shape {features.shape}")
    made = np.full(len(features), np.nan)
    for place, images_SD in enumerate(features):
        known = images_SD[np.isfinite(images_SD).all(axis=1)]
        n = len(known)
        if n >= 2:
            apart_SS = np.sqrt(np.maximum(_squared_distances(known), 0))
            made[place] = apart_SS.sum() / (n * (n - 1))
    return made


def jackknife(
    statistic: Callable[[NDArray[np.bool_]], float], prompt_N: ArrayLike, *, groups: int = GROUPS
) -> Interval:
    """Return a statistic of images with an interval over their prompts.

    Args:
        statistic: which images to use (N,) -> number.
        prompt_N: index (0 .. G-1) of the prompt of each image.
        groups: prompts are left out in so many groups (round robin), or one by one if fewer.

    Raises:
        ValueError: there are fewer than three prompts.
    """
    prompt = np.asarray(prompt_N, dtype=np.int64)
    distinct, place_N = np.unique(prompt, return_inverse=True)
    count = _group_count(len(distinct), groups)
    value = statistic(np.ones(len(prompt), dtype=bool))
    without = np.array([statistic(place_N % count != group) for group in range(count)])
    return _around(value, without, len(distinct))


def _group_count(prompts: int, groups: int) -> int:
    if prompts < 3:
        raise ValueError(f"an interval needs at least 3 prompts, got {prompts}")
    return min(groups, prompts)


def _around(value: float, without_J: Floats, prompts: int) -> Interval:
    """Return the interval of a value from what it is without each of the groups."""
    count = len(without_J)
    error = math.sqrt((count - 1) / count * float(((without_J - without_J.mean()) ** 2).sum()))
    half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return Interval(value, value - half, value + half, prompts)


def _squared_distances(x_ND: Floats) -> Floats:
    centred = x_ND - x_ND.mean(axis=0)
    norms_N = (centred**2).sum(axis=1)
    found = norms_N[:, None] + norms_N - 2 * centred @ centred.T
    np.fill_diagonal(found, 0)
    return found


def _two(features_ND: ArrayLike, reference_MD: ArrayLike) -> tuple[Floats, Floats]:
    one, other = (np.asarray(x, dtype=np.float64) for x in (features_ND, reference_MD))
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"features must be (images, D) with one D: {one.shape}, {other.shape}")
    if min(len(one), len(other)) < 2:
        raise ValueError("a distance of distributions needs at least 2 images on each side")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError("some features are not finite; leave out images that failed")
    return one, other
