"""Pairs: the rules of who may meet whom, and the account of every image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.preferences.labels import (
    DISPREFERRED,
    NO_ATTRIBUTE,
    PREFERRED,
    UNLABELLED,
    Labels,
)
from valign.preferences.pairs import NEVER_USED, NO_PARTNER, OVER_CAP, account, build_pairs

image_rows = st.lists(
    st.tuples(
        st.sampled_from([PREFERRED, DISPREFERRED, UNLABELLED]),  # verdict
        st.integers(0, 3),  # group
        st.integers(0, 5),  # sample
        st.integers(0, 2),  # twin
    ),
    max_size=60,
)


def columns(rows: list[tuple[int, ...]]) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(-1, 4).T


@given(image_rows, st.integers(0, 2**31))
def test_the_rules_hold_for_any_images(rows: list, seed: int) -> None:
    verdict, group, sample, twin = columns(rows)
    pairs = build_pairs(verdict, group, sample, twin_N=twin, seed=seed)
    assert len(set(pairs.winner_P.tolist())) == len(pairs)
    assert (verdict[pairs.winner_P] == PREFERRED).all()
    assert (verdict[pairs.loser_P] == DISPREFERRED).all()
    assert np.array_equal(group[pairs.winner_P], pairs.group_P)
    assert np.array_equal(group[pairs.loser_P], pairs.group_P)
    # Every preferred image whose group has a dispreferred one is used.
    expected = sum(
        int((verdict[group == g] == PREFERRED).sum())
        for g in range(4)
        if (verdict[group == g] == DISPREFERRED).any()
    )
    assert len(pairs) == expected


@given(image_rows, st.integers(0, 2**31))
def test_the_same_noise_is_taken_wherever_there_is_some(rows: list, seed: int) -> None:
    verdict, group, sample, twin = columns(rows)
    pairs = build_pairs(verdict, group, sample, twin_N=twin, seed=seed)
    for winner, same in zip(pairs.winner_P, pairs.same_sample_P, strict=True):
        mine = (group == group[winner]) & (verdict == DISPREFERRED)
        assert same == (sample[mine] == sample[winner]).any()


@given(image_rows, st.integers(0, 2**31))
def test_one_group_does_not_depend_on_the_others(rows: list, seed: int) -> None:
    alone = [row for row in rows if row[1] == 2]
    verdict, group, sample, _ = columns(rows)
    of_all = build_pairs(verdict, group, sample, seed=seed)
    verdict, group_2, sample, _ = columns(alone)
    of_alone = build_pairs(verdict, group_2, sample, seed=seed)
    where = np.flatnonzero(group == 2)
    mine = of_all.group_P == 2
    assert np.array_equal(of_all.winner_P[mine], where[of_alone.winner_P])
    assert np.array_equal(of_all.loser_P[mine], where[of_alone.loser_P])


@given(image_rows, st.integers(0, 20))
def test_a_cap_keeps_some_of_the_same_pairs(rows: list, cap: int) -> None:
    verdict, group, sample, _ = columns(rows)
    full = build_pairs(verdict, group, sample, seed=1)
    capped = build_pairs(verdict, group, sample, seed=1, cap=cap)
    assert len(capped) == min(cap, len(full))
    both = set(zip(full.winner_P.tolist(), full.loser_P.tolist(), strict=True))
    assert set(zip(capped.winner_P.tolist(), capped.loser_P.tolist(), strict=True)) <= both
    assert len(capped) + len(capped.over_cap) == len(full)


def test_the_twin_decides_among_equal_samples() -> None:
    verdict = [PREFERRED] + [DISPREFERRED] * 4
    twin, sample = [7, 1, 7, 7, 3], [0, 0, 0, 1, 0]
    for seed in range(10):
        pairs = build_pairs(verdict, [0] * 5, sample, twin_N=twin, seed=seed)
        assert pairs.loser_P.tolist() == [2]


def test_shared_images_are_shared_evenly() -> None:
    verdict = [PREFERRED] * 12 + [DISPREFERRED] * 4
    pairs = build_pairs(verdict, [0] * 16, range(16), seed=3)
    assert np.bincount(pairs.loser_P, minlength=16)[12:].tolist() == [3, 3, 3, 3]
    assert not pairs.same_sample_P.any()


def test_the_seed_decides_and_only_the_seed() -> None:
    verdict = [PREFERRED] * 20 + [DISPREFERRED] * 20
    made = [build_pairs(verdict, [0] * 40, range(40), seed=s).loser_P.tolist() for s in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_uneven_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        build_pairs([1, -1], [0, 0], [0], seed=0)
    with pytest.raises(ValueError, match="negative"):
        build_pairs([1, -1], [0, 0], [0, 0], seed=0, cap=-1)


def test_the_account_says_what_became_of_every_image() -> None:
    verdict = np.array([1, 1, -1, -1, 0, 1, -1], dtype=np.int8)
    reasons = ("", "", "", "", NO_ATTRIBUTE, "", "")
    group, sample = [0, 0, 0, 0, 0, 1, 2], [0, 1, 0, 5, 0, 0, 0]
    category = ["career"] * 5 + ["nudity"] * 2
    pairs = build_pairs(verdict, group, sample, seed=0, cap=1)
    made = account(Labels(verdict, reasons), pairs, category)
    assert list(made) == ["career", "nudity"]
    career = made["career"]
    assert (career.images, career.preferred, career.dispreferred, career.pairs) == (5, 2, 2, 1)
    assert career.skipped == {NO_ATTRIBUTE: 1, NEVER_USED: 1, OVER_CAP: 1}
    assert made["nudity"].skipped == {NEVER_USED: 1, NO_PARTNER: 1}
    assert made["nudity"].as_dict()["pairs"] == 0


@given(image_rows, st.integers(0, 20))
def test_the_account_adds_up(rows: list, cap: int) -> None:
    verdict, group, sample, _ = columns(rows)
    reasons = tuple(NO_ATTRIBUTE if v == UNLABELLED else "" for v in verdict)
    category = [("career", "horror")[g % 2] for g in group]
    pairs = build_pairs(verdict, group, sample, seed=0, cap=cap)
    for name, one in account(Labels(verdict.astype(np.int8), reasons), pairs, category).items():
        losers = {i for i in pairs.loser_P.tolist() if category[i] == name}
        assert one.images == one.pairs + len(losers) + sum(one.skipped.values())
        assert one.images == category.count(name)
        assert one.same_sample <= one.pairs
