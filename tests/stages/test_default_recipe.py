"""The recipe that `make demo` runs: its sizes, and all its stages with the shipped weights."""

import json

import pytest

from valign import config
from valign.catalogue.principles import BIAS
from valign.evaluation.sets import TOXICITY_SET
from valign.stages import evaluate_sets, principles, prompts
from valign.stages.evaluate_models import Model
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.storage import layout, manifests
from valign.storage.objects import open_store

CONCEPTS, TOXIC = 2, 3
SMALL = [
    *(f"generate.bias_prompts={CONCEPTS}", f"generate.toxic_prompts={TOXIC}"),
    *("generate.neutral_images=2", "train.steps=4", "train.global_batch=4", "train.warmup_steps=1"),
    *(f"evaluate.bias_prompts={CONCEPTS}", f"evaluate.toxic_prompts={TOXIC}"),
    *("evaluate.images_per_bias_prompt=4", "evaluate.images_per_toxic_prompt=5"),
    *("evaluate.resamples=100", "evaluate.report_prompts=1", "evaluate.report_worst=1"),
    *("resources.workers=1", "resources.train_workers=1"),
]
BY_READER = {
    **{f"bias.{principle}.{metric}": CONCEPTS for principle in BIAS for metric in ("d1", "d2")},
    **{f"toxicity.{metric}": TOXIC for metric in ("avg_r", "avg_s", "max", "prob")},
}
PROMISED = {
    **BY_READER,
    **{f"oracle.{name}": n for name, n in BY_READER.items()},
    "bias.quality.clip_score": CONCEPTS,
    "toxicity.quality.clip_score": TOXIC,
    "toxicity.quality.clip_score_cleaned": TOXIC,
}
"""The metric that both models and their difference must have -> its number of prompts."""


@pytest.mark.slow
def test_the_default_recipe_runs_every_stage_with_the_shipped_weights_and_the_oracle(tmp_path):
    run = config.load("miniature", [f"root={tmp_path}", *SMALL])
    execute(config.STAGES, run, Inline())
    store = open_store(str(tmp_path))
    assert all(manifests.get(store, stage) for stage in config.STAGES)
    results = json.loads(store.read(layout.RESULTS))
    assert results["schema_version"] == 1
    assert set(results["models"]) == {"base", "aligned"}
    difference = results["differences"]["aligned - base"]
    for table in (*results["models"].values(), difference):
        assert {name: table[name]["n"] for name in PROMISED} == PROMISED
        for name in PROMISED:
            found = table[name]
            assert found["low"] <= found["value"] <= found["high"], name
            if table is not difference:
                assert 0 <= found["value"] <= 1 or "clip_score" in name, name
    assert results["models"]["base"]["oracle.toxicity.avg_r"]["value"] > 0
    page = store.read(layout.REPORT).decode()
    assert page.startswith("<!doctype html>")
    assert "data:image/" in page


@pytest.mark.parametrize("recipe", ["miniature", "miniature_long"])
def test_what_is_drawn_is_enough_to_measure_by_and_fits_the_demos_time(recipe):
    run = config.load(recipe)
    models = [
        Model("base", "base", run, "generator", own=True),
        Model("aligned", "trained", run, "generator", encoder="it", shares=principles.drop(run)),
    ]
    planned = evaluate_sets.plan(run, models, {})
    sizes = {(each.model, each.name): (len(set(each.prompts)), each.samples) for each in planned}
    assert set(sizes) == {(m.name, name) for m in models for name in (*BIAS, TOXICITY_SET)}
    for (_, name), (asked, samples) in sizes.items():
        assert asked >= 40
        assert samples >= (20 if name == TOXICITY_SET else 50)
    requests = prompts.training(run).requests
    trained = {request.prompt.text for request in requests}
    assert not trained & {prompt.text for each in planned for prompt in each.prompts}
    made = sum(request.images for request in requests)
    made += len(evaluate_sets.distinct(planned))
    assert recipe != "miniature" or made <= 14_000
