"""D1, D2 and the fair sampler's floor."""

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from valign.evaluation.bias import UNREADABLE, d1, d2, fair_floor, frequencies, labels

label_lists = st.integers(2, 6).flatmap(
    lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k - 1), min_size=1, max_size=50))
)


def frequency(k: int, shown: list[int]) -> np.ndarray:
    return frequencies(shown, [0] * len(shown), 1, k).freq_GK


def test_by_hand() -> None:
    freq = frequencies([0, 0, 0, 1, 2, 0, 1, 4], [0, 0, 0, 0, 1, 1, 1, 1], 2, 5).freq_GK
    np.testing.assert_allclose(freq, [[0.75, 0.25, 0, 0, 0], [0.25, 0.25, 0.25, 0, 0.25]])
    np.testing.assert_allclose(d1(freq), [0.75, 0.25])
    first = sqrt(0.55**2 + 0.05**2 + 3 * 0.2**2)
    np.testing.assert_allclose(d2(freq), [first, sqrt(4 * 0.05**2 + 0.2**2)])


@pytest.mark.parametrize(("k", "largest"), [(2, 0.7071), (5, 0.8944)])
def test_the_extremes(k: int, largest: float) -> None:
    only_one, fair = frequency(k, [0] * 50), frequency(k, list(range(k)) * 10)
    assert d1(only_one)[0] == 1
    assert d2(only_one)[0] == pytest.approx(largest, abs=1e-4)
    assert d1(fair)[0] == d2(fair)[0] == 0


@given(label_lists)
def test_d1_and_d2_stay_in_range(case: tuple[int, list[int]]) -> None:
    k, shown = case
    freq = frequency(k, shown)
    assert 0 <= d1(freq)[0] <= 1
    assert 0 <= d2(freq)[0] <= sqrt(1 - 1 / k) + 1e-12
    # D2 is zero exactly where D1 is, and D1 cannot exceed what its two attributes add to D2.
    assert d1(freq)[0] <= sqrt(2) * d2(freq)[0] + 1e-12


@given(label_lists, st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(case: tuple[int, list[int]], random) -> None:
    k, shown = case
    renamed = random.sample(range(k), k)
    other = [renamed[label] for label in random.sample(shown, len(shown))]
    np.testing.assert_allclose(d1(frequency(k, other)), d1(frequency(k, shown)), atol=1e-12)
    np.testing.assert_allclose(d2(frequency(k, other)), d2(frequency(k, shown)), atol=1e-12)


forty = st.tuples(
    arrays(np.int64, 40, elements=st.integers(-1, 4)),
    arrays(np.int64, 40, elements=st.integers(0, 3)),
)


@given(forty)
def test_unreadable_images_are_counted_and_otherwise_ignored(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    shown, prompt = images
    found = frequencies(shown, prompt, 4, 5)
    readable = shown != UNREADABLE
    same = frequencies(shown[readable], prompt[readable], 4, 5)
    np.testing.assert_array_equal(found.freq_GK, same.freq_GK)
    assert found.unreadable == (~readable).sum()
    assert found.readable_G.sum() + found.unreadable == 40


def test_a_prompt_without_readable_images_has_no_value() -> None:
    found = frequencies([0, 1, UNREADABLE], [0, 0, 2], 3, 2)
    assert found.readable_G.tolist() == [2, 0, 0]
    np.testing.assert_array_equal(np.isnan(d1(found.freq_GK)), [False, True, True])


def test_labels_are_the_most_probable_attribute() -> None:
    scores = [[0.2, 0.8], [np.nan, np.nan], [0.6, 0.4], [np.nan, 1.0]]
    assert labels(scores).tolist() == [1, UNREADABLE, 0, UNREADABLE]
    assert labels(np.zeros((0, 5))).tolist() == []


@pytest.mark.parametrize("n", [20, 50])
def test_the_floor_of_two_attributes_is_the_binomial_one(n: int) -> None:
    """E|X - n/2| of a fair coin has a closed form: D1 = C(n, n/2) / 2**n."""
    floor = fair_floor(2, n)
    exact = comb(n, n // 2) / 2**n
    assert floor.d1 == pytest.approx(exact, abs=0.001)
    assert floor.d2 == pytest.approx(exact / sqrt(2), abs=0.001)


@pytest.mark.parametrize(
    ("k", "n", "d1_expected", "d2_expected"),
    [(2, 50, 0.113, None), (5, 50, 0.147, 0.119), (2, 20, 0.177, None), (5, 20, 0.230, None)],
)
def test_the_floor_reproduces_the_known_values(
    k: int, n: int, d1_expected: float, d2_expected: float | None
) -> None:
    floor = fair_floor(k, n)
    assert floor.d1 == pytest.approx(d1_expected, abs=0.0015)
    assert d2_expected is None or floor.d2 == pytest.approx(d2_expected, abs=0.0015)


def test_the_floor_falls_with_more_images() -> None:
    scores = [fair_floor(5, n).d1 for n in (1, 5, 20, 50, 200)]
    assert scores[0] == 1
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda: frequencies([2], [0], 1, 2),
        lambda: frequencies([0], [1], 1, 2),
        lambda: frequencies([0, 1], [0], 1, 2),
        lambda: d1([[0.5, 0.4]]),
        lambda: d2([[1.5, -0.5]]),
        lambda: d1([[1.0]]),
        lambda: labels([0.2, 0.8]),
        lambda: fair_floor(1, 5),
    ],
)
def test_what_makes_no_sense_is_refused(call) -> None:
    with pytest.raises(ValueError, match=r"must|least"):
        call()
