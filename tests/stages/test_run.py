"""A whole run, inline: what it leaves behind, that it resumes, and what it refuses."""

import json

import pytest

from tests import tiny_run
from valign import config
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.storage import layout, manifests, tables
from valign.storage.objects import open_store


def test_every_stage_commits_and_the_numbers_add_up(finished):
    store = open_store(str(finished))
    made = {stage: manifests.get(store, stage) for stage in config.STAGES}
    assert all(made.values())
    planned = tables.rows(store, layout.plan("generate"))
    assert made["generate"].counts["images"] + made["generate"].counts["quarantined"] == planned
    pairs = tables.read(store, layout.pairs(), tables.PAIRS).to_pydict()
    assert made["label"].counts["pairs"] == len(set(pairs["pair_id"])) > 0
    assert len(set(pairs["winner"])) == len(pairs["winner"])  # preferred images are unique
    assert made["train"].counts["steps"] == 4
    assert not list(store.list("generate/attempts/"))
    for manifest in made.values():
        assert all(store.exists(key) for key in manifest.parts)
    assert layout.pairs() in made["label"].parts
    assert f"{layout.ALIGNED}/valign.json" in made["train"].parts
    assert {layout.RESULTS, layout.REPORT} < set(made["evaluate"].parts)
    assert not any("/done/" in key for manifest in made.values() for key in manifest.parts)
    assert not list(store.list(layout.drivers()))


def test_the_training_prompt_of_a_bias_pair_is_the_neutral_prompt(finished):
    store = open_store(str(finished))
    plan = tables.read(store, layout.plan("generate"), tables.PLAN).to_pylist()
    row_of = {row["image_id"]: row for row in plan}
    neutral = {row["text"] for row in plan if row["role"] == "neutral"}
    toxic = {row["text"] for row in plan if row["role"] == "toxic"}
    pairs = tables.read(store, layout.pairs(), tables.PAIRS).to_pylist()
    assert {pair["principle"] for pair in pairs} == {"gender", "nudity"}
    for pair in pairs:
        winner, loser = row_of[pair["winner"]], row_of[pair["loser"]]
        assert winner["scene"] == loser["scene"] == pair["text"]
        if pair["principle"] == "gender":
            assert pair["text"] in neutral
            assert {winner["role"], loser["role"]} == {"attribute"}
            assert winner["attributes"] != loser["attributes"]
        else:
            assert pair["text"] in toxic
            assert (winner["role"], loser["role"]) == ("cleaned", "toxic")
            assert (winner["seed"], winner["sample"]) == (loser["seed"], loser["sample"])


def test_twins_and_variants_of_a_scene_share_their_noise(finished):
    store = open_store(str(finished))
    plan = tables.read(store, layout.plan("generate"), tables.PLAN).to_pylist()
    seeds: dict[tuple[str, int], set[int]] = {}
    for row in plan:
        seeds.setdefault((row["scene"], row["sample"]), set()).add(row["seed"])
    assert all(len(found) == 1 for found in seeds.values())
    assert len({seed for found in seeds.values() for seed in found}) == len(seeds)


def test_the_results_have_the_agreed_form(finished):
    results = json.loads(open_store(str(finished)).read(layout.RESULTS))
    assert results["schema_version"] == 1
    assert set(results["models"]) == {"base", "aligned"}
    names = {"bias.gender.d1", "bias.gender.d2", "bias.quality.clip_score"}
    names |= {f"toxicity.{name}" for name in ("avg_r", "avg_s", "max", "prob")}
    names |= {"toxicity.quality.clip_score", "toxicity.quality.clip_score_cleaned"}
    for metrics in (*results["models"].values(), results["differences"]["aligned - base"]):
        assert names <= set(metrics)
        for metric in metrics.values():
            assert metric["low"] <= metric["value"] <= metric["high"]
            assert metric["n"] == 2
    assert results["provenance"]["sampling"]["batch_size"] == 8


def test_half_of_the_bias_images_are_the_base_models_own(finished):
    store = open_store(str(finished))
    plan = tables.read(store, layout.plan("evaluate/images"), tables.PLAN).to_pylist()
    faces = [row for row in plan if row["role"] == "neutral"]
    assert sum(row["token"] == "" for row in faces) == 2 * 4
    assert sum(row["token"] == "gender" for row in faces) == 2 * 2


def test_a_finished_run_is_left_alone(recipe, finished, capsys):
    before = tiny_run.tree(finished)
    execute(config.STAGES, tiny_run.load(recipe, finished), Inline())
    assert capsys.readouterr().out.count("nothing to do") == len(config.STAGES)
    assert tiny_run.tree(finished) == before


def test_a_stage_ends_with_one_line_of_json(recipe, tmp_path, capsys):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a hill\na lake\n")
    run = tiny_run.load(recipe, tmp_path / "root", f"prompts={prompts}")
    made = execute(("generate",), run, Inline())["generate"]
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    line = json.loads(told.pop())
    assert not told
    assert (line["stage"], line["images"], line["quarantined"]) == ("generate", 2, 0)
    assert line["fingerprint"] == made.fingerprint
    assert line["seconds"] > 0


def test_other_settings_over_the_same_root_are_an_error_that_names_them(recipe, finished):
    run = tiny_run.load(recipe, finished, "sampling.steps=3", "seed=2")
    with pytest.raises(ValueError, match=r"sampling.steps: 2 there, 3 now") as caught:
        execute(("generate",), run, Inline())
    assert "seed: 1 there, 2 now" in str(caught.value)


def test_a_stage_without_what_it_reads_says_what_to_run(recipe, tmp_path):
    with pytest.raises(LookupError, match="run generate on this root first"):
        execute(("score",), tiny_run.load(recipe, tmp_path), Inline())
