"""Which of two models makes the better best image of a few: win rates (BalancedDPO section 5).

Of k images of a prompt, the best one by a metric stands for the model. The model with the higher
best wins the prompt; a tie is half a win. With more than k images per prompt, every group of k
consecutive samples is a match of its own and the prompt's win is their mean. Win rates are 0..1,
and those of a pair of models add up to 1.

Shapes: G prompts, S samples per prompt, J groups of k.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.evaluation import intervals
from valign.evaluation.significance import corrected_together, sign_flip_p
from valign.evaluation.toxicity import group_highest, row_mean

BEST_OF = 5
Floats = NDArray[np.float64]


def best(scores_GS: ArrayLike, *, k: int = BEST_OF) -> Floats:
    """Return the highest score of every group of k, (G, J); NaN for a group without any.

    Samples beyond the last full group are left out; with fewer than k, all make one group.
    """
    scores = np.asarray(scores_GS, dtype=np.float64)
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"give the scores as (prompts, samples), got shape {scores.shape}")
    size = min(k, scores.shape[1])
    return group_highest(scores[:, : scores.shape[1] // size * size], size)


def wins(model_GS: ArrayLike, other_GS: ArrayLike, *, k: int = BEST_OF) -> Floats:
    """Return the share of its matches that a model wins per prompt; NaN without any.

    Raises:
        ValueError: the two have other prompts or other numbers of images.
    """
    model_GJ, other_GJ = best(model_GS, k=k), best(other_GS, k=k)
    if np.shape(model_GS) != np.shape(other_GS):
        raise ValueError(
            f"{np.shape(model_GS)} scores against {np.shape(other_GS)}; the best of more images "
            "is better by chance, so give both models as many images of the same prompts"
        )
    played_GJ = np.isfinite(model_GJ) & np.isfinite(other_GJ)
    won_GJ = np.where(played_GJ, 0.5 + 0.5 * np.sign(model_GJ - other_GJ), np.nan)
    return row_mean(won_GJ)


def table(
    models: Mapping[str, Mapping[str, ArrayLike]],
    *,
    k: int = BEST_OF,
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the win rate of every model against every other one.

    Args:
        models: model -> metric -> scores (G, S), of the same prompts in the same order.
        k: how many images a match is between.
        seed: of the bootstrap and the test.
        resamples: how many resamples of the prompts.

    Returns:
        "later - earlier" for each pair in the models' order, metric -> value, low, high, n
        (prompts), p of no preference, and holm and bonferroni: p corrected for the metrics of all
        pairs together. Metrics that one of the two lacks, or that fewer than two prompts have,
        are left out.
    """
    played: dict[str, dict[str, Floats]] = {}
    for earlier, later in combinations(models, 2):
        shared = [metric for metric in models[later] if metric in models[earlier]]
        won = {m: wins(models[later][m], models[earlier][m], k=k) for m in shared}
        known = {m: won_G for m, won_G in won.items() if np.isfinite(won_G).sum() >= 2}
        played[f"{later} - {earlier}"] = known
    tested = corrected_together(
        {
            pair: {m: sign_flip_p(won_G - 0.5, seed=seed) for m, won_G in won.items()}
            for pair, won in played.items()
        }
    )
    return {
        pair: {
            m: {
                **intervals.mean_interval(won_G, seed=seed, resamples=resamples).as_dict(),
                **tested[pair][m],
            }
            for m, won_G in won.items()
        }
        for pair, won in played.items()
    }
