"""What a server is made of: which models, from where, and when it may not start."""

import gc
import json
import shutil

import numpy as np
import pytest

from tests import tiny_run
from valign import config
from valign.models.aligned import AlignedPipeline, save_aligned
from valign.models.generator import load_generator
from valign.models.sampler import Sampler
from valign.models.value_encoder import ValueEncoder
from valign.records import noise_seed
from valign.serving.access import new_key
from valign.serving.aligned import ImageRequest
from valign.stages import serve
from valign.storage import layout

TEXTS = {"gender": "gender equality", "nudity": "nudity content is considered inappropriate"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run's root with a recipe and an aligned model, and the aligned model's folder alone."""
    folder = tmp_path_factory.mktemp("world")
    recipe = tiny_run.write_recipe(folder)
    run = tiny_run.load(recipe, folder / "root")
    generator = load_generator(run.generator)
    save_aligned(
        folder / "root" / layout.ALIGNED,
        ValueEncoder.from_generator(generator, TEXTS),
        base=run.generator,
        card="# aligned\n",
        sampler=Sampler(steps=2),
    )
    (folder / "root" / layout.RECIPE).write_text(config.dump(run))
    shutil.copytree(folder / "root" / layout.ALIGNED, folder / "model")
    return folder


def request(**more) -> ImageRequest:
    asked = {"prompt": "a doctor", "negative": "", "steps": 2, "guidance": 7.5, "size": (64, 64)}
    return ImageRequest(**{**asked, "seed": noise_seed(3, "a doctor", 0), **more})


def test_a_runs_root_and_a_models_folder_serve_the_same_images(world):
    by_root, by_folder = (
        serve.load_models(serve.run_of(str(world / name))) for name in ("root", "model")
    )
    assert list(by_root.cards) == ["aligned", "base"]
    assert by_root.cards == by_folder.cards
    assert by_root.cards["base"].fingerprint == by_root.generator.fingerprint
    assert by_root.cards["aligned"].fingerprint != by_root.generator.fingerprint
    asked = [request(model="aligned", principle="nudity"), request(model="base")]
    answers = [[a.image_HWC for a in m.answer(asked)] for m in (by_root, by_folder)]
    np.testing.assert_array_equal(answers[0], answers[1])
    offline = AlignedPipeline.from_pretrained(world / "model")
    for image, key in zip(answers[0], ("nudity", ""), strict=True):
        np.testing.assert_array_equal(image, offline(["a doctor"], [key], [asked[0].seed])[0])
    serve.warm_up(by_root)


def unets() -> int:
    gc.collect()
    return sum(type(one).__name__ == "UNet2DConditionModel" for one in gc.get_objects())


def test_any_number_of_models_share_one_unet(world):
    before = unets()
    named = f"serve.models={{mine: {world}/model, yours: {world}/root}}"
    models = serve.load_models(serve.run_of(str(world / "root"), [named]))
    assert list(models.cards) == ["mine", "yours", "base"]
    assert unets() == before + 1


def test_a_models_own_sampler_is_kept_and_too_many_steps_are_refused(world, tmp_path):
    own = shutil.copytree(world / "model", tmp_path / "own")
    pointer = json.loads((own / serve.POINTER).read_text())
    pointer["sampler"] |= {"steps": 30, "scheduler": "euler"}
    (own / serve.POINTER).write_text(json.dumps(pointer))
    named = f"serve.models={{own: {own}}}"
    models = serve.load_models(serve.run_of(str(world / "root"), [named])).models
    assert (models["own"].sampler.scheduler, models["own"].card.steps) == ("euler", 30)
    assert models["base"].sampler.scheduler == "dpmsolver++"
    few = serve.run_of(str(world / "root"), [named, "serve.max_steps=20"])
    with pytest.raises(ValueError, match="the model own takes 30 steps"):
        serve.load_models(few)


def test_the_output_filter_asks_only_for_what_a_scorer_tells(world):
    for key in ("nudtiy", "gender"):
        run = serve.run_of(str(world / "root"), [f"serve.output_filter={{{key}: on}}"])
        with pytest.raises(ValueError, match=f"output_filter: no scorer tells {key}"):
            serve.load_evaluator(run)


def test_models_of_other_generators_are_refused(world, tmp_path):
    other = shutil.copytree(world / "model", tmp_path / "other")
    pointer = json.loads((other / serve.POINTER).read_text())
    pointer["base"]["fingerprint"] = "0" * 64
    (other / serve.POINTER).write_text(json.dumps(pointer))
    run = serve.run_of(str(world / "root"), [f"serve.models={{mine: {world}/model, x: {other}}}"])
    with pytest.raises(ValueError, match="the model x was trained beside .* share one generator"):
        serve.load_models(run)


def test_a_target_that_is_none_is_told(tmp_path, world):
    with pytest.raises(LookupError, match="no run .* no aligned model .* no recipe"):
        serve.run_of(str(tmp_path))
    assert serve.folders(serve.run_of("miniature", [f"root={tmp_path}"])) == {}
    with pytest.raises(LookupError, match="holds no aligned model"):
        serve.folders(serve.run_of("miniature", [f"serve.models={{x: {tmp_path}}}"]))
    with pytest.raises(ValueError, match="base is the generator itself"):
        serve.folders(serve.run_of("miniature", [f"serve.models={{base: {world}/model}}"]))


def test_beyond_loopback_keys_are_needed(world, tmp_path):
    root, file = str(world / "root"), tmp_path / "keys.jsonl"
    serve.check(serve.run_of(root))
    beyond = ["serve.host=0.0.0.0"]
    with pytest.raises(ValueError, match="callers need keys"):
        serve.check(serve.run_of(root, beyond))
    with_file = [*beyond, f"serve.keys={file}"]
    with pytest.raises(LookupError, match="no such file"):
        serve.check(serve.run_of(root, with_file))
    file.write_text("# none yet\n")
    with pytest.raises(ValueError, match="holds no key"):
        serve.check(serve.run_of(root, with_file))
    file.write_text(new_key("alice")[1] + "\n")
    serve.check(serve.run_of(root, with_file))


def test_the_audit_needs_a_place(tmp_path):
    assert serve.audit_file(config.load("miniature", [f"root={tmp_path}"])).parent.name == "serve"
    bucket = ["root=s3://bucket/run"]
    with pytest.raises(ValueError, match=r"serve\.audit"):
        serve.audit_file(config.load("miniature", bucket))
    named = config.load("miniature", [*bucket, f"serve.audit={tmp_path}/a.jsonl"])
    assert serve.audit_file(named) == tmp_path / "a.jsonl"


def test_the_evaluator_has_the_runs_scorers_and_voters(world):
    evaluator = serve.load_evaluator(serve.run_of(str(world / "root")))
    assert [voter.name for voter in evaluator.voters] == ["clip_score"]
    assert {"clip_score", "gender", "nudity"} <= set(evaluator.columns)
    serve.warm_up_scorers(evaluator)
