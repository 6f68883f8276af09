"""Intervals: by hand, and how often they hold the truth on data whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.evaluation.describe import excludes_zero
from valign.evaluation.intervals import mean_interval, paired_difference, relative_change

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


def test_all_equal_values_have_an_interval_of_no_width() -> None:
    interval = mean_interval([0.25] * 10, seed=0)
    assert (interval.value, interval.low, interval.high, interval.n) == (0.25, 0.25, 0.25, 10)


def test_two_prompts_by_hand() -> None:
    """Of the resamples of (0, 1), a quarter each have mean 0 and 1, so the ends are 0 and 1."""
    interval = mean_interval([0.0, 1.0], seed=1)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_the_width_follows_the_standard_error() -> None:
    sample = np.random.default_rng(0).normal(size=200)
    interval = mean_interval(sample, seed=0)
    expected = 2 * 1.96 * sample.std() / np.sqrt(200)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.05)


def test_prompts_without_a_value_are_left_out_and_not_counted() -> None:
    with_gaps = mean_interval([1.0, np.nan, 2.0, np.nan, 6.0], seed=3)
    assert with_gaps == mean_interval([1.0, 2.0, 6.0], seed=3)
    assert (with_gaps.value, with_gaps.n) == (3.0, 3)


@pytest.mark.parametrize("too_few", [[], [1.0], [1.0, np.nan]])
def test_an_interval_from_one_prompt_is_refused(too_few: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2 prompts"):
        mean_interval(too_few, seed=0)


@given(values, st.integers(0, 100))
def test_the_interval_lies_within_the_data_and_repeats(sample: list[float], seed: int) -> None:
    interval = mean_interval(sample, seed=seed, resamples=200)
    slack = 1e-9 * (1 + max(map(abs, sample)))
    assert min(sample) - slack <= interval.low <= interval.high <= max(sample) + slack
    assert interval == mean_interval(sample, seed=seed, resamples=200)


@pytest.mark.parametrize("prompts", [20, 40, 100])
def test_intervals_hold_the_truth_about_as_often_as_they_say(prompts: int) -> None:
    """Skewed per-prompt values, as D1 of many prompts is: Beta(2, 5), whose mean is 2/7."""
    samples = np.random.default_rng(prompts).beta(2, 5, size=(600, prompts))
    intervals = [mean_interval(s, seed=0, resamples=1000) for s in samples]
    covered = np.mean([i.low <= 2 / 7 <= i.high for i in intervals])
    assert 0.90 <= covered <= 0.975


def test_pairing_removes_what_prompts_have_in_common() -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(0, 10, size=50)
    model = base - 1 + rng.normal(0, 0.1, size=50)
    paired = paired_difference(model, base, seed=0)
    assert paired.value == pytest.approx(np.mean(model) - np.mean(base))
    assert excludes_zero(paired.as_dict())
    assert -1.1 < paired.low < paired.value < paired.high < -0.9
    alone = mean_interval(model, seed=0)
    assert alone.high - alone.low > 20 * (paired.high - paired.low)


def test_paired_intervals_hold_a_true_difference_of_zero() -> None:
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(400):
        base = rng.beta(2, 5, size=40)
        model = base + rng.normal(0, 0.1, size=40)
        held += not excludes_zero(paired_difference(model, base, seed=0, resamples=1000).as_dict())
    assert 0.90 <= held / 400 <= 0.98


def test_a_pair_with_one_gap_counts_on_neither_side() -> None:
    interval = paired_difference([1.0, 2.0, np.nan, 4.0], [0.0, np.nan, 9.0, 1.0], seed=0)
    assert (interval.value, interval.n) == (2.0, 2)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_swapping_the_models_negates_the_difference(pairs: list[tuple[float, float]]) -> None:
    model, base = np.array(pairs).T
    one = paired_difference(model, base, seed=0, resamples=200)
    other = paired_difference(base, model, seed=0, resamples=200)
    np.testing.assert_allclose(
        [one.value, one.low, one.high], [-other.value, -other.high, -other.low], atol=1e-12
    )


def test_a_relative_change_by_hand() -> None:
    change = relative_change([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], seed=0)
    assert change is not None
    np.testing.assert_allclose([change.value, change.low, change.high], -0.5)
    assert change.n == 3


def test_there_is_no_relative_change_from_nothing() -> None:
    assert relative_change([0.1, 0.2], [0.0, 0.0], seed=0) is None
    # Some resamples draw the first prompt only.
    assert relative_change([0.1, 0.2], [0.0, 0.5], seed=0) is None


def test_unpaired_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="pair the same prompts"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0], seed=0)
    with pytest.raises(ValueError, match="one value per prompt"):
        mean_interval([[1.0, 2.0]], seed=0)
