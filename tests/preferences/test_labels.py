"""The labelling rules: by hand on small cases, and what must hold for any labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.preferences.labels import (
    DISPREFERRED,
    NO_ATTRIBUTE,
    NO_BASE,
    NOT_TOXIC,
    PREFERRED,
    STILL_TOXIC,
    UNLABELLED,
    UNREADABLE,
    base_shares,
    bias_labels,
    toxicity_labels,
)


def test_the_rare_attribute_is_preferred() -> None:
    base = base_shares([0, 0, 0, 1], [0] * 4, prompts=1, attributes=2, minimum=1)
    labels = bias_labels(base, [0, 1], [0, 0])
    assert labels.verdict_N.tolist() == [DISPREFERRED, PREFERRED]
    assert labels.reason_N == ("", "")
    np.testing.assert_allclose(base.shares_GK, [[0.75, 0.25]])


def test_a_share_of_exactly_one_in_k_is_dispreferred() -> None:
    gender = base_shares([0, 1], [0, 0], prompts=1, attributes=2, minimum=1)
    assert bias_labels(gender, [0, 1], [0, 0]).verdict_N.tolist() == [DISPREFERRED] * 2
    # 3 of 15 is one in five; neither number has an exact binary fraction.
    shown = [0] * 3 + [1] * 6 + [2] * 2 + [3] * 4
    race = base_shares(shown, [0] * 15, prompts=1, attributes=5, minimum=1)
    verdict = bias_labels(race, range(5), [0] * 5).verdict_N
    assert verdict.tolist() == [-1, -1, 1, -1, 1]


def test_unreadable_base_images_do_not_count_towards_a_share() -> None:
    base = base_shares([0, -1, -1, -1, 1, 0], [0] * 6, prompts=1, attributes=2, minimum=3)
    assert base.counts_GK.tolist() == [[2, 1]]
    assert base.unreadable == 3
    assert base.usable_G.tolist() == [True]


def test_a_prompt_with_too_few_readable_images_is_skipped_with_the_reason() -> None:
    base = base_shares([0, 1, 1, 0, -1], [0, 0, 0, 1, 1], prompts=3, attributes=2, minimum=2)
    labels = bias_labels(base, [0, 0, 0, -1], [0, 1, 2, 0])
    assert labels.verdict_N.tolist() == [PREFERRED, UNLABELLED, UNLABELLED, UNLABELLED]
    assert labels.reason_N == ("", NO_BASE, NO_BASE, NO_ATTRIBUTE)
    assert labels.dropped(NO_BASE) == 0.5
    assert np.isnan(base.shares_GK[2]).all()


@pytest.mark.parametrize(
    ("labels", "prompts", "message"),
    [
        ([2], [0], r"labels_N\[0\] is 2"),
        ([-2], [0], r"labels_N\[0\] is -2"),
        ([0, 0], [0, 1], r"prompt_N\[1\] is 1"),
        ([0], [0, 0], "one label per image"),
        ([0.5], [0], "whole numbers"),
    ],
)
def test_wrong_indices_are_named(labels: list, prompts: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        base_shares(labels, prompts, prompts=1, attributes=2, minimum=1)


def test_the_prompt_alone_decides_a_toxicity_label_by_default() -> None:
    labels = toxicity_labels([True, False])
    assert labels.verdict_N.tolist() == [DISPREFERRED, PREFERRED]


def test_the_classifier_drops_what_contradicts_the_prompt() -> None:
    labels = toxicity_labels(
        [True, True, True, False, False, False],
        verify="classifier",
        score_N=[0.9, 0.5, np.nan, 0.5, 0.51, np.nan],
    )
    assert labels.verdict_N.tolist() == [DISPREFERRED, 0, 0, PREFERRED, 0, 0]
    assert labels.reason_N == ("", NOT_TOXIC, UNREADABLE, "", STILL_TOXIC, UNREADABLE)
    assert labels.dropped(NOT_TOXIC) == pytest.approx(1 / 6)


def test_verification_needs_scores_and_a_known_mode() -> None:
    with pytest.raises(ValueError, match="score the images first"):
        toxicity_labels([True], verify="classifier")
    with pytest.raises(ValueError, match="none, classifier"):
        toxicity_labels([True], verify="llm")
    with pytest.raises(ValueError, match="one per image"):
        toxicity_labels([True], verify="classifier", score_N=[0.1, 0.2])


shown_images = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.just(k), st.lists(st.tuples(st.integers(0, 3), st.integers(-1, k - 1)), max_size=60)
    )
)


@given(shown_images)
def test_of_each_usable_prompt_some_attribute_is_dispreferred(case: tuple[int, list]) -> None:
    """Shares sum to one, so not all of them can be below 1/K."""
    k, images = case
    prompt, label = [p for p, _ in images], [a for _, a in images]
    base = base_shares(
        np.array(label, dtype=int), np.array(prompt, dtype=int), prompts=4, attributes=k, minimum=1
    )
    grid = np.indices((4, k)).reshape(2, -1)
    verdict_GK = bias_labels(base, grid[1], grid[0]).verdict_N.reshape(4, k)
    assert (verdict_GK[base.usable_G] == DISPREFERRED).any(axis=1).all()
    assert (verdict_GK[~base.usable_G] == UNLABELLED).all()
    assert base.counts_GK.sum() + base.unreadable == len(images)


@given(shown_images, st.randoms(use_true_random=False))
def test_the_order_of_base_images_does_not_matter(case: tuple[int, list], random) -> None:
    k, images = case
    shuffled = random.sample(images, len(images))
    counts = []
    for rows in (images, shuffled):
        array = np.array(rows, dtype=int).reshape(-1, 2)
        base = base_shares(array[:, 1], array[:, 0], prompts=4, attributes=k, minimum=1)
        counts.append(base.counts_GK)
    assert np.array_equal(*counts)
