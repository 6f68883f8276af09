"""Two results of evaluations: what changed from the first to the second, and whether by chance.

Where both give a metric's values per prompt, and at least half of either's prompts are in both,
those are paired and resampled, the test flips signs, and all numbers are of them alone. Elsewhere
the difference's interval is put together from the two intervals as if they were independent and
normal, which is too wide where the prompts are the same. Every line says which. p-values are
corrected by Holm's method, headline metrics as one family and the others as another. What depends
on the number of images is not compared where the two had different ones.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from valign.evaluation import intervals, significance
from valign.evaluation.comparisons import is_headline
from valign.evaluation.describe import ORACLE, Numbers, Results

SIGNIFICANT = 0.05
_WIDTH = 2 * 1.959964  # of a 95% interval, in standard errors
# these come out higher or lower by the number of images alone
_POOLED = ("pooled_d1", "pooled_d2", "pooled_d1_adjusted", "pooled_d2_adjusted")
_BY_COUNT = ("d1", "d2", *_POOLED, "max", "prob")
_SHARED = 0.5  # of either's prompts, at least, to pair them


@dataclass(frozen=True, slots=True)
class Change:
    """How one metric changed.

    Attributes:
        metric: its name.
        before, after: its value in the first and in the second results, of the paired prompts.
        difference: value, low and high of after minus before, and n, the prompts it rests on.
        paired: whether prompts were paired.
        p, holm: of no change; corrected.
    """

    metric: str
    before: float
    after: float
    difference: Numbers
    paired: bool
    p: float
    holm: float

    @property
    def significant(self) -> bool:
        """Whether a change is beyond chance after the correction."""
        return self.holm <= SIGNIFICANT


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes of one model.

    Attributes:
        changes: of every metric that both results have, headline metrics first.
        notes: what was not compared, and what else differs between the two.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def compare(before: Results, after: Results, model: str, *, other: str = "") -> Comparison:
    """Return what changed of a model.

    Args:
        before, after: results of two evaluations.
        model: the model in the second results.
        other: the model in the first results; none: of the same name.

    Raises:
        LookupError: the results have no such model.
    """
    other = other or model
    for results, name in ((before, other), (after, model)):
        if name not in results["models"]:
            known = ", ".join(results["models"])
            raise LookupError(f"there is no model {name!r}; there is {known}")
    old, new = before["models"][other], after["models"][model]
    counted = _other_counts(before["counts"].get(other, {}), after["counts"].get(model, {}))
    k_before, k_after = (_measured(results).get("k") for results in (before, after))
    shared = [m for m in new if m in old]
    left_out = [m for m in shared if _incomparable(m, counted, k_before != k_after)]
    pairs = _paired_values(before, other), _paired_values(after, model)
    seed = int(_measured(after).get("seed", 0))
    found = {m: _change(m, old[m], new[m], pairs, seed) for m in shared if m not in left_out}
    holm: dict[str, float] = {}
    for headline in (True, False):
        family = {m: each[-1] for m, each in found.items() if is_headline(m) == headline}
        holm |= significance.holm(family)
    ordered = sorted(found, key=lambda m: (not is_headline(m), m.startswith(ORACLE), m))
    changes = tuple(Change(m, *found[m], holm[m]) for m in ordered)
    notes = [*_notes(before, after, left_out, old, new), *_overlaps(changes, old, new)]
    return Comparison(changes, tuple(notes))


def _overlaps(changes: Sequence[Change], old: Results, new: Results) -> Iterator[str]:
    """Yield on how few prompts changes rest, where that is not all that both results have."""
    found: dict[tuple[int, int, int, bool], list[str]] = {}
    for change in changes:
        first, second = int(old[change.metric]["n"]), int(new[change.metric]["n"])
        shared = int(change.difference["n"])
        if first != second or (change.paired and shared != first):
            rests = (first, second, shared, change.paired)
            found.setdefault(rests, []).append(change.metric)
    for (first, second, shared, paired), metrics in found.items():
        how = f"numbers are of the {shared} in both alone" if paired else "they are not paired"
        yield (
            f"{first} prompts before and {second} after: {how} ({len(metrics)} metrics, such as "
            f"{metrics[0]})"
        )


def _change(
    metric: str,
    old: Numbers,
    new: Numbers,
    pairs: tuple[Mapping[str, Mapping[str, float]], ...],
    seed: int,
) -> tuple[float, float, dict[str, float | int], bool, float]:
    """Return before, after, the difference, whether it is paired, and p."""
    first, second = (side.get(metric, {}) for side in pairs)
    keys = sorted(first.keys() & second.keys())
    if len(keys) >= max(2, _SHARED * len(first), _SHARED * len(second)):
        a_G, b_G = (np.array([side[key] for key in keys]) for side in (first, second))
        made = intervals.paired_difference(b_G, a_G, seed=seed)
        p = significance.sign_flip_p(b_G - a_G, seed=seed)
        if len(keys) == len(first) == len(second):
            return old["value"], new["value"], made.as_dict(), True, p
        return float(a_G.mean()), float(b_G.mean()), made.as_dict(), True, p
    value = new["value"] - old["value"]
    error = math.hypot(*((side["high"] - side["low"]) / _WIDTH for side in (old, new)))
    p = math.erfc(abs(value) / error / math.sqrt(2)) if error else float(value == 0)
    half = error * _WIDTH / 2
    n = int(min(old["n"], new["n"]))
    difference = {"value": value, "low": value - half, "high": value + half, "n": n}
    return old["value"], new["value"], difference, False, p


def _paired_values(results: Results, model: str) -> dict[str, dict[str, float]]:
    """Return metric -> prompt -> value, where results keep them."""
    kept = results.get("per_prompt", {})
    return {
        metric: {
            prompt: value
            for prompt, value in zip(kept["prompts"], values, strict=True)
            if value is not None
        }
        for metric, values in kept.get("values", {}).get(model, {}).items()
    }


def _measured(results: Results) -> Mapping[str, Any]:
    return results["provenance"].get("measurement", {})


def _other_counts(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Return the sets that have another number of images per prompt."""
    key = "images_per_prompt"
    return {name for name in new if name in old and new[name][key] != old[name][key]}


def _incomparable(metric: str, sets: set[str], other_k: bool) -> bool:
    parts = metric.removeprefix(ORACLE).split(".")
    name = "toxicity" if parts[0] == "toxicity" else parts[1]
    grouped = parts[0] == "toxicity" and parts[-1] in ("max", "prob")
    return (name in sets and parts[-1] in _BY_COUNT) or (other_k and grouped)


def _notes(
    before: Results, after: Results, left_out: list[str], old: Numbers, new: Numbers
) -> Iterator[str]:
    if left_out:
        yield (
            f"not compared, as the numbers of images differ: {', '.join(left_out)}; "
            "read the corrected ones"
        )
    for which, missing in (("first", new.keys() - old.keys()), ("second", old.keys() - new.keys())):
        if missing:
            yield f"{len(missing)} metrics are not in the {which} results, such as {min(missing)}"
    settings = [dict(_flat(results["provenance"])) for results in (before, after)]
    names = sorted(settings[0].keys() | settings[1].keys())
    for name in names:
        one, two = (side.get(name) for side in settings)
        if one != two:
            yield f"{name}: {one!r} before, {two!r} after"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
