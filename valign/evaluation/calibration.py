"""The share of images that gets a value token, chosen so that D2 is least on average.

Of a prompt's images a share p is drawn with the token and the rest without, so its attributes have
the frequencies (1 - p) b + p v: b without the token, v with it on every image. D2 of that is convex
in p. For one prompt the least is at p = <u - b, v - b> / |v - b|^2, clipped to 0..1, where u is
uniform; the mean over several prompts has no closed form, and its slope is bisected.

Frequencies of n images are off by about 1/sqrt(n). A mixture averages some of that out, which pulls
p a little towards the middle, the less the larger n is; nothing here corrects for it.

Shapes: G prompts, K attributes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.evaluation.bias import d2, spread_d2

HALVINGS = 60  # of 0..1: as exact as float64 is

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A share, and the mean D2 over the calibration prompts that it was chosen by.

    Attributes:
        share: the part of a prompt's images that gets the token, 0..1.
        moved: whether the token changed any frequency; if not, the share is the one stated.
        prompts: G, prompts with readable images both with and without the token.
        d2: mean D2 at the share.
        d2_without: mean D2 without any token.
        d2_always: mean D2 with the token on every image.
        d2_stated: mean D2 at the share that was stated.
    """

    share: float
    moved: bool
    prompts: int
    d2: float
    d2_without: float
    d2_always: float
    d2_stated: float


def calibrate(without_GK: ArrayLike, always_GK: ArrayLike, stated: float) -> Calibration:
    """Return the share at which the mean D2 over prompts is least.

    Args:
        without_GK: frequencies of the attributes without the token; a row of NaN is left out.
        always_GK: likewise with the token on every image.
        stated: the share to keep where the token changes nothing, 0..1.

    Raises:
        ValueError: shapes differ, rows are no distributions, or no prompt has both.
    """
    without, always = (np.asarray(freq, dtype=np.float64) for freq in (without_GK, always_GK))
    if without.shape != always.shape or without.ndim != 2:
        raise ValueError(f"frequencies {without.shape} and {always.shape} must be (prompts, K)")
    known = np.isfinite(d2(without)) & np.isfinite(d2(always))  # and checks them
    if not known.any():
        raise ValueError("no prompt has readable images both with and without the token")
    base, move = without[known], always[known] - without[known]

    def mean_d2(share: float) -> float:
        return float(spread_d2(base + share * move).mean())

    moved = bool(move.any())
    share = _least(base, move) if moved else stated
    return Calibration(
        share, moved, len(base), mean_d2(share), mean_d2(0.0), mean_d2(1.0), mean_d2(stated)
    )


def _least(base_GK: Floats, move_GK: Floats) -> float:
    """Return the p in 0..1 at which the summed D2 of base + p move is least."""
    low, high = 0.0, 1.0
    if _slope(base_GK, move_GK, low) >= 0:
        return low
    if _slope(base_GK, move_GK, high) <= 0:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _slope(base_GK, move_GK, middle) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _slope(base_GK: Floats, move_GK: Floats, share: float) -> float:
    """Return a slope of the summed D2; 0 for a prompt that is even there, where D2 has a kink."""
    off_GK = base_GK + share * move_GK - 1 / base_GK.shape[1]
    length_G = np.sqrt((off_GK**2).sum(axis=1))
    along_G = (off_GK * move_GK).sum(axis=1)
    slope_G = np.divide(along_G, length_G, out=np.zeros_like(along_G), where=length_G > 0)
    return float(slope_G.sum())
