"""What rows of one table need: splits to tune on, one seed for data and another for training,
shares of pairs, the principle's text in the prompt, and one principle per prompt."""

import itertools
import json
import shutil

import pytest

from tests import tiny_run
from valign import config
from valign.stages import evaluate_sets, prompts
from valign.stages.execute import execute
from valign.stages.image_files import pixels
from valign.stages.inline import Inline
from valign.stages.pair_arrays import pairs_for
from valign.storage import layout, tables
from valign.storage.objects import open_store

SPLIT = ("evaluate.bias_prompts=30", "evaluate.toxic_prompts=30")


def asked(*settings):
    run = config.load("miniature", [*SPLIT, *settings])
    found = prompts.evaluation(run)
    names = {key: {p.concept or p.text for p in mine} for key, mine in found.items()}
    trained = {r.prompt.concept or r.prompt.scene for r in prompts.training(run).requests}
    return names, trained


def test_validation_prompts_are_neither_trained_on_nor_held_out():
    (held_out, _), (validation, trained), (seen, _) = (
        asked(f"evaluate.split={split}") for split in ("eval", "validation", "train")
    )
    for key in ("gender", "race", "toxicity"):
        assert len(held_out[key]) == len(validation[key]) == len(seen[key]) == 30
        assert not validation[key] & (held_out[key] | trained)
        assert seen[key] <= trained


def test_validation_needs_prompts_that_are_not_trained_on():
    with pytest.raises(ValueError, match=r"0 are not trained on: lower generate\.bias_prompts"):
        asked("evaluate.split=validation", "generate.bias_prompts=null")
    with pytest.raises(ValueError, match="are not trained on"):
        asked("evaluate.split=validation", "evaluate.bias_prompts=500")


def test_by_the_retriever_each_concept_is_asked_for_under_one_principle():
    (all_, _), (found, _) = asked(), asked("evaluate.by_retriever=true")
    assert found["gender"] and found["race"] and not found["gender"] & found["race"]
    assert found["gender"] | found["race"] <= all_["gender"]
    assert found["toxicity"] == all_["toxicity"]


def test_a_training_seed_changes_no_stage_before_training():
    one, other = (config.load("miniature", [f"train.seed={seed}"]) for seed in (1, 2))
    assert (one.training_seed, other.training_seed, config.load().training_seed) == (1, 2, 0)
    for stage, same in (("generate", True), ("encode", True), ("evaluate", True), ("train", False)):
        assert (one.fingerprint(stage, {}) == other.fingerprint(stage, {})) is same


def test_training_seeds_and_shares_of_pairs_train_on_other_batches(recipe, finished, tmp_path):
    logs = [(finished / layout.METRICS).read_text()]
    for number, settings in enumerate((["train.seed=7"], ["train.pairs_share=0.5"])):
        root = tmp_path / str(number)
        shutil.copytree(finished, root, ignore=shutil.ignore_patterns("train", "evaluate"))
        execute(("train",), tiny_run.load(recipe, root, *settings), Inline())
        logs.append((root / layout.METRICS).read_text())
    assert len(set(logs)) == 3


def test_a_share_holds_for_each_principle_and_smaller_ones_are_part_of_it(recipe, finished):
    store, found = open_store(str(finished)), []
    for share in (0.2, 0.5, 1.0):
        run = tiny_run.load(recipe, finished, f"train.pairs_share={share}")
        pairs = pairs_for(store, run.train)
        found.append(dict(zip(pairs["pair_id"], pairs["principle"], strict=True)))
    for smaller, larger in itertools.pairwise(found):
        assert smaller.items() < larger.items()
    for key in ("gender", "nudity"):
        all_, half = (sum(p == key for p in each.values()) for each in (found[2], found[1]))
        assert half == -(-all_ // 2)


def test_the_principles_text_may_stand_in_the_prompt(recipe, tmp_path):
    settings = ["evaluate.models={aligned: null, words: prompted}", "evaluate.keep_images=true"]
    run = tiny_run.load(recipe, tmp_path / "root", *settings)
    execute(("evaluate",), run, Inline())
    store = open_store(run.root)
    base, words = (each for each in evaluate_sets.read(store) if each.name == "gender")
    assert sum(row.token == "gender" for row in words.rows) == len(words.rows) // 2
    assert [row.seed for row in base.rows] == [row.seed for row in words.rows]
    drawn = {}
    for prefix in evaluate_sets.prefixes(store):
        for key in store.list(layout.parts(f"{prefix}/images")):
            for row in tables.read(store, key, tables.IMAGES, ["image_id", "image"]).to_pylist():
                drawn[row["image_id"]] = pixels(row["image"]["bytes"]).tobytes()
    for plain, said in zip(base.rows, words.rows, strict=True):
        assert plain.prompt == said.prompt  # which is what images are scored by
        same = drawn[plain.image_id] == drawn[said.image_id]
        assert same is not bool(said.token)
    about = json.loads(store.read(layout.RESULTS))["provenance"]["models"]["words"]
    assert about["value_drop"] == {"gender": 0.5, "nudity": 1.0}

    # the same images as of that text as a user's own prompt
    row = next(row for row in words.rows if row.token)
    asked_for = tmp_path / "own.txt"
    asked_for.write_text(f"gender equality, {row.prompt.text}\n")
    from valign.stages.generate import Worker

    own = tiny_run.load(recipe, tmp_path / "own", "generate.images_per_user_prompt=4",
                        f"prompts={asked_for}")  # fmt: skip
    execute(("generate",), own, Inline())
    planned = tables.read(open_store(own.root), layout.plan("generate"), tables.PLAN).to_pylist()
    assert planned[0]["text"] == f"gender equality, {row.prompt.text}"
    worker = Worker(own, own.root)
    import dataclasses

    from valign.stages.images import planned_row

    again = dataclasses.replace(planned_row(planned[0]), seed=row.seed)
    assert worker._sample([again])[0].tobytes() == drawn[row.image_id]
