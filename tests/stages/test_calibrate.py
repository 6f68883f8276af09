"""The calibrated value drop: on which concepts, by which images, where it is kept and used."""

import json
import os
import shutil

import numpy as np
import pytest

from tests import crashing_store, tiny_run
from valign import config
from valign.evaluation import bias
from valign.models.aligned import AlignedPipeline
from valign.models.value_encoder import ValueEncoder
from valign.stages import calibrate, evaluate_sets, principles, prompts, train
from valign.stages.evaluate_models import Model
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.stages.scores import read_scores
from valign.stages.work import Lines, Work
from valign.storage import layout, manifests, tables
from valign.storage.objects import open_store

CALIBRATED = ("train.value_drop=calibrated", "train.calibration_concepts=3")
# A rate at which the tiny token changes what images show within four steps.
STRONG = ("train.learning_rate=0.3", "train.clip_norm=100")
SMALL = (
    *(*CALIBRATED, *STRONG),
    *("train.calibration_images=6", "evaluate.images_per_bias_prompt=8"),
)


def concepts(asked):
    return {prompt.concept for found in asked.values() for prompt in found}


def trained_on(run):
    return {request.prompt.concept for request in prompts.training(run).requests} - {""}


@pytest.mark.parametrize(
    ("name", "some"),
    [("miniature", "null"), ("miniature", "20"), ("miniature_full", "null")],
)
def test_calibration_concepts_are_neither_trained_nor_evaluated_on(name, some):
    run = config.load(name, [CALIBRATED[0], f"generate.bias_prompts={some}"])
    held_back = concepts(prompts.calibration(run))
    assert len(held_back) == run.train.calibration_concepts == 24
    assert set(prompts.calibration(run)) == {"gender", "race"}
    assert held_back.isdisjoint(trained_on(run))
    assert held_back.isdisjoint(concepts(prompts.evaluation(run)))


def test_a_run_on_all_concepts_holds_some_back_and_a_smaller_one_trains_as_ever():
    every = ["generate.bias_prompts=null", "generate.principles=[gender]"]
    whole = trained_on(config.load("miniature", every))
    left = trained_on(config.load("miniature", [*every, "train.value_drop=calibrated"]))
    assert (len(whole), len(left)) == (528, 504)
    assert left < whole
    few = ["generate.bias_prompts=20"]
    as_ever = prompts.training(config.load("miniature", few))
    assert prompts.training(config.load("miniature", [*few, CALIBRATED[0]])) == as_ever
    assert prompts.calibration(config.load("miniature", few)) == {}


def test_nouns_of_ones_own_that_are_also_evaluated_cannot_calibrate(tmp_path):
    (tmp_path / "jobs.txt").write_text("welder\nolive farmer\nlion tamer\n")
    (tmp_path / "other.txt").write_text("lion tamer\n")
    own = f"kind: bias, text: age, attributes: [young, old], train: {tmp_path}/jobs.txt"

    def load(other):
        given = [f"principles.age={{{own}, eval: {tmp_path}/{other}.txt}}", CALIBRATED[0]]
        return config.load(
            "miniature", [*given, "generate.principles=[age]", "train.calibration_concepts=1"]
        )

    held_back = concepts(prompts.calibration(load("other")))
    assert held_back < {"welder", "olive farmer"}
    assert trained_on(load("other")) == {"welder", "olive farmer", "lion tamer"} - held_back
    with pytest.raises(ValueError, match=r"1 concepts of age .* lower train\.calibration_concepts"):
        prompts.training(load("jobs"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.value_drop=1.5", r"train\.value_drop"),
        ("train.value_drop=often", r"train\.value_drop"),
        ("train={value_drop: calibrated, trains: value_encoder+unet}", "give a share, such as 0.5"),
    ],
)
def test_what_cannot_be_a_share_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        config.load("miniature", [override])


@pytest.fixture(scope="module")
def trained(recipe, finished, tmp_path_factory):
    """Root of a tiny run that was ended between the last step and the calibration."""
    root = tmp_path_factory.mktemp("trained")
    for stage in ("generate", "score", "label", "encode"):
        shutil.copytree(finished / stage, root / stage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.calibrate, "perform", lambda work: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            execute(("train",), tiny_run.load(recipe, root, *SMALL), Inline())
    return root


@pytest.fixture(scope="module")
def calibrated(recipe, trained, tmp_path_factory):
    """The same run, gone on with, and evaluated."""
    root = tmp_path_factory.mktemp("calibrated") / "root"
    shutil.copytree(trained, root)
    run = tiny_run.load(recipe, root, *SMALL)
    execute(("train", "evaluate"), run, Inline())
    return run


def test_the_share_is_that_of_the_images_and_is_kept_with_the_value_encoder(calibrated):
    store = open_store(calibrated.root)
    made = manifests.get(store, "train")
    found = made.counts["value_drop"]["gender"]
    assert (found["prompts"], found["images_per_concept"]) == (3, 6)
    assert not list(store.list(f"{layout.CALIBRATE}/"))
    encoder = ValueEncoder.load(store.local(layout.ALIGNED) / "value_encoder")
    assert encoder.drop == {"gender": found["share"], "nudity": 1.0}
    assert encoder.calibration == made.counts["value_drop"]
    assert layout.CALIBRATION in made.parts

    # draw and classify once more, and look for the share by brute force
    again = calibrate.measure(Work(calibrated, store.url, store, Inline(), Lines()))
    assert again["gender"] == found
    scores = read_scores(store, calibrate.IMAGES, calibrate.SCORES)
    plan = tables.read(store, layout.plan(calibrate.IMAGES), tables.PLAN).to_pylist()
    tokens = {row["image_id"]: row["token"] for row in plan}
    assert set(scores["concept"]) == set(found["concepts"])
    token = np.array([tokens[image] for image in scores["image_id"]])
    text = np.array(scores["text"])
    seen = scores.classified("gender")

    def shown(key):
        rows = [(token == key) & (text == asked) for asked in sorted(set(text))]
        return np.array([np.bincount(seen[row], minlength=2) / row.sum() for row in rows])

    without, always = shown(""), shown("gender")
    seeds = {key: {row["seed"] for row in plan if row["token"] == key} for key in ("", "gender")}
    assert seeds[""] == seeds["gender"]  # the same noise with and without the token
    grid = np.linspace(0, 1, 201)[:, None, None]
    mixed = bias.spread_d2((1 - grid) * without + grid * always).mean(axis=1)
    assert found["d2"] <= mixed.min() + 1e-9
    assert found["d2_stated"] == pytest.approx(mixed[100])
    assert found["moved"] and (without != always).any()
    assert found["d2"] < found["d2_stated"]
    for key in list(store.list(f"{layout.CALIBRATE}/")):
        store.delete(key)


def test_whoever_draws_goes_by_the_share_that_is_kept(calibrated, monkeypatch):
    store = open_store(calibrated.root)
    results = json.loads(store.read(layout.RESULTS))
    shares = principles.trained_drop(store)
    assert results["provenance"]["value_drop"] == shares
    for share in (0.25, 0.875):
        model = Model(
            "aligned",
            "trained",
            calibrated,
            "base",
            folder=layout.ALIGNED,
            encoder="trained",
            shares={**shares, "gender": share},
        )
        (aligned,) = [s for s in evaluate_sets.plan(calibrated, [model], {}) if s.name == "gender"]
        by_prompt = [bool(row.token) for row in aligned.rows]
        assert np.reshape(by_prompt, (-1, 8)).sum(axis=1).tolist() == [8 * share] * 2
    folder = store.local(layout.ALIGNED)
    pipeline = AlignedPipeline.from_pretrained(folder)
    pipeline.value_encoder.drop["gender"] = 0.25
    assert pipeline.applied(["a judge"] * 8, ["gender"] * 8, range(8)).sum() == 2


def test_another_way_to_the_share_is_another_training(recipe, calibrated):
    stated = tiny_run.load(recipe, calibrated.root, *SMALL, "train.value_drop=0.25")
    assert principles.drop(stated) == {"gender": 0.25, "nudity": 1.0}
    with pytest.raises(ValueError, match=r'train\.value_drop: "calibrated" there, 0\.25 now'):
        execute(("train",), stated, Inline())
    with pytest.raises(ValueError, match="evaluate would build on train"):
        execute(("evaluate",), stated, Inline())


@pytest.mark.slow
def test_a_killed_calibration_goes_on_to_the_same_bytes(recipe, trained, calibrated, tmp_path):
    wanted = {k: v for k, v in tiny_run.tree(calibrated.root).items() if k.startswith("train/")}

    def go_on(root):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                execute(("train",), tiny_run.load(recipe, root, *SMALL), Inline())
                code = 0
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    reached = set()
    for at in range(12, 200, 11):
        root = tmp_path / str(at)
        shutil.copytree(trained, root)
        code = go_on(crashing_store.crashing_root(root, at))
        if code != 0:
            assert code == crashing_store.EXIT_CODE
            there = [key for key in tiny_run.tree(root) if key.startswith(layout.CALIBRATE)]
            reached |= {key.split("/")[2] for key in there}
            assert go_on(str(root)) == 0
        found = {k: v for k, v in tiny_run.tree(root).items() if k.startswith("train/")}
        assert found == wanted, f"killed before change {at}"
        if code == 0:
            break
    assert {"images", "scores"} <= reached, "no kill fell into the calibration"
