"""The aligned model: three lines to use, the base's own images where no principle applies."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.tiny import build_generator
from valign.models.aligned import AlignedPipeline, resolve_base, sample_rows, save_aligned
from valign.models.generator import Sampler
from valign.models.value_encoder import ValueEncoder

PRINCIPLES = {"gender": "gender equality", "bloody": "bloody content is considered inappropriate"}
FAST = Sampler(steps=3)


@pytest.fixture(scope="module")
def aligned_folder(generator, generator_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    save_aligned(
        folder,
        ValueEncoder.from_generator(generator, PRINCIPLES),
        base=str(generator_folder),
        card="# An aligned model\n",
        sampler=Sampler(steps=2, guidance=3.0),
    )
    return folder


@pytest.fixture(scope="module")
def pipe(aligned_folder):
    return AlignedPipeline.from_pretrained(aligned_folder)


def test_no_principle_gives_the_base_models_bytes(pipe, generator):
    prompts = ["a photo of a doctor", "a red bus", "rain"]
    images = pipe(prompts, ["", "", ""], [1, 2, 3], FAST)
    base = generator.sample(generator.condition(prompts), [1, 2, 3], FAST)
    assert np.array_equal(images, base)


def test_the_saved_sampler_is_the_default(pipe):
    saved = pipe(["a red bus"], ["bloody"], [1])
    assert np.array_equal(saved, pipe(["a red bus"], ["bloody"], [1], Sampler(steps=2, guidance=3)))
    assert not np.array_equal(saved, pipe(["a red bus"], ["bloody"], [1], Sampler(steps=3)))


def test_in_a_mixed_call_rows_without_a_principle_stay_the_bases_bytes(pipe, generator):
    prompts = ["a photo of a doctor", "a red bus", "rain", "blood"]
    images = pipe(prompts, ["gender", "", "", "bloody"], [1, 2, 3, 4], FAST)
    base = generator.sample(generator.condition(prompts), [1, 2, 3, 4], FAST)
    assert np.array_equal(images[[1, 2]], base[[1, 2]])
    assert not np.array_equal(images[0], base[0])
    assert not np.array_equal(images[3], base[3])


def test_a_rows_bytes_do_not_depend_on_which_others_have_tokens(pipe):
    prompts, seeds = ["a red bus", "rain", "a doctor"], [1, 2, 3]
    some = pipe(prompts, ["bloody", "", ""], seeds, FAST)
    others = pipe(prompts, ["bloody", "bloody", "gender"], seeds, FAST)
    assert np.array_equal(some[0], others[0])


def test_bias_principles_reach_their_share_of_a_prompts_images(pipe):
    prompts, keys = ["a doctor"] * 8 + ["a nurse"] * 3, ["gender"] * 8 + ["bloody"] * 3
    seeds = range(11)
    assert pipe.applied(prompts, keys, seeds)[:8].sum() == 4
    assert pipe.applied(prompts, keys, seeds)[8:].all()
    assert pipe.applied(prompts, keys, seeds, always=True).all()
    single = [pipe.applied(["a doctor"], ["gender"], [seed])[0] for seed in range(200)]
    assert 75 < sum(single) < 125
    assert not pipe.applied(prompts, [""] * 11, seeds).any()


def test_negative_prompts_and_batches_of_any_size_work(pipe):
    prompts = [f"a doctor number {i}" for i in range(5)]
    keys = ["bloody", "", "bloody", "", "bloody"]
    whole = pipe(prompts, keys, range(5), FAST, negatives=["rain"] * 5).astype(int)
    by_two = pipe(prompts, keys, range(5), FAST, negatives=["rain"] * 5, batch_size=2).astype(int)
    assert whole.shape == (5, 64, 64, 3)
    assert np.abs(whole - by_two).max() <= 1


def test_the_base_can_lie_elsewhere_but_must_be_the_same(
    aligned_folder, generator_folder, tmp_path
):
    moved = shutil.copytree(generator_folder, tmp_path / "moved")
    pipe = AlignedPipeline.from_pretrained(aligned_folder, base=str(moved))
    assert pipe.generator.files.folder == moved
    other = build_generator(tmp_path / "other", seed=3)
    with pytest.raises(ValueError, match=r"not the base model.*base="):
        AlignedPipeline.from_pretrained(aligned_folder, base=str(other))
    with pytest.raises(ValueError, match="base="):
        AlignedPipeline.from_pretrained(aligned_folder, base=str(tmp_path / "nowhere"))


def test_sources_of_the_base_resolve_to_folders_or_hub_ids(tmp_path):
    found = resolve_base("package:valign.models/generator.py")
    assert found.endswith("valign/models/generator.py")
    assert resolve_base(f"file://{tmp_path}") == str(tmp_path)
    assert resolve_base("file:///data/my%20models") == "/data/my models"
    assert resolve_base("org/name") == "org/name"
    with pytest.raises(ValueError, match="base="):
        resolve_base("s3://bucket/base")
    with pytest.raises(ValueError, match="no_such_package"):
        resolve_base("package:no_such_package/weights")


def test_the_folder_says_what_it_is(aligned_folder, generator, tmp_path):
    pointer = json.loads((aligned_folder / "valign.json").read_text())
    assert pointer["base"]["fingerprint"] == generator.fingerprint
    assert (aligned_folder / "README.md").read_text().startswith("# An aligned model")
    with pytest.raises(ValueError, match="no saved aligned model"):
        AlignedPipeline.from_pretrained(tmp_path)
    newer = shutil.copytree(aligned_folder, tmp_path / "newer")
    (newer / "valign.json").write_text(json.dumps(pointer | {"schema_version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        AlignedPipeline.from_pretrained(newer)


def test_wrong_calls_are_told(pipe):
    with pytest.raises(LookupError, match=r"'peace'.*gender, bloody"):
        pipe(["a"], ["peace"], [1], FAST)
    with pytest.raises(ValueError, match="2 seeds"):
        pipe(["a"], ["gender"], [1, 2], FAST)
    with pytest.raises(ValueError, match="give lists"):
        pipe("a red bus", [""] * 9, range(9), FAST)


def test_rows_are_put_back_in_their_places(generator):
    prompts = [f"number {i}" for i in range(7)]
    cond = generator.condition(prompts)
    token = torch.zeros(7, 1, 32)
    apply = [True, False, False, True, False, True, False]
    images = sample_rows(
        generator, cond, range(7), FAST, batch_size=3, token_N1D=token, apply_N=apply
    ).astype(int)
    for row in range(7):
        one = cond.take([row])
        if apply[row]:
            one = ValueEncoder.attach(one, token[:1], [True])
        alone = generator.sample(one, [row], FAST).astype(int)
        assert np.abs(images[row] - alone[0]).max() <= 1
