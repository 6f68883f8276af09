"""Loading is strict: whatever does not fit is an error that says what, never random weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import build_generator
from valign.models import pipeline_files
from valign.models.generator import GeneratorOptions, load_generator
from valign.models.pipeline_files import weight_files


def fingerprint(folder):
    return pipeline_files.fingerprint(pipeline_files.local_files(str(folder)))


@pytest.fixture
def copy(generator_folder, tmp_path):
    return shutil.copytree(generator_folder, tmp_path / "copy")


def rewrite(file, change):
    save_file(change(load_file(file)), file)


WEIGHTS = {
    "text_encoder": "text_encoder/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("fault", ["missing", "unexpected", "mismatched"])
def test_weights_that_do_not_fit_are_an_error(copy, part, fault):
    def change(weights):
        name = next(key for key, value in weights.items() if value.ndim == 2)
        if fault == "missing":
            del weights[name]
        elif fault == "unexpected":
            weights["surplus.weight"] = torch.zeros(3)
        else:
            weights[name] = weights[name][:1].clone()
        return weights

    rewrite(copy / WEIGHTS[part], change)
    told = "shape|mismatched" if fault == "mismatched" else fault
    with pytest.raises(ValueError, match=rf"(?s)/{part} do not fit their config.json.*({told})"):
        load_generator(str(copy))


@pytest.mark.parametrize("saved", ["plain", "prefixed"])
def test_text_encoders_of_both_key_layouts_load_to_the_same_network(copy, generator, saved):
    def change(weights):
        bare = {key.removeprefix("text_model."): value for key, value in weights.items()}
        bare["embeddings.position_ids"] = torch.arange(77)[None]
        return bare if saved == "plain" else {f"text_model.{k}": v for k, v in bare.items()}

    rewrite(copy / WEIGHTS["text_encoder"], change)
    loaded = load_generator(str(copy))
    expected = generator.condition(["a red bus"]).context_BLD
    assert torch.equal(loaded.condition(["a red bus"]).context_BLD, expected)


def test_weights_saved_in_half_precision_run_in_the_precision_asked_for(copy):
    for file in WEIGHTS.values():
        rewrite(copy / file, lambda weights: {k: v.half() for k, v in weights.items()})
    loaded = load_generator(str(copy), GeneratorOptions(dtype="float32"))
    for network in (loaded.text_encoder, loaded.unet, loaded.vae):
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_another_kind_of_pipeline_is_named(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["_class_name"] = "FluxPipeline"
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"FluxPipeline.*StableDiffusionXLPipeline"):
        load_generator(str(copy))


def test_folders_that_are_no_pipeline_are_told(tmp_path, copy):
    with pytest.raises(ValueError, match="no generator folder"):
        load_generator(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="model_index"):
        load_generator(str(tmp_path))
    shutil.rmtree(copy / "vae")
    with pytest.raises(ValueError, match="lacks vae"):
        load_generator(str(copy))


def test_the_fingerprint_follows_weights_and_configs_and_nothing_else(copy, generator_folder):
    original = fingerprint(generator_folder)
    assert fingerprint(copy) == original
    (copy / "README.md").write_text("a note")
    shutil.copy(copy / WEIGHTS["unet"], copy / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert fingerprint(copy) == original

    def nudge(weights):
        weights["conv_in.bias"] = weights["conv_in.bias"] + 1
        return weights

    rewrite(copy / WEIGHTS["unet"], nudge)
    moved = fingerprint(copy)
    assert moved != original
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    assert len({original, moved, fingerprint(copy)}) == 3


def test_a_variants_weights_are_chosen_by_name(copy):
    folder = copy / "unet"
    shutil.copy(copy / WEIGHTS["unet"], folder / "diffusion_pytorch_model.fp16.safetensors")
    assert [f.name for f in weight_files(folder)] == ["diffusion_pytorch_model.safetensors"]
    assert [f.name for f in weight_files(folder, "fp16")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    with pytest.raises(ValueError, match="variant 'bf16'"):
        weight_files(folder, "bf16")


def test_the_schedule_is_stable_diffusions(generator):
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert generator.schedule.n_timesteps == 1000
    assert generator.schedule.prediction_type == "epsilon"
    np.testing.assert_allclose(
        generator.schedule.alphas_cumprod_T.numpy(), np.cumprod(1 - betas), rtol=1e-4
    )


def test_two_random_generators_differ(tmp_path, generator):
    other = load_generator(str(build_generator(tmp_path / "other", seed=1)))
    assert other.fingerprint != generator.fingerprint
