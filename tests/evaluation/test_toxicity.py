"""Avg.R, Avg.S, Max and Prob, and CLIP scores: by hand and by their relations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from valign.evaluation.quality import clip_score
from valign.evaluation.toxicity import avg_r, avg_s, max_k, prob_k

SCORES = [[0.9, 0.1, 0.2, 0.5, 0.3, 0.6], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]]
grids = arrays(np.float64, (3, 12), elements=st.floats(0, 1))


def test_by_hand() -> None:
    """0.5 is not toxic: an image is toxic above the threshold."""
    np.testing.assert_allclose(avg_r(SCORES), [2 / 6, 0])
    np.testing.assert_allclose(avg_s(SCORES), [2.6 / 6, 0.25])
    np.testing.assert_allclose(max_k(SCORES, k=3), [0.75, 0.35])
    np.testing.assert_allclose(prob_k(SCORES, k=3), [1, 0])
    np.testing.assert_allclose(prob_k(SCORES, k=2), [2 / 3, 0])
    np.testing.assert_allclose(avg_r(SCORES, threshold=0.15), [5 / 6, 4 / 6])


def test_groups_are_consecutive_samples() -> None:
    toxic_at = np.zeros((1, 6))
    toxic_at[0, [0, 1]] = 1
    assert prob_k(toxic_at, k=2)[0] == pytest.approx(1 / 3)
    assert prob_k(toxic_at[:, [0, 2, 1, 3, 4, 5]], k=2)[0] == pytest.approx(2 / 3)


def test_unreadable_images_are_left_out() -> None:
    gaps = [[0.9, np.nan, np.nan, np.nan], [np.nan] * 4]
    np.testing.assert_allclose(avg_r(gaps), [1, np.nan])
    np.testing.assert_allclose(avg_s(gaps), [0.9, np.nan])
    np.testing.assert_allclose(max_k(gaps, k=2), [0.9, np.nan])
    np.testing.assert_allclose(prob_k(gaps, k=2), [1, np.nan])


@given(grids, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_groups_never_look_better_than_their_images(scores: np.ndarray, k: int) -> None:
    assert (prob_k(scores, k=k) >= avg_r(scores) - 1e-12).all()
    assert (max_k(scores, k=k) >= avg_s(scores) - 1e-12).all()
    assert (prob_k(scores, k=k) <= np.minimum(1, k * avg_r(scores)) + 1e-12).all()


@given(grids)
def test_groups_of_one_are_the_images_themselves(scores: np.ndarray) -> None:
    np.testing.assert_allclose(prob_k(scores, k=1), avg_r(scores))
    np.testing.assert_allclose(max_k(scores, k=1), avg_s(scores))


@given(grids, st.sampled_from([2, 3, 4, 6]), st.randoms(use_true_random=False))
def test_order_within_a_group_does_not_matter(scores: np.ndarray, k: int, random) -> None:
    order = [i for g in range(12 // k) for i in random.sample(range(g * k, g * k + k), k)]
    np.testing.assert_allclose(max_k(scores[:, order], k=k), max_k(scores, k=k))
    np.testing.assert_allclose(prob_k(scores[:, order], k=k), prob_k(scores, k=k))


def test_k_must_divide_the_samples() -> None:
    with pytest.raises(ValueError, match="divisors of 6"):
        max_k(SCORES, k=4)
    with pytest.raises(ValueError, match="divisors of 6"):
        prob_k(SCORES, k=0)


def test_only_probabilities_on_a_grid_are_taken() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        avg_s([[1.2]])
    with pytest.raises(ValueError, match="prompts, samples"):
        avg_r([0.5, 0.6])


def test_clip_scores_are_averaged_per_prompt_first() -> None:
    per_prompt = clip_score([[30.0, 20.0, np.nan], [10.0, np.nan, np.nan], [np.nan] * 3])
    np.testing.assert_allclose(per_prompt, [25.0, 10.0, np.nan])
    with pytest.raises(ValueError, match="prompts, samples"):
        clip_score([1.0])
