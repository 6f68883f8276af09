"""Which images of one prompt meet in a vote: all of them, or those that a ranking picks.

In: images as row numbers with the prompt each belongs to. Out: pairs of rows, the lower row first,
so that the place in a pair says nothing about quality. With two images per prompt all strategies
are the same pair.

Shapes: N images, C candidate pairs.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Strategy = Literal["all", "best_worst", "adjacent"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


def all_pairs(group_N: ArrayLike) -> NDArray[np.int64]:
    """Return rows_C2 of every two images of the same group, ordered by group and row.

    Args:
        group_N: index of each image's prompt, not negative.
    """
    group = np.asarray(group_N, np.int64).reshape(-1)
    if (group < 0).any():
        raise ValueError("groups must not be negative")
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    found = [np.zeros((0, 2), np.int64)]
    for rows in np.split(order, starts):
        first, second = np.triu_indices(len(rows), k=1)
        found.append(np.stack([rows[first], rows[second]], axis=1))
    return np.concatenate(found)


def choose(
    rows_C2: NDArray[np.int64], group_N: ArrayLike, verdict_C: ArrayLike, strategy: Strategy
) -> NDArray[np.int64]:
    """Return the numbers of the candidate pairs to keep, in rising order.

    The images of a group are ranked by the pairs they win less those they lose against the others
    (the lower row first among equals). `best_worst` keeps the pair of the first and the last,
    `adjacent` the pairs of neighbours in the ranking, `all` every pair.

    Args:
        rows_C2: what `all_pairs` returned.
        group_N: index of each image's prompt.
        verdict_C: +1 where the first image is the better one, -1 the second, 0 neither.
        strategy: which pairs to keep.

    Raises:
        ValueError: an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"candidates {strategy!r} is not one of {', '.join(STRATEGIES)}")
    if strategy == "all" or not len(rows_C2):
        return np.arange(len(rows_C2))
    group = np.asarray(group_N, np.int64).reshape(-1)
    verdict = np.asarray(verdict_C, np.int64)
    wins_N = np.zeros(len(group), np.int64)
    np.add.at(wins_N, rows_C2[:, 0], verdict)
    np.subtract.at(wins_N, rows_C2[:, 1], verdict)
    rank_N = np.zeros(len(group), np.int64)
    order = np.lexsort((np.arange(len(group)), -wins_N, group))
    _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    rank_N[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    last_N = np.zeros(len(group), np.int64)
    last_N[order] = np.repeat(sizes - 1, sizes)
    ranks = np.sort(rank_N[rows_C2], axis=1)
    if strategy == "adjacent":
        keep = ranks[:, 1] - ranks[:, 0] == 1
    else:
        keep = (ranks[:, 0] == 0) & (ranks[:, 1] == last_N[rows_C2[:, 0]])
    return np.flatnonzero(keep)
