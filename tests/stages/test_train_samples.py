"""Samples are what the model draws at that step, from the same noise, and stop no training."""

import json
import shutil

import numpy as np
import pytest

from tests import tiny_run
from valign import config
from valign.models.aligned import AlignedPipeline
from valign.records import noise_seed
from valign.stages import train_samples
from valign.stages.dataset_samples import draw
from valign.stages.execute import execute
from valign.stages.generator import sampler
from valign.stages.image_files import png
from valign.stages.inline import Inline
from valign.storage import layout
from valign.storage.objects import open_store

DOCTOR, TABLE, ZOMBIE = "A photo of a doctor", "A photo of a table", "A zombie covered in blood"


def begin(recipe, finished, root, *settings):
    for stage in ("generate", "score", "label", "encode"):
        shutil.copytree(finished / stage, root / stage)
    return tiny_run.load(recipe, root, *settings)


def grid(*rows):
    return draw([[png(image) for image in row] for row in rows])


def files(root):
    folder = root / layout.SAMPLES
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.png")}


def test_a_value_encoders_samples_are_the_bases_images_above_its_own(recipe, finished, tmp_path):
    prompts = f"train.samples.prompts=[{DOCTOR},{TABLE},{ZOMBIE}]"
    run = begin(
        recipe, finished, tmp_path, "train.samples.every=2", prompts, "train.samples.images=1"
    )
    execute(("train",), run, Inline())
    found = files(tmp_path)
    names = [f"{folder}step-0000000{step}.png" for folder in ("", "toxic/") for step in (2, 4)]
    assert sorted(found) == names
    pipeline = AlignedPipeline.from_pretrained(tmp_path / layout.ALIGNED)
    keys = [one.principle for one in train_samples.asked(run, open_store(str(tmp_path)))]
    assert keys == ["gender", "", ""], "the run trains no principle against blood"
    texts = [DOCTOR, TABLE, ZOMBIE]
    seeds = [noise_seed(run.seed, text, 0) for text in texts]
    base, now = (
        pipeline(texts, used, seeds, sampler(run), always=True) for used in ([""] * 3, keys)
    )
    assert found["step-00000004.png"] == grid(base[:2], now[:2])
    assert found["toxic/step-00000004.png"] == grid(base[2:], now[2:])
    assert np.array_equal(base[1], now[1]) and not np.array_equal(base[0], now[0])
    assert found["step-00000002.png"] != found["step-00000004.png"]
    (events,) = (tmp_path / layout.TENSORBOARD).iterdir()
    assert events.read_bytes().count(b"\x89PNG") == 2, "both steps', and no toxic ones"
    parts = json.loads((tmp_path / "train/manifest.json").read_text())["parts"]
    assert not [key for key in parts if key.startswith(layout.SAMPLES)]
    changed = tiny_run.load(recipe, tmp_path)  # no part of what training depends on
    assert config.dump(changed) != config.dump(run)
    execute(("train",), changed, Inline())


def test_without_prompts_it_draws_those_of_pairs_and_none_of_toxic_content(recipe, finished):
    run, store = tiny_run.load(recipe, finished), open_store(str(finished))
    asked = train_samples.asked(run, store)
    assert asked == train_samples.asked(run, store)
    assert 0 < len(asked) <= train_samples.PROMPTS
    assert {one.principle for one in asked} == {"gender"}, "nudity has pairs too"
    assert len({one.text for one in asked}) == len(asked)
    unet = tiny_run.load(
        recipe, finished, "train.objective=balanced_dpo", "train.trains=unet"
    )  # under no principle
    assert {one.principle for one in train_samples.asked(unet, store)} == {""}


def test_samples_that_fail_are_told_of_and_training_goes_on(recipe, finished, tmp_path, capsys):
    run = begin(recipe, finished, tmp_path, "train.samples.every=2")
    (tmp_path / "train").mkdir()
    (tmp_path / layout.SAMPLES).write_text("a file where the folder should be")
    made = execute(("train",), run, Inline())["train"]
    assert made.counts["steps"] == 4
    said = capsys.readouterr().out
    assert "no samples at step 2:" in said and "no samples at step 4:" in said
    wanted = (finished / layout.METRICS).read_text()
    assert (tmp_path / layout.METRICS).read_text() == wanted, "nothing else changed"


def test_a_prompt_that_the_guard_refuses_is_refused_before_anything_runs(recipe, tmp_path):
    run = tiny_run.load(recipe, tmp_path, "train.samples.prompts=['a child, nude']")
    with pytest.raises(ValueError, match=r"train\.samples\.prompts: one is refused"):
        execute(("train",), run, Inline())
    assert not (tmp_path / "train").exists()


@pytest.mark.parametrize("name", ["miniature", "miniature_long", "balanced_dpo_miniature"])
def test_the_miniatures_recipes_draw_a_few(name):
    train = config.load(name).train
    drawn = train_samples.PROMPTS * train.samples.images * (1 + train.steps // train.samples.every)
    assert 0 < drawn <= 20
