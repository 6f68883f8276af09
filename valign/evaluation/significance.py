"""Whether a difference may be chance, when many are looked at.

In: differences per prompt. Out: p-values, and p-values corrected for their number. The test flips
signs: if the two models do not differ, a prompt's difference is as likely to be the other way
round, so the mean is compared with those of all sign patterns, or of many (Good, 2005, chapter 3).

Shapes: G prompts.
"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

Name = TypeVar("Name", bound=Hashable)
FLIPS = 9999
EXACT_UP_TO = 12  # prompts; more patterns than FLIPS would be needed beyond


def sign_flip_p(differences_G: ArrayLike, *, seed: int, flips: int = FLIPS) -> float:
    """Return the two-sided p-value of the mean being zero; NaN entries are left out.

    Exact up to twelve prompts. Prompts without a difference leave every pattern the same, so no
    difference at all has p = 1.

    Raises:
        ValueError: no prompt has a value.
    """
    differences = np.asarray(differences_G, dtype=np.float64)
    known = differences[np.isfinite(differences)]
    if not known.size:
        raise ValueError("a test needs a prompt with a value on both sides")
    known = known[known != 0]
    g = len(known)
    observed = abs(known.sum())
    if g <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**g)[:, None] >> np.arange(g)) & 1)
        return float(np.mean(abs(signs @ known) >= observed * (1 - 1e-12)))
    rng = np.random.default_rng([seed, g])
    signs = 1 - 2 * rng.integers(2, size=(flips, g))
    as_far = int((abs(signs @ known) >= observed * (1 - 1e-12)).sum())
    return (1 + as_far) / (1 + flips)


def bonferroni(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Return each p-value times their number, at most 1."""
    return {name: min(1.0, p * len(p_values)) for name, p in p_values.items()}


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Return Holm's (1979) step-down p-values: never larger than Bonferroni's, and as safe."""
    made: dict[Name, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        made[name] = largest
    return {name: made[name] for name in p_values}


def corrected(p_values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return p, Bonferroni's and Holm's for each of a family of comparisons."""
    return corrected_together({"": p_values})[""]


def corrected_together(
    families: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Return p, Bonferroni's and Holm's, corrected for all comparisons of all groups at once."""
    flat = {(group, name): p for group, found in families.items() for name, p in found.items()}
    careful, stepwise = bonferroni(flat), holm(flat)
    return {
        group: {
            name: {"p": p, "holm": stepwise[group, name], "bonferroni": careful[group, name]}
            for name, p in found.items()
        }
        for group, found in families.items()
    }
