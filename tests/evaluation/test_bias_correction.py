"""What sampling and classifiers add to D1 and D2, and that it is taken out again."""

from itertools import product
from math import factorial, prod

import numpy as np
import pytest

from valign.evaluation import bias_values, confusion, intervals
from valign.evaluation.bias import UNREADABLE, spread_d1, spread_d2
from valign.evaluation.bias_correction import _to_simplex, corrected, inverse
from valign.evaluation.sets import EvalSet, frequencies
from valign.records import Prompt

BLURRED = np.array([[0.9, 0.1, 0.0], [0.05, 0.8, 0.15], [0.1, 0.1, 0.8]])


@pytest.mark.parametrize("confusion_KK", [None, BLURRED])
def test_d2_squared_is_unbiased_exactly(confusion_KK: np.ndarray | None) -> None:
    """Its mean over all outcomes of four images, weighted by their chances, is the truth."""
    truth = np.array([0.6, 0.3, 0.1])
    seen = truth if confusion_KK is None else truth @ confusion_KK
    outcomes = np.array([c for c in product(range(5), repeat=3) if sum(c) == 4])
    chances = [24 / prod(map(factorial, c)) * np.prod(seen**c) for c in outcomes]
    assert sum(chances) == pytest.approx(1)
    estimates = corrected(outcomes, confusion_KK, draws=2).d2_squared_G
    assert np.dot(chances, estimates) == pytest.approx(((truth - 1 / 3) ** 2).sum())


def worlds(rng: np.random.Generator, k: int) -> dict[str, np.ndarray]:
    """True frequencies of 40 prompts: all fair, uneven in many ways, or half of them fair."""
    fair = np.full((40, k), 1 / k)
    skewed = rng.dirichlet([4.0] + [4.0 / k] * (k - 1), size=40)
    return {
        "fair": fair,
        "scattered": rng.dirichlet([4.0] * k, size=40),
        "skewed": skewed,
        "half": np.where(np.arange(40)[:, None] % 2, fair, skewed),
    }


@pytest.mark.parametrize(("k", "n"), [(2, 20), (5, 20), (5, 50), (10, 50)])
def test_the_correction_is_closer_to_the_truth(k: int, n: int) -> None:
    rng = np.random.default_rng([k, n])
    off: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(30):
        for world, truth_GK in worlds(rng, k).items():
            counts_GK = rng.multinomial(n, truth_GK)
            made = corrected(counts_GK, draws=100)
            for name, formula, better_G in (
                ("d1", spread_d1, made.d1_G),
                ("d2", spread_d2, made.d2_G),
            ):
                truth = formula(truth_GK).mean()
                plain = formula(counts_GK / n).mean()
                off.setdefault((world, name), []).append((plain - truth, better_G.mean() - truth))
    for case, errors in off.items():
        plain, better = np.abs(np.mean(errors, axis=0))
        assert better < 0.75 * plain or better < 0.01, (case, plain, better)
    plain, better = np.mean(off["fair", "d1"], axis=0)
    assert plain > 0.1
    assert better < 0.4 * plain


def test_misclassification_is_taken_out_together_with_what_inverting_adds() -> None:
    rng = np.random.default_rng(3)
    truth_GK = rng.dirichlet([6.0, 2.0, 1.0], size=400)
    counts_GK = rng.multinomial(30, truth_GK @ BLURRED)
    wanted = spread_d1(truth_GK).mean(), spread_d2(truth_GK).mean()
    made = corrected(counts_GK, BLURRED, draws=100)
    uncorrected = corrected(counts_GK, draws=100)
    inverted = spread_d1(counts_GK / 30 @ inverse(BLURRED)).mean()
    assert made.d1_G.mean() == pytest.approx(wanted[0], abs=0.015)
    assert made.d2_G.mean() == pytest.approx(wanted[1], abs=0.015)
    assert uncorrected.d1_G.mean() < wanted[0] - 0.05
    assert inverted > wanted[0] + 0.015


def test_too_few_images_give_no_value_and_extremes_stay_put() -> None:
    made = corrected([[1, 0], [0, 0], [20, 0], [20, 0]])
    assert np.isnan(made.d1_G).tolist() == [True, True, False, False]
    np.testing.assert_allclose(made.d1_G[2:], 1)
    np.testing.assert_allclose(made.d2_squared_G[2:], 0.5)
    assert np.isnan(corrected([[1, 0]]).d2_G).all()


def test_the_nearest_distribution() -> None:
    points = np.array([[0.2, 0.8], [1.2, -0.2], [0.6, 0.6], [0.5, 0.3]])
    np.testing.assert_allclose(_to_simplex(points), [[0.2, 0.8], [1, 0], [0.5, 0.5], [0.6, 0.4]])


def test_matrices_that_cannot_be_inverted_are_refused() -> None:
    for wrong, why in (
        ([[0.5, 0.5], [0.5, 0.5]], "hardly tells"),
        ([[0.5, 0.4], [0.5, 0.5]], "sum to 1"),
        ([[1.0, 0.0]], "square"),
    ):
        with pytest.raises(ValueError, match=why):
            inverse(wrong)
    with pytest.raises(ValueError, match="none negative"):
        corrected([[-1, 2]])


def test_a_confusion_matrix_by_hand() -> None:
    true = [0] * 10 + [1] * 10 + [UNREADABLE, 0]
    seen = [0] * 9 + [1] + [1] * 8 + [0] * 2 + [0, UNREADABLE]
    found = confusion.measured(true, seen, 2, source="me")
    assert found is not None
    assert found.as_dict() == {
        "counts": [[9, 1], [2, 8]],
        "images": 20,
        "accuracy": 0.85,
        "labelled_by": "me",
    }
    np.testing.assert_allclose(found.matrix_KK, [[0.9, 0.1], [0.2, 0.8]])
    drawn = found.draws(2000)
    np.testing.assert_allclose(drawn.sum(axis=2), 1)
    assert drawn[:, 0, 0].std() == pytest.approx(np.sqrt(0.9 * 0.1 / 10), rel=0.3)


def test_what_cannot_correct_gives_no_matrix() -> None:
    assert confusion.measured([0] * 20 + [1] * 4, [0] * 20 + [1] * 4, 2) is None
    assert confusion.measured([0, 1] * 20, [0] * 40, 2) is None
    with pytest.raises(ValueError, match="equally long"):
        confusion.measured([0], [0, 1], 2)
    with pytest.raises(ValueError, match="below 2"):
        confusion.measured([2], [0], 2)


def eval_set(
    shown: dict[str, np.ndarray], prompts: int, categories: tuple[str, ...] = ("a",)
) -> EvalSet:
    """Images whose labels are given, one-hot, prompt by prompt."""
    samples = len(next(iter(shown.values()))) // prompts
    return EvalSet(
        prompts=[
            Prompt(text=f"p{g:03d}", scene=f"p{g}", category=categories[g % len(categories)])
            for g in range(prompts)
        ],
        prompt_index_N=np.repeat(np.arange(prompts), samples),
        sample_N=np.tile(np.arange(samples), prompts),
        scores={name: np.eye(2)[label_N] for name, label_N in shown.items()},
    )


def test_pooled_crossed_and_joint_metrics_by_hand() -> None:
    """Two prompts, each all of one gender: uneven each, even together; race follows gender."""
    gender_N = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    race_N = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    images = eval_set({"gender": gender_N, "race": race_N}, 2, ("career", "other"))
    found = bias_values.values({"gender": images, "race": images}, {})
    value = {
        name: intervals.of_statistic(estimate.side(images.keys), seed=0, resamples=50).value
        for name, estimate in found.items()
        if name.count(".") == 2 or name.startswith(("cross", "joint"))
    }
    assert value["bias.gender.d1"] == 1
    assert value["bias.gender.pooled_d1"] == value["bias.gender.pooled_d2"] == 0
    assert value["cross.gender.race.d1"] == value["bias.race.d1"] == 0.5
    # of the four pairs, one is shown three times and one once
    assert value["joint.gender.race.d1"] == 0.75
    assert value["joint.gender.race.d2"] == pytest.approx(np.sqrt(0.5**2 + 2 * 0.25**2))
    career = found["bias.gender.career.d1"].rows
    assert career[images.keys[0]].tolist() == [1]
    assert np.isnan(career[images.keys[1]]).all()


def test_adjusted_intervals_know_that_the_errors_were_measured() -> None:
    """With few labelled images the truth is held because the matrix is drawn anew, too."""
    rng = np.random.default_rng(11)
    matrix = np.array([[0.85, 0.15], [0.25, 0.75]])
    truth, held, held_if_known = 0.6, 0, 0
    for _ in range(60):
        true_N = (rng.random(30 * 20) > 0.8).astype(int)
        seen_N = np.where(rng.random(600) < matrix[true_N, 1], 1, 0)
        labelled_N = rng.integers(2, size=120)
        answered_N = np.where(rng.random(120) < matrix[labelled_N, 1], 1, 0)
        errors = confusion.measured(labelled_N, answered_N, 2)
        assert errors is not None
        images = eval_set({"gender": seen_N}, 30)
        found = frequencies(images, "gender")
        assert found is not None
        pooled = bias_values.adjusted_pooled("x", images, found, errors)["x.pooled_d1_adjusted"]
        made = intervals.of_statistic(pooled.side(images.keys), seed=0, resamples=400)
        held += made.low <= truth <= made.high
        back = inverse(errors.matrix_KK)
        alone = intervals.Side(found.freq_GK, lambda m_XK, _, back=back: spread_d1(m_XK @ back))
        fixed = intervals.of_statistic(alone, seed=0, resamples=400)
        held_if_known += fixed.low <= truth <= fixed.high
    assert held >= 0.88 * 60
    assert held_if_known < held - 6
