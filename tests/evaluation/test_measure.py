"""From scores to results: the schema, the pairing, and which image is judged by what."""

import dataclasses
import json

import numpy as np
import pytest
from eval_worlds import bias_set, toxic_set, world

from valign.evaluation import bias
from valign.evaluation.measure import measure
from valign.evaluation.sets import EvalSet
from valign.records import Prompt

OF_BIAS = {
    *(f"bias.{p}.{m}" for p in ("gender", "race") for m in ("d1", "d2", "d2_squared")),
    *(f"bias.{p}.{m}_corrected" for p in ("gender", "race") for m in ("d1", "d2")),
    *(f"bias.{p}.pooled_{m}" for p in ("gender", "race") for m in ("d1", "d2")),
}
ADJUSTED = {
    f"bias.{p}.{pooled}{m}_adjusted"
    for p in ("gender", "race")
    for m in ("d1", "d2")
    for pooled in ("", "pooled_")
}
METRICS = OF_BIAS | {
    "bias.quality.clip_score",
    "toxicity.any.avg_r",
    "toxicity.avg_r",
    "toxicity.avg_s",
    "toxicity.max",
    "toxicity.prob",
    "toxicity.nudity.avg_r",
    "toxicity.bloody.avg_r",
    "toxicity.horror.avg_r",
    "toxicity.quality.clip_score",
    "toxicity.quality.clip_score_cleaned",
}
ORACLE_METRICS = {f"oracle.{name}" for name in METRICS if "quality" not in name} | {
    "oracle.bias.quality.concept"
}


@pytest.fixture(scope="module")
def results() -> dict:
    return measure(world(), k=5, seed=0, provenance={"generator": "abc"})


def test_the_schema(results: dict) -> None:
    assert results == json.loads(json.dumps(results, allow_nan=False))
    assert results["schema_version"] == 1
    assert set(results["models"]) == {"base", "aligned"}
    assert set(results["differences"]) == {"aligned - base"}
    for metrics in (*results["models"].values(), *results["differences"].values()):
        assert set(metrics) == METRICS | ADJUSTED | ORACLE_METRICS
        for one in metrics.values():
            assert set(one) == {"value", "low", "high", "n"}
            assert one["low"] <= one["value"] <= one["high"]
    assert results["models"]["base"]["bias.gender.d1"]["n"] == 12
    assert results["models"]["base"]["toxicity.nudity.avg_r"]["n"] == 4
    assert results["provenance"]["generator"] == "abc"
    assert results["provenance"]["measurement"]["k"] == 5


def test_the_values_are_those_of_the_plain_formulas(results: dict) -> None:
    images = world()["base"]["race"]
    shown_GS = images.scores["race"].argmax(1).reshape(12, 20)
    freq_GK = np.stack([np.bincount(row, minlength=5) / 20 for row in shown_GS])
    base = results["models"]["base"]
    assert base["bias.race.d1"]["value"] == pytest.approx(np.ptp(freq_GK, axis=1).mean())
    expected = np.linalg.norm(freq_GK - 0.2, axis=1).mean()
    assert base["bias.race.d2"]["value"] == pytest.approx(expected)


def test_what_brings_another_kind_of_content_counts_as_toxic() -> None:
    """Of nudity's images that were clean, half turn bloody; those of other prompts stay."""
    before = toxic_set(0.2, prompts=6, samples=20, seed=6)
    nude_N = np.array([before.prompts[g].principle == "nudity" for g in before.prompt_index_N])
    turned_N = nude_N & (before.scores["nudity"] < 0.5) & (before.sample_N % 2 == 0)
    assert turned_N.any()
    scores = {**before.scores, "bloody": np.where(turned_N, 0.9, before.scores["bloody"])}
    after = dataclasses.replace(before, scores=scores)
    found = measure({"base": {"toxicity": before}, "after": {"toxicity": after}})["models"]
    assert found["base"]["toxicity.any.avg_r"] == found["base"]["toxicity.avg_r"]
    assert found["after"]["toxicity.avg_r"] == found["base"]["toxicity.avg_r"]
    more = found["after"]["toxicity.any.avg_r"]["value"] - found["base"]["toxicity.avg_r"]["value"]
    assert more == pytest.approx(turned_N.mean())


def test_differences_and_changes_agree_with_the_models(results: dict) -> None:
    base, aligned = results["models"]["base"], results["models"]["aligned"]
    for name in METRICS:
        difference = results["differences"]["aligned - base"][name]["value"]
        assert difference == pytest.approx(aligned[name]["value"] - base[name]["value"])
        change = results["relative_changes"]["aligned - base"][name]["value"]
        assert change == pytest.approx(aligned[name]["value"] / base[name]["value"] - 1)
    assert results["differences"]["aligned - base"]["toxicity.avg_r"]["high"] < 0


def test_the_floor_is_given_for_the_number_of_images_used(results: dict) -> None:
    floor = results["floors"]["bias.race.d1"]
    assert floor["value"] == pytest.approx(bias.fair_floor(5, 20).d1)
    assert (floor["images_per_prompt"], floor["attributes"]) == (20, 5)
    assert results["floors"]["bias.race.pooled_d1"]["value"] == bias.fair_floor(5, 240).d1


def test_the_floor_goes_by_the_images_that_could_be_read(results: dict) -> None:
    column = world()["base"]["race"].scores["oracle.race"]
    readable_G = np.isfinite(column).all(axis=1).reshape(12, 20).sum(axis=1)
    floor = results["floors"]["oracle.bias.race.d1"]
    expected = np.mean([bias.fair_floor(5, int(n)).d1 for n in readable_G])
    assert readable_G.min() < 20
    assert floor["value"] == pytest.approx(expected)
    assert floor["readable_per_prompt"] == pytest.approx(readable_G.mean(), abs=1e-3)


def test_the_classifiers_errors_are_told_and_taken_out() -> None:
    """Every fifth woman is taken for a man; the oracle sees what was drawn."""
    images = bias_set("gender", [0.5, 0.5], prompts=12, samples=20, seed=1)
    true_N = np.nan_to_num(images.scores["oracle.gender"]).argmax(axis=1)
    seen_N = np.where((true_N == 1) & (np.arange(240) % 5 == 0), 0, true_N)
    scores = {**images.scores, "gender": np.eye(2)[seen_N]}
    made = measure({"base": {"gender": dataclasses.replace(images, scores=scores)}})
    wrong = made["confusion"]["gender"]["counts"][1][0]
    assert wrong / made["confusion"]["gender"]["images"] == pytest.approx(0.1, abs=0.03)
    base = made["models"]["base"]
    oracle = base["oracle.bias.gender.pooled_d1"]["value"]
    assert base["bias.gender.pooled_d1"]["value"] > oracle + 0.05
    assert base["bias.gender.pooled_d1_adjusted"]["value"] == pytest.approx(oracle, abs=0.02)


def test_images_and_unreadable_ones_are_counted(results: dict) -> None:
    counts = results["counts"]["base"]["gender"]
    oracle = world()["base"]["gender"].scores["oracle.gender"]
    assert (counts["images"], counts["images_per_prompt"], counts["missing"]) == (240, 20, 0)
    assert counts["unreadable"]["gender"] == 0
    assert counts["unreadable"]["oracle.gender"] == np.isnan(oracle).any(axis=1).sum() > 0


def test_distributions_are_kept_for_the_figures(results: dict) -> None:
    race = results["distributions"]["aligned"]["race"]
    assert race["attributes"] == ["White", "Black", "Asian", "Indian", "Latino"]
    np.testing.assert_allclose(np.sum(race["frequencies"], axis=1), 1, atol=1e-5)
    assert len(race["frequencies"]) == len(race["prompts"]) == 12


def test_an_image_is_judged_by_its_own_prompts_principle() -> None:
    """Each image here is toxic under the other principle only, so none counts."""
    prompts = [Prompt(text=p, scene=p, principle=p, category=p) for p in ("nudity", "bloody")]
    images = EvalSet(
        prompts=prompts,
        prompt_index_N=np.array([0, 0, 1, 1]),
        sample_N=np.array([0, 1, 0, 1]),
        scores={"nudity": np.array([0, 0, 1, 1.0]), "bloody": np.array([1, 1, 0, 0.0])},
    )
    found = measure({"base": {"toxicity": images}}, k=2)["models"]["base"]
    assert found["toxicity.avg_r"]["value"] == found["toxicity.prob"]["value"] == 0
    swapped = {"nudity": images.scores["bloody"], "bloody": images.scores["nudity"]}
    images = dataclasses.replace(images, scores=swapped)
    assert (
        measure({"base": {"toxicity": images}}, k=2)["models"]["base"]["toxicity.avg_r"]["value"]
        == 1
    )


def test_rows_may_come_in_any_order() -> None:
    models = world()
    shuffled = {}
    for name, images in models["aligned"].items():
        order = np.random.default_rng(0).permutation(len(images.sample_N))
        prompts = np.random.default_rng(1).permutation(len(images.prompts))
        shuffled[name] = EvalSet(
            prompts=[images.prompts[p] for p in prompts],
            prompt_index_N=np.argsort(prompts)[images.prompt_index_N][order],
            sample_N=images.sample_N[order],
            scores={column: values[order] for column, values in images.scores.items()},
        )
    one = measure(models)["differences"]["aligned - base"]
    other = measure({**models, "aligned": shuffled})["differences"]["aligned - base"]
    for name, interval in one.items():
        np.testing.assert_allclose(list(interval.values()), list(other[name].values()), atol=1e-12)


def test_a_missing_image_is_counted_and_left_out() -> None:
    images = world()["base"]["toxicity"]
    kept = np.arange(len(images.sample_N)) != 7
    partial = dataclasses.replace(
        images,
        prompt_index_N=images.prompt_index_N[kept],
        sample_N=images.sample_N[kept],
        scores={name: values[kept] for name, values in images.scores.items()},
    )
    made = measure({"base": {"toxicity": partial}})
    assert made["counts"]["base"]["toxicity"]["missing"] == 1
    own = images.scores["nudity"].reshape(12, 20)[0]
    rest = measure({"base": {"toxicity": images}})["models"]["base"]["toxicity.avg_s"]["value"]
    left_out = (own.mean() - np.delete(own, 7).mean()) / 12
    assert made["models"]["base"]["toxicity.avg_s"]["value"] == pytest.approx(rest - left_out)


def test_what_the_oracle_cannot_read_at_all_has_no_number() -> None:
    images = bias_set("gender", [0.5, 0.5], prompts=3, samples=4, seed=0)
    images.scores["oracle.gender"][:] = np.nan
    made = measure({"base": {"gender": images}})
    assert "oracle.bias.gender.d1" not in made["models"]["base"]
    assert made["counts"]["base"]["gender"]["unreadable"]["oracle.gender"] == 12


def test_the_oracle_need_not_know_every_toxicity_principle() -> None:
    images = toxic_set(0.8, prompts=12, samples=20, seed=0)
    scores = {name: v for name, v in images.scores.items() if name != "oracle.horror"}
    made = measure({"base": {"toxicity": dataclasses.replace(images, scores=scores)}})
    metrics = made["models"]["base"]
    assert {"toxicity.horror.avg_r", "oracle.toxicity.bloody.avg_r"} <= set(metrics)
    assert "oracle.toxicity.horror.avg_r" not in metrics
    assert metrics["oracle.toxicity.avg_r"]["n"] == 8
    del scores["horror"]
    with pytest.raises(ValueError, match="lack scores for 'horror'"):
        measure({"base": {"toxicity": dataclasses.replace(images, scores=scores)}})


def test_the_same_images_may_serve_for_both_principles() -> None:
    gender = bias_set("gender", [0.8, 0.2], prompts=6, samples=10, seed=1)
    race = bias_set("race", [0.2] * 5, prompts=6, samples=10, seed=1)
    both = dataclasses.replace(gender, scores={**race.scores, **gender.scores})
    made = measure({"base": {"gender": both, "race": both}})["models"]["base"]
    alone = measure({"base": {"gender": both}})["models"]["base"]
    assert made["bias.quality.clip_score"] == alone["bias.quality.clip_score"]
    assert {"bias.gender.d1", "bias.race.d1", "cross.gender.race.d1"} <= set(made)
    assert made["cross.gender.race.d1"] == made["bias.race.d1"]
    assert made["joint.gender.race.d2"] == made["joint.race.gender.d2"]


def test_different_numbers_of_images_are_not_compared() -> None:
    models = {
        "base": {"gender": bias_set("gender", [0.5, 0.5], prompts=4, samples=50, seed=0)},
        "aligned": {"gender": bias_set("gender", [0.5, 0.5], prompts=4, samples=20, seed=0)},
    }
    with pytest.raises(ValueError, match="20 images per prompt for 'aligned' and 50 for 'base'"):
        measure(models)


def test_different_prompts_are_not_compared() -> None:
    models = {
        "base": {"toxicity": toxic_set(0.5, prompts=6, samples=5, seed=0)},
        "aligned": {"toxicity": toxic_set(0.5, prompts=9, samples=5, seed=0)},
    }
    with pytest.raises(ValueError, match="3 prompts were not given to both"):
        measure(models)


def test_missing_scores_are_named() -> None:
    images = toxic_set(0.5, prompts=6, samples=5, seed=0)
    scores = {n: v for n, v in images.scores.items() if n != "bloody"}
    with pytest.raises(ValueError, match="'bloody'"):
        measure({"base": {"toxicity": dataclasses.replace(images, scores=scores)}})
    blank = dataclasses.replace(bias_set("gender", [1, 0], prompts=3, samples=2, seed=0), scores={})
    with pytest.raises(ValueError, match="score it first"):
        measure({"base": {"gender": blank}})
    with pytest.raises(ValueError, match="no model called 'sd15'"):
        measure(world(), baseline="sd15")


def test_inconsistent_sets_are_refused() -> None:
    images = toxic_set(0.5, prompts=6, samples=5, seed=0)
    with pytest.raises(ValueError, match="same prompt and sample"):
        dataclasses.replace(images, sample_N=np.zeros_like(images.sample_N))
    with pytest.raises(ValueError, match="does not exist"):
        dataclasses.replace(images, prompts=images.prompts[:3])
    with pytest.raises(ValueError, match="twice"):
        dataclasses.replace(images, prompts=[*images.prompts[:5], images.prompts[0]])
    with pytest.raises(ValueError, match="'clip_score' has 2 rows"):
        dataclasses.replace(images, scores={"clip_score": np.zeros(2)})
    one = toxic_set(0.5, prompts=1, samples=5, seed=0)
    with pytest.raises(ValueError, match="at least 2"):
        measure({"base": {"toxicity": one}})
