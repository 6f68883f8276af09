"""What a run refuses: mixed settings, changed inputs, and prompts that the guard forbids."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests import tiny, tiny_run
from valign.records import Prompt
from valign.stages import generate, images, score
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.stages.work import Shard
from valign.storage import layout, tables
from valign.storage.objects import open_store


def test_a_stage_does_not_build_on_another_cutting_into_shards(recipe, finished):
    run = tiny_run.load(recipe, finished, "generate.shard_rows=32")
    with pytest.raises(ValueError, match="score would build on generate") as caught:
        execute(("score",), run, Inline())
    assert "generate.shard_rows: 16 there, 32 now" in str(caught.value)
    assert f"recipe={finished}/recipe.yaml" in str(caught.value)


def test_a_refused_run_leaves_the_saved_recipe_as_it_was(recipe, finished):
    before = (finished / "recipe.yaml").read_bytes()
    with pytest.raises(ValueError, match="seed: 1 there, 9 now"):
        execute(("generate",), tiny_run.load(recipe, finished, "seed=9"), Inline())
    assert (finished / "recipe.yaml").read_bytes() == before


def test_looking_again_at_a_finished_stage_leaves_the_saved_recipe(recipe, finished):
    before = (finished / "recipe.yaml").read_bytes()
    execute(("generate",), tiny_run.load(recipe, finished, "train.steps=9"), Inline())
    assert (finished / "recipe.yaml").read_bytes() == before


def test_weights_that_changed_between_two_stages_are_noticed(tmp_path):
    recipe = tiny_run.write_recipe(tmp_path)
    small = ["generate.principles=[gender]", "generate.bias_prompts=1"]
    run = tiny_run.load(recipe, tmp_path / "root", *small)
    execute(("generate", "score", "label"), run, Inline())
    tiny.build_generator(tmp_path / "generator", seed=5)
    with pytest.raises(ValueError, match="encode would build on generate, and the generator's"):
        execute(("encode",), run, Inline())


def test_new_weights_of_a_scorer_are_noticed(tmp_path):
    recipe = tiny_run.write_recipe(tmp_path)
    small = ["generate.principles=[gender]", "generate.bias_prompts=1"]
    run = tiny_run.load(recipe, tmp_path / "root", *small)
    score.load.cache_clear()
    score.describe.cache_clear()
    execute(("generate", "score"), run, Inline())
    tiny.build_clip(tmp_path / "clip", seed=5)
    score.load.cache_clear()
    score.describe.cache_clear()
    with pytest.raises(ValueError, match="the weights of scorer clip was made anew"):
        execute(("score",), run, Inline())


def test_an_edited_file_of_prompts_is_noticed(recipe, tmp_path):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a hill\n")
    run = tiny_run.load(recipe, tmp_path / "root", f"prompts={prompts}")
    execute(("generate",), run, Inline())
    prompts.write_text("a hill\na lake\n")
    with pytest.raises(ValueError, match="the prompts was made anew"):
        execute(("generate",), run, Inline())


def test_a_users_bad_rows_are_named_and_strict_stops(recipe, tmp_path, capsys):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a hill\n\na hill\na nude child\n")
    run = tiny_run.load(recipe, tmp_path / "root", f"prompts={prompts}")
    made = execute(("generate",), run, Inline())["generate"]
    shown = capsys.readouterr().out
    assert (made.counts["images"], made.counts["refused"]) == (1, 1)
    assert "skipped row 3" in shown
    assert "skipped row 4" in shown
    everything = b"".join(p.read_bytes() for p in (tmp_path / "root").rglob("*") if p.is_file())
    assert b"nude child" not in everything  # refused texts are counted, never stored
    strict = tiny_run.load(recipe, tmp_path / "other", f"prompts={prompts}", "prompts_strict=true")
    with pytest.raises(ValueError, match="3"):
        execute(("generate",), strict, Inline())


def test_a_refused_prompt_that_was_planted_in_a_plan_is_not_drawn(recipe, tmp_path):
    run = tiny_run.load(recipe, tmp_path)
    fine = Prompt(text="a hill", scene="a hill")
    planted = dataclasses.replace(fine, text="a nude child", scene="a nude child")
    rows = [generate.planned(run, prompt, 0, "weights") for prompt in (fine, planted)]
    store = open_store(str(tmp_path))
    tables.write(store, layout.plan("generate"), images.columns(rows), tables.PLAN)
    report = generate.Worker(run, str(tmp_path))(Shard(0, 0, 2))
    assert (report.rows, report.quarantined) == (1, 1)
    drawn = tables.read(store, layout.part("generate", 0), tables.IMAGES)["text"].to_pylist()
    assert drawn == ["a hill"]
    quarantine = tables.read(store, layout.quarantine("generate", 0), tables.QUARANTINE)
    assert "refused" in quarantine["reason"][0].as_py()


def test_a_principle_without_a_scorer_is_an_error_before_any_work(recipe, tmp_path):
    run = tiny_run.load(recipe, tmp_path, "generate.principles=[gender, race]")
    with pytest.raises(ValueError, match="no scorer of the recipe gives race"):
        execute(("generate", "score"), run, Inline())
    assert not list(open_store(str(tmp_path)).list())


def test_classes_in_another_order_are_refused(recipe, tmp_path):
    run = tiny_run.load(recipe, tmp_path)
    scorers = [
        scorer.model_copy(update={"classes": ("female", "male")}) if scorer.classes else scorer
        for scorer in run.score.scorers
    ]
    with pytest.raises(ValueError, match="must list the classes"):
        score.load(tuple(scorers))


def test_pairs_are_capped_per_principle(recipe, finished, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for stage in ("generate", "score"):
        shutil.copytree(Path(finished) / stage, root / stage)
    capped = tiny_run.load(recipe, root, "label.max_pairs_per_principle=1")
    made = execute(("label",), capped, Inline())["label"]
    assert made.counts["pairs"] == 2
