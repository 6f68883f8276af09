"""A checkpoint in the original layout is the same generator as the folder it came from."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.original_layout import save_checkpoint
from tests.tiny import build_generator
from valign.models.generator import GeneratorOptions, Sampler, load_generator

PROMPTS = ["a photo of a doctor", "zombies in the rain"]


def draw(generator):
    cond = generator.condition(PROMPTS, ["blood", ""])
    return generator.sample(cond, [1, 2], Sampler(steps=3))


def configs_of(folder, target):
    """Copy a pipeline folder without its weights."""
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))


@pytest.fixture(scope="module")
def checkpoint(generator_folder, tmp_path_factory):
    return save_checkpoint(generator_folder, tmp_path_factory.mktemp("one") / "sd.safetensors")


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_checkpoint_draws_the_images_of_its_folder(family, request, tmp_path):
    name = {"sd15": "generator", "sdxl": "sdxl"}[family]
    folder = request.getfixturevalue(f"{name}_folder")
    file = save_checkpoint(folder, tmp_path / "model.safetensors")
    configs = configs_of(folder, tmp_path / "configs")
    single = load_generator(str(file), GeneratorOptions(config=str(configs)))
    whole = request.getfixturevalue(name)
    assert np.array_equal(draw(single), draw(whole))
    assert single.fingerprint != whole.fingerprint


def test_its_fingerprint_follows_weights_and_configs(checkpoint, generator_folder, tmp_path):
    configs = configs_of(generator_folder, tmp_path / "configs")
    options = GeneratorOptions(config=str(configs))
    first = load_generator(str(checkpoint), options).fingerprint
    stored = load_file(checkpoint)
    stored["model.diffusion_model.out.2.bias"] += 1
    changed = tmp_path / "changed.safetensors"
    save_file(stored, changed)
    second = load_generator(str(changed), options).fingerprint
    schedule = configs / "scheduler" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace("0.012", "0.013"))
    assert len({first, second, load_generator(str(checkpoint), options).fingerprint}) == 3


@pytest.mark.parametrize(
    ("dropped", "told"),
    [
        ("model.diffusion_model.out.2.bias", "unet.*1 missing"),
        ("first_stage_model.quant_conv.bias", "vae.*1 missing"),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            "text_.*1 missing",
        ),
    ],
)
def test_a_missing_weight_is_an_error(checkpoint, generator_folder, tmp_path, dropped, told):
    stored = load_file(checkpoint)
    del stored[dropped]
    broken = tmp_path / "broken.safetensors"
    save_file(stored, broken)
    with pytest.raises(ValueError, match=told):
        load_generator(str(broken), GeneratorOptions(config=str(generator_folder)))


def test_what_is_no_checkpoint_of_this_kind_is_told(
    checkpoint, generator_folder, sdxl_folder, tmp_path
):
    with pytest.raises(ValueError, match="give generator_config"):
        load_generator(str(checkpoint))
    with pytest.raises(ValueError, match="belongs? to a(nother)? model"):
        load_generator(str(checkpoint), GeneratorOptions(config=str(sdxl_folder)))
    wide = build_generator(tmp_path / "wide", width=48)
    with pytest.raises(ValueError, match="do not fit"):
        load_generator(str(checkpoint), GeneratorOptions(config=str(wide)))
    with pytest.raises(ValueError, match="brings its own configs"):
        load_generator(str(generator_folder), GeneratorOptions(config=str(wide)))
    options = GeneratorOptions(config=str(generator_folder))
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match="no Stable Diffusion checkpoint"):
        load_generator(str(other), options)
    other.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no readable safetensors"):
        load_generator(str(other), options)
    with pytest.raises(ValueError, match="no checkpoint at"):
        load_generator(str(tmp_path / "absent.safetensors"), options)


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".pkl"])
def test_pickles_are_refused_unread(suffix, tmp_path):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    with pytest.raises(ValueError, match="is a pickle"):
        load_generator(str(file), GeneratorOptions(config="x/y"))


def test_a_folder_with_pickled_weights_only_names_them(generator_folder, tmp_path):
    folder = shutil.copytree(generator_folder, tmp_path / "copy")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.bin; pickles are never read"):
        load_generator(str(folder))
