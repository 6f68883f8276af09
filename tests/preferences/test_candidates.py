"""Candidates: who meets whom, and what a ranking keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.preferences.candidates import all_pairs, choose

groups = st.lists(st.integers(0, 4), max_size=30)


def by_quality(rows: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Verdicts of a judge who sees the quality exactly."""
    return np.sign(quality[rows[:, 0]] - quality[rows[:, 1]])


@given(groups)
def test_every_two_images_of_a_prompt_meet_once_and_no_others(group: list) -> None:
    rows = all_pairs(group)
    sizes = np.bincount(np.array(group, int), minlength=1)
    assert len(rows) == sum(n * (n - 1) // 2 for n in sizes)
    assert len({tuple(pair) for pair in rows.tolist()}) == len(rows)
    assert all(a < b and group[a] == group[b] for a, b in rows.tolist())


@given(groups, st.randoms(use_true_random=False))
def test_the_ranking_keeps_the_best_and_the_worst(group: list, random) -> None:
    rows = all_pairs(group)
    quality = np.array(random.sample(range(len(group)), len(group)))
    verdict = by_quality(rows, quality)
    kept = rows[choose(rows, group, verdict, "best_worst")]
    several = {g for g in group if group.count(g) > 1}
    assert sorted(group[a] for a, _ in kept.tolist()) == sorted(several)
    for pair in kept.tolist():
        mine = [quality[i] for i in range(len(group)) if group[i] == group[pair[0]]]
        assert {quality[i] for i in pair} == {min(mine), max(mine)}
    neighbours = rows[choose(rows, group, verdict, "adjacent")]
    assert len(neighbours) == sum(max(group.count(g) - 1, 0) for g in set(group))
    for a, b in neighbours.tolist():
        mine = sorted(quality[i] for i in range(len(group)) if group[i] == group[a])
        assert abs(mine.index(quality[a]) - mine.index(quality[b])) == 1


def test_two_images_are_one_pair_whatever_the_strategy() -> None:
    rows = all_pairs([0, 1, 0, 1])
    for strategy in ("all", "best_worst", "adjacent"):
        assert choose(rows, [0, 1, 0, 1], [0, 0], strategy).tolist() == [0, 1]
    with pytest.raises(ValueError, match="best_worst"):
        choose(rows, [0, 1, 0, 1], [0, 0], "some")


def test_one_prompts_choice_does_not_depend_on_the_others() -> None:
    group = [0] * 4 + [1] * 5
    quality = np.array([3, 1, 2, 0, 9, 5, 7, 6, 8])
    rows = all_pairs(group)
    kept = rows[choose(rows, group, by_quality(rows, quality), "adjacent")]
    alone = all_pairs(group[:4])
    kept_alone = alone[choose(alone, group[:4], by_quality(alone, quality), "adjacent")]
    assert np.array_equal(kept[kept[:, 0] < 4], kept_alone)
