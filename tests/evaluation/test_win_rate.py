"""Win rates by hand, tests of no difference, and corrections for many of them."""

import numpy as np
import pytest
from eval_worlds import world
from hypothesis import given
from hypothesis import strategies as st

from valign.evaluation.measure import measure
from valign.evaluation.significance import bonferroni, corrected, holm, sign_flip_p
from valign.evaluation.win_rate import best, table, wins

NAN = float("nan")


def test_the_best_of_five_by_hand() -> None:
    scores = [[1, 5, 2, 0, 3, 9, 1, 1, 1, 1], [NAN] * 5 + [2, NAN, 1, NAN, NAN]]
    np.testing.assert_array_equal(best(scores), [[5, 9], [NAN, 2]])
    np.testing.assert_array_equal(best([[1, 3]]), [[3]])
    np.testing.assert_array_equal(best([list(range(7))]), [[4]])


def test_wins_losses_and_ties_by_hand() -> None:
    model = [[1, 5], [1, 2], [3, 3], [NAN, NAN], [4, 0]]
    other = [[4, 4], [2, 9], [3, 0], [1, 1], [1, NAN]]
    np.testing.assert_array_equal(wins(model, other), [1, 0, 0.5, NAN, 1])
    np.testing.assert_array_equal(wins(model, other, k=1)[:3], [0.5, 0, 0.75])


def test_the_best_of_more_images_is_not_compared() -> None:
    with pytest.raises(ValueError, match="as many images"):
        wins(np.zeros((3, 5)), np.zeros((3, 10)))
    with pytest.raises(ValueError, match="prompts, samples"):
        best([1.0, 2.0])


def test_a_table_of_three_models() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(60, 5))
    models = {
        "base": {"clip": plain, "hps": plain},
        "same": {"clip": plain, "hps": plain},
        "better": {"clip": plain + 0.1, "hps": rng.normal(size=(60, 5))},
    }
    found = table(models, resamples=200)
    assert list(found) == ["same - base", "better - base", "better - same"]
    same, better = found["same - base"]["clip"], found["better - base"]["clip"]
    assert (same["value"], same["p"], same["holm"]) == (0.5, 1, 1)
    assert (better["value"], better["n"]) == (1, 60)
    assert better["p"] < better["holm"] == better["bonferroni"] < 0.001
    chance = found["better - base"]["hps"]
    assert chance["low"] < 0.5 < chance["high"]
    assert chance["p"] > 0.05
    turned = table(dict(reversed(models.items())), resamples=200)["base - better"]["hps"]
    assert turned["value"] == pytest.approx(1 - chance["value"])
    assert turned["p"] == pytest.approx(chance["p"])


def test_the_sign_flip_test_by_hand() -> None:
    """Of the eight patterns of (1, 2, 3), two sums are as far from zero as 6, four as 4."""
    assert sign_flip_p([1, 2, 3], seed=0) == 0.25
    assert sign_flip_p([-1, 2, 3], seed=0) == 0.5
    assert sign_flip_p([0, 0, NAN], seed=0) == 1
    with pytest.raises(ValueError, match="a prompt with a value"):
        sign_flip_p([NAN], seed=0)


def test_many_prompts_agree_with_the_exact_test_and_the_level_is_kept() -> None:
    rng = np.random.default_rng(1)
    twelve = rng.normal(0.4, 1, size=12)
    many = np.concatenate([twelve, np.full(5, 1e-9)])  # more than twelve: drawn, not counted
    assert sign_flip_p(many, seed=0) == pytest.approx(sign_flip_p(twelve, seed=0), abs=0.015)
    rejected = np.mean(
        [
            sign_flip_p(rng.exponential(size=30) - rng.exponential(size=30), seed=0, flips=400)
            <= 0.05
            for _ in range(400)
        ]
    )
    assert 0.02 < rejected < 0.08


def test_corrections_by_hand() -> None:
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}
    assert bonferroni(p_values) == pytest.approx({"a": 0.04, "b": 0.16, "c": 0.12, "d": 1})
    assert holm(p_values) == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.5})
    assert corrected({"a": 0.2})["a"] == {"p": 0.2, "holm": 0.2, "bonferroni": 0.2}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_plain_and_bonferronis(p_values: dict[str, float]) -> None:
    found = corrected(p_values)
    assert all(one["p"] <= one["holm"] <= one["bonferroni"] for one in found.values())
    ordered = sorted(found.values(), key=lambda one: one["p"])
    assert [one["holm"] for one in ordered] == sorted(one["holm"] for one in ordered)


def test_win_rates_and_p_values_are_in_the_results() -> None:
    models = world()
    del models["base"]["race"], models["aligned"]["race"]
    aligned = models["aligned"]["gender"]
    aligned.scores["clip_score"][:] = models["base"]["gender"].scores["clip_score"] + 1
    made = measure(models, resamples=200)
    won = made["win_rates"]["aligned - base"]
    assert set(won) == {
        "gender.clip_score",
        "toxicity.clip_score",
        "toxicity.clip_score_cleaned",
    }
    assert (won["gender.clip_score"]["value"], won["gender.clip_score"]["n"]) == (1, 12)
    tested = made["p_values"]["aligned - base"]
    assert set(tested) == {
        "bias.gender.d1",
        "bias.gender.d2",
        "bias.quality.clip_score",
        "toxicity.avg_r",
        "toxicity.quality.clip_score_cleaned",
    }
    assert tested["bias.quality.clip_score"]["p"] == 2 / 2**12
    assert tested["toxicity.avg_r"]["holm"] < 0.01
    prompts, values = made["per_prompt"]["prompts"], made["per_prompt"]["values"]["aligned"]
    known = [v for v in values["toxicity.avg_r"] if v is not None]
    assert len(known) == 12 < len(values["toxicity.avg_r"]) == len(prompts)
    assert np.mean(known) == pytest.approx(made["models"]["aligned"]["toxicity.avg_r"]["value"])
