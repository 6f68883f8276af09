"""The calibrated share against the closed form, brute force, and what cannot be calibrated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.evaluation import bias
from valign.evaluation.calibration import calibrate


def closed_form(without, always):
    move = always - without
    return np.clip((1 / len(without) - without) @ move / (move @ move), 0, 1)


def drawn(seed, prompts, k):
    return np.random.default_rng(seed).dirichlet([0.5] * k, size=(2, prompts))


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_one_prompts_share_is_the_closed_form(seed, k):
    without, always = drawn(seed, 1, k)
    found = calibrate(without, always, 0.5)
    assert found.share == pytest.approx(closed_form(without[0], always[0]), abs=1e-7)


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 5))
def test_no_share_of_a_dense_grid_has_a_smaller_mean_d2(seed, prompts, k):
    without, always = drawn(seed, prompts, k)
    found = calibrate(without, always, 0.5)
    grid = np.linspace(0, 1, 501)[:, None, None]
    mixed = bias.spread_d2((1 - grid) * without + grid * always).mean(axis=1)
    assert found.d2 <= mixed.min() + 1e-12
    assert found.d2_stated == pytest.approx(mixed[250])
    assert (found.d2_without, found.d2_always) == pytest.approx((mixed[0], mixed[-1]))


def test_a_token_that_overshoots_is_given_to_fewer_images():
    found = calibrate([[0.8, 0.2]], [[0.0, 1.0]], 0.5)
    assert found.share == pytest.approx(0.375)
    assert found.d2 == pytest.approx(0, abs=1e-9)
    assert found.d2_stated == pytest.approx(np.hypot(0.1, 0.1))


@pytest.mark.parametrize(
    ("without", "always", "share"),
    [
        ([[0.9, 0.1]], [[0.6, 0.4]], 1.0),  # it does not reach the middle
        ([[0.6, 0.4]], [[0.9, 0.1]], 0.0),  # it makes things worse
        ([[0.5, 0.5]], [[0.0, 1.0]], 0.0),  # nothing was uneven
    ],
)
def test_the_share_ends_at_none_and_all(without, always, share):
    assert calibrate(without, always, 0.5).share == share


def test_a_token_that_changes_nothing_keeps_the_stated_share_and_says_so():
    found = calibrate([[0.7, 0.3]], [[0.7, 0.3]], 0.4)
    assert (found.share, found.moved) == (0.4, False)
    assert calibrate([[0.7, 0.3]], [[0.6, 0.4]], 0.4).moved


def test_prompts_without_readable_images_are_left_out():
    nothing = [np.nan, np.nan]
    found = calibrate([[0.8, 0.2], nothing], [[0.0, 1.0], [0.5, 0.5]], 0.5)
    assert (found.prompts, found.share) == (1, pytest.approx(0.375))
    with pytest.raises(ValueError, match="no prompt has readable images"):
        calibrate([nothing], [[0.5, 0.5]], 0.5)
    with pytest.raises(ValueError, match="must be"):
        calibrate([[0.5, 0.5]], [[0.2, 0.3, 0.5]], 0.5)


def test_a_calibrated_share_lowers_d2_on_prompts_it_was_not_chosen_by():
    """Five attributes, tokens that overshoot: less than half is right, on other prompts as well."""
    rng = np.random.default_rng(4)

    def shown(prompts):
        without = rng.dirichlet([6, 1, 1, 1, 1], size=prompts)
        always = rng.dirichlet([0.2, 4, 4, 4, 0.2], size=prompts)
        return [rng.multinomial(48, freq) / 48 for freq in (without, always)]

    found = calibrate(*shown(24), 0.5)
    without, always = shown(200)
    other = bias.d2((1 - found.share) * without + found.share * always)
    half = bias.d2((without + always) / 2)
    assert found.d2 < found.d2_stated
    assert other.mean() < half.mean()
