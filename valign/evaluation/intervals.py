"""A mean over prompts with its 95% interval, and the difference of two such means.

Images of one prompt resemble each other, so the prompt is what is resampled: a percentile
bootstrap over prompts (Efron & Tibshirani, 1993, chapter 13). The resamples depend on the seed and
the number of prompts only, so two models measured on the same prompts are resampled alike and
their difference is paired. A prompt whose value is NaN is left out, and n says how many were not.

Shapes: G prompts, R resamples, V values of a prompt.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 5000
Statistic = Callable[[NDArray[np.float64], bool], NDArray[np.float64]]


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


def _first(mean_XV: NDArray[np.float64], _: bool) -> NDArray[np.float64]:
    return mean_XV[:, 0]


@dataclass(frozen=True, slots=True)
class Side:
    """What one model showed of each prompt, and the number that the mean over prompts makes.

    Attributes:
        rows_GV: V values per prompt; a row with a NaN is left out.
        statistic: means over prompts (X, V) -> (X,). Its second argument says whether they are of
            resamples; a statistic with an uncertainty of its own spreads it over those.
    """

    rows_GV: NDArray[np.float64]
    statistic: Statistic = _first

    @property
    def known_G(self) -> NDArray[np.bool_]:
        """Which prompts have a value."""
        return np.asarray(np.isfinite(self.rows_GV).all(axis=1))


def mean_interval(values_G: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the mean over prompts with its bootstrap interval.

    Raises:
        ValueError: fewer than two prompts have a value, so there is nothing to resample.
    """
    side = Side(_one_per_prompt(values_G)[:, None])
    return of_statistic(side, seed=seed, resamples=resamples)


def paired_difference(
    model_G: ArrayLike, base_G: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Return the mean of model minus base, paired by prompt, with its bootstrap interval.

    Raises:
        ValueError: the prompts are not as many on both sides, or fewer than two have both values.
    """
    return of_difference(*_sides(model_G, base_G), seed=seed, resamples=resamples)


def relative_change(
    model_G: ArrayLike, base_G: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval | None:
    """Return (mean of model) / (mean of base) - 1, both resampled together.

    -0.3 says that the model's mean lies 30% below the base's. Returns None where the base's mean
    is zero in the data or has not one sign in all resamples: a ratio to nothing has no interval.

    Raises:
        ValueError: as `paired_difference`.
    """
    return of_ratio(*_sides(model_G, base_G), seed=seed, resamples=resamples)


def of_statistic(side: Side, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return a statistic of the mean over prompts, with its interval; errors as `mean_interval`."""
    known = _known(side.known_G)
    value, replicates_R = _resampled(side, known, seed, resamples)
    return _interval(value, replicates_R, int(known.sum()))


def of_difference(model: Side, base: Side, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the difference of two such statistics; both are resampled together."""
    known = _known(_both_known(model, base))
    above, above_R = _resampled(model, known, seed, resamples)
    below, below_R = _resampled(base, known, seed, resamples)
    return _interval(above - below, above_R - below_R, int(known.sum()))


def of_ratio(model: Side, base: Side, *, seed: int, resamples: int = RESAMPLES) -> Interval | None:
    """Return the ratio of two such statistics, minus one; None as in `relative_change`."""
    known = _known(_both_known(model, base))
    below, below_R = _resampled(base, known, seed, resamples)
    if below == 0 or below_R.min() <= 0 <= below_R.max():
        return None
    above, above_R = _resampled(model, known, seed, resamples)
    return _interval(above / below - 1, above_R / below_R - 1, int(known.sum()))


def _one_per_prompt(values_G: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(values_G, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"give one value per prompt, got an array of shape {values.shape}")
    return values


def _sides(model_G: ArrayLike, base_G: ArrayLike) -> tuple[Side, Side]:
    return Side(_one_per_prompt(model_G)[:, None]), Side(_one_per_prompt(base_G)[:, None])


def _both_known(model: Side, base: Side) -> NDArray[np.bool_]:
    if len(model.rows_GV) != len(base.rows_GV):
        raise ValueError(
            f"{len(model.rows_GV)} prompts against {len(base.rows_GV)}; pair the same prompts"
        )
    return model.known_G & base.known_G


def _known(known_G: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if known_G.sum() < 2:
        raise ValueError(
            f"an interval over prompts needs at least 2 prompts with a value, got {known_G.sum()}; "
            "evaluate more prompts"
        )
    return known_G


def _resampled(
    side: Side, known_G: NDArray[np.bool_], seed: int, resamples: int
) -> tuple[float, NDArray[np.float64]]:
    """Return the statistic of the known prompts, and that of each of their resamples."""
    # Known prompts only are resampled, so every resample has as many values as the estimate.
    counts_RG = _resample(int(known_G.sum()), seed, resamples)
    rows_GV = side.rows_GV[known_G]
    value = side.statistic(rows_GV.mean(axis=0)[None], False)[0]
    return float(value), side.statistic(counts_RG @ rows_GV / counts_RG.shape[1], True)


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
