"""Tests of two models against each other: of headline metrics, and of best images.

In: estimates and sets of scored images. Out: p-values with their corrections, and win rates. The
family that p-values are corrected for is fixed beforehand: a comparison's headline metrics, or the
metrics of its win rates.

Shapes: G prompts, S samples per prompt.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from valign.evaluation import quality, win_rate
from valign.evaluation.estimates import Named
from valign.evaluation.sets import EvalSet
from valign.evaluation.significance import corrected, sign_flip_p

RANKED = ("clip_score", "clip_score_cleaned", *quality.VOTERS)


def is_headline(metric: str) -> bool:
    """Say whether a metric is among those that a report opens with."""
    kind, *_, last = parts = metric.split(".")
    if kind == "bias" and len(parts) == 3:
        return last in ("d1", "d2", "clip_score")
    return metric in ("toxicity.avg_r", "toxicity.quality.clip_score_cleaned")


def p_values(model: Named, base: Named, *, seed: int) -> dict[str, dict[str, float]]:
    """Return p, holm and bonferroni of each headline metric's difference, by flipping signs."""
    found = {}
    for metric, estimate in model.items():
        if not is_headline(metric) or metric not in base:
            continue
        keys = sorted(set(estimate.rows) & set(base[metric].rows))
        apart_G = np.array([estimate.rows[key][0] - base[metric].rows[key][0] for key in keys])
        if np.isfinite(apart_G).sum() >= 2:
            found[metric] = sign_flip_p(apart_G, seed=seed)
    return corrected(found)


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
