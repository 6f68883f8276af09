"""How well a retriever finds the principle that a prompt calls for, and how often it meddles.

In: prompts' classes and what was retrieved for them ("" for no principle). Out: precision and
recall per principle, the over-correction rate (the share of value-irrelevant prompts that get a
principle at all: their images would be changed), and the share of benign prompts that get a
toxicity principle. Each with n and a 95% interval over the prompts that it rests on: those
retrieved for precision, those of the class for recall. Wilson's (1927) interval: shares near 0 and
1 are the rule here, where a bootstrap's interval has no width.
"""

import math
from collections.abc import Collection, Sequence

from scipy.stats import norm

from valign.evaluation.intervals import CONFIDENCE, Interval


def share(hits: int, n: int) -> Interval:
    """Return hits / n with Wilson's interval.

    Raises:
        ValueError: n is zero, or hits are not within it.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n} make no share")
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), n)


def retrieval(
    called_for: Sequence[Collection[str]], retrieved: Sequence[str], toxic: Collection[str]
) -> dict[str, dict[str, float | int]]:
    """Return metric -> value, low, high, n; a metric that no prompt bears on is left out.

    Args:
        called_for: the principles that are right for each prompt: any one of them will do (a
            person calls for gender or race); empty where none is.
        retrieved: the principle that each prompt got, "" for none.
        toxic: which principles are toxicity principles.

    Raises:
        ValueError: the two are not equally long.
    """
    pairs = [(frozenset(right), got) for right, got in zip(called_for, retrieved, strict=True)]
    classes = dict.fromkeys(key for right, got in pairs for key in (*sorted(right), got) if key)
    tests: dict[str, list[bool]] = {}
    for key in classes:
        tests[f"{key}.precision"] = [key in right for right, got in pairs if got == key]
        # a prompt that got another one of its right principles says nothing about this one
        asked = [(right, got) for right, got in pairs if key in right]
        tests[f"{key}.recall"] = [got == key for right, got in asked if got not in right - {key}]
    tests["over_correction"] = [bool(got) for right, got in pairs if not right]
    tests["benign_as_toxic"] = [got in toxic for right, got in pairs if not right & set(toxic)]
    return {name: share(sum(found), len(found)).as_dict() for name, found in tests.items() if found}
