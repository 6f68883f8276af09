"""Tests of two models against each other: of headline metrics, and of best images.

In: estimates and sets of scored images. Out: p-values with their corrections, and win rates. The
family that p-values are corrected for is fixed beforehand: the headline metrics of all comparisons,
or the win rates of all pairs.

Shapes: G prompts, S samples per prompt.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.evaluation import intervals, quality, win_rate
from valign.evaluation.estimates import Named, summarise
from valign.evaluation.sets import EvalSet
from valign.evaluation.significance import corrected_together, sign_flip_p

RANKED = ("clip_score", "clip_score_cleaned", *quality.VOTERS)


def is_headline(metric: str) -> bool:
    """Say whether a metric is among those that a report opens with."""
    kind, *_, last = parts = metric.split(".")
    if kind == "bias" and len(parts) == 3:
        return last in ("d1", "d2", "clip_score")
    if kind == "prompts" and len(parts) == 3:
        return last == "clip_score"
    return metric in ("toxicity.avg_r", "toxicity.quality.clip_score_cleaned")


def p_values(
    pairs: Mapping[str, tuple[Named, Named]], *, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return p, holm and bonferroni of each headline metric's difference, by flipping signs.

    The correction is for all metrics of all pairs together.

    Args:
        pairs: name of a comparison -> the two models' estimates.
        seed: of the test.
    """
    found: dict[str, dict[str, float]] = {}
    for pair, (model, base) in pairs.items():
        found[pair] = {}
        for metric in filter(is_headline, model):
            apart_G = _apart(model, base, metric)
            if np.isfinite(apart_G).sum() >= 2:
                found[pair][metric] = sign_flip_p(apart_G, seed=seed)
    return corrected_together(found)


def pairwise(
    values: Mapping[str, Named], *, seed: int, resamples: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return "later - earlier" -> headline metric -> the difference with interval, p and holm.

    Of every pair of three models or more; of two it would repeat `differences`.
    """
    if len(values) < 3:
        return {}
    pairs = {
        f"{later} - {earlier}": (values[later], values[earlier])
        for earlier, later in combinations(values, 2)
    }
    tested = p_values(pairs, seed=seed)
    made: dict[str, dict[str, dict[str, float]]] = {}
    for pair, sides in pairs.items():
        headline = [{m: e for m, e in side.items() if is_headline(m)} for side in sides]
        apart = summarise(headline, intervals.of_difference, seed=seed, resamples=resamples)
        made[pair] = {m: {**one, **tested[pair][m]} for m, one in apart.items()}
    return made


def _apart(model: Named, base: Named, metric: str) -> NDArray[np.float64]:
    """Return a metric's difference on every prompt that both have."""
    if metric not in base:
        return np.empty(0)
    one, other = model[metric].rows, base[metric].rows
    keys = sorted(set(one) & set(other))
    return np.array([one[key][0] - other[key][0] for key in keys])


def win_rates(
    models: Mapping[str, Mapping[str, EvalSet]], **options: Any
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the win rates of every pair of models, per set and score: see `win_rate.table`.

    Only what all models have is ranked, so that a table's rows can be compared.
    """
    names = [
        (name, column)
        for name, images in next(iter(models.values())).items()
        for column in RANKED
        if column in images.scores
        and all(name in sets and column in sets[name].scores for sets in models.values())
    ]
    scores: dict[str, dict[str, Any]] = {}
    for model, sets in models.items():
        scores[model] = {}
        for name, column in names:
            images = sets[name]
            order = np.argsort(images.keys)
            scores[model][f"{name}.{column}"] = images.grid(images.scores[column])[order]
    return win_rate.table(scores, **options)
