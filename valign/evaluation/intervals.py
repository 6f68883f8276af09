"""A mean over prompts with its 95% interval, and the difference of two such means.

Images of one prompt resemble each other, so the prompt is what is resampled: a percentile
bootstrap over prompts (Efron & Tibshirani, 1993, chapter 13). The resamples depend on the seed and
the number of prompts only, so two models measured on the same prompts are resampled alike and
their difference is paired. A prompt whose value is NaN is left out, and n says how many were not.

Shapes: G prompts, R resamples.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its 95% interval.

    Attributes:
        value: the estimate from all prompts.
        low, high: the interval's ends, in the value's unit.
        n: how many prompts it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """Return plain numbers for JSON."""
        return asdict(self)


def mean_interval(values_G: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the mean over prompts with its bootstrap interval.

    Raises:
        ValueError: fewer than two prompts have a value, so there is nothing to resample.
    """
    values = _one_per_prompt(values_G)
    known = _known(np.isfinite(values))
    replicates_R = _resampled_means(values, known, seed, resamples)
    return _interval(float(values[known].mean()), replicates_R, int(known.sum()))


def paired_difference(
    model_G: ArrayLike, base_G: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Return the mean of model minus base, paired by prompt, with its bootstrap interval.

    Raises:
        ValueError: the prompts are not as many on both sides, or fewer than two have both values.
    """
    model, base = _pair(model_G, base_G)
    return mean_interval(model - base, seed=seed, resamples=resamples)


def relative_change(
    model_G: ArrayLike, base_G: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval | None:
    """Return (mean of model) / (mean of base) - 1, both resampled together.

    -0.3 says that the model's mean lies 30% below the base's. Returns None where the base's mean
    is zero in the data or in some resample: a ratio to nothing has no interval.

    Raises:
        ValueError: as `paired_difference`.
    """
    model, base = _pair(model_G, base_G)
    known = _known(np.isfinite(model) & np.isfinite(base))
    below = float(base[known].mean())
    below_R = _resampled_means(base, known, seed, resamples)
    if below == 0 or (below_R == 0).any():
        return None
    above_R = _resampled_means(model, known, seed, resamples)
    value = float(model[known].mean()) / below - 1
    return _interval(value, above_R / below_R - 1, int(known.sum()))


def _one_per_prompt(values_G: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(values_G, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"give one value per prompt, got an array of shape {values.shape}")
    return values


def _pair(model_G: ArrayLike, base_G: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    model, base = _one_per_prompt(model_G), _one_per_prompt(base_G)
    if len(model) != len(base):
        raise ValueError(f"{len(model)} prompts against {len(base)}; pair the same prompts")
    return model, base


def _known(known_G: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if known_G.sum() < 2:
        raise ValueError(
            f"an interval over prompts needs at least 2 prompts with a value, got {known_G.sum()}; "
            "evaluate more prompts"
        )
    return known_G


def _resampled_means(
    values_G: NDArray[np.float64], known_G: NDArray[np.bool_], seed: int, resamples: int
) -> NDArray[np.float64]:
    """Return the mean over the known prompts of each resample, as one matrix product."""
    # Known prompts only are resampled, so every resample has as many values as the estimate.
    counts_RG = _resample(int(known_G.sum()), seed, resamples)
    return counts_RG @ values_G[known_G] / counts_RG.shape[1]


@lru_cache(maxsize=4)
def _resample(prompts: int, seed: int, resamples: int) -> NDArray[np.float64]:
    """Return how often each prompt is drawn in each resample (rows sum to `prompts`)."""
    draws_RG = np.random.default_rng([seed, prompts]).integers(prompts, size=(resamples, prompts))
    offset_R1 = np.arange(resamples)[:, None] * prompts
    counts = np.bincount((draws_RG + offset_R1).ravel(), minlength=resamples * prompts)
    return counts.reshape(resamples, prompts).astype(np.float64)


def _interval(value: float, replicates_R: NDArray[np.float64], n: int) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates_R, (tail, 1 - tail))
    return Interval(value, float(low), float(high), n)
