"""Stable Diffusion 2 and XL, and every scheduler: the images of diffusers' own pipelines."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.tiny import build_generator
from valign.models.generator import GeneratorOptions, Sampler, check, load_generator
from valign.models.pipeline_files import PipelineFiles
from valign.models.value_encoder import ValueEncoder

PROMPTS = ["a photo of a doctor", "zombies in the rain"]
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def sd2_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "sd2"
    return build_generator(folder, prediction="v_prediction")


def theirs(kind, folder, scheduler, negatives, steps, guidance, **how):
    """Return 0..255 images of a diffusers pipeline, from the noise of SEEDS."""
    pipeline = kind.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **how)
    images = pipeline(
        PROMPTS,
        negative_prompt=negatives,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="np",
    ).images
    return images * 255


def ours(generator, negatives, sampler):
    cond = generator.condition(PROMPTS, negatives)
    return generator.sample(cond, SEEDS, sampler)


def same(images, expected):
    # rounding to uint8 moves a pixel by half a level; the rest is 1e-3 of the range
    return np.abs(images - expected).max() <= 0.5 + 0.255


@pytest.mark.parametrize("negatives", [None, ["blood", "noise"]])
def test_sdxl_makes_the_images_of_the_diffusers_pipeline(sdxl, sdxl_folder, negatives):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    expected = theirs(
        StableDiffusionXLPipeline, sdxl_folder, EulerDiscreteScheduler, negatives, 5, 5.0
    )
    images = ours(sdxl, negatives, Sampler(steps=5, guidance=5.0, scheduler="euler"))
    assert images.shape == (2, 64, 64, 3)
    assert expected.std() > 5  # there is something to see
    assert same(images, expected)


def test_sdxl_conditions_on_both_encoders_pooled_text_and_size(sdxl):
    cond = sdxl.condition(PROMPTS)
    assert cond.context_BLD.shape == (2, 77, 40)
    assert cond.pooled_BP.shape == (2, 24)
    assert not cond.uncond_BLD.any() and not cond.uncond_pooled_BP.any()  # as SDXL was trained
    assert sdxl.condition(PROMPTS, ["x", "y"]).uncond_BLD.any()
    taken = cond.take([1])
    assert torch.equal(taken.pooled_BP, cond.pooled_BP[1:])
    one = Sampler(steps=2)
    images = sdxl.sample(cond, SEEDS, one)
    swapped = {"pooled_BP": cond.pooled_BP.flip(0)}
    other = type(cond)(**{name: getattr(cond, name) for name in cond.__slots__} | swapped)
    assert not np.array_equal(images, sdxl.sample(other, SEEDS, one))


def test_sdxl_keeps_an_images_bytes_whatever_shares_its_batch(sdxl):
    first = sdxl.sample(sdxl.condition(PROMPTS), SEEDS, Sampler(steps=2))
    second = sdxl.sample(sdxl.condition(["a red bus", PROMPTS[0]]), (9, 3), Sampler(steps=2))
    assert np.array_equal(first[0], second[1])
    alone = sdxl.sample(sdxl.condition(PROMPTS[:1]), SEEDS[:1], Sampler(steps=2))
    assert np.abs(alone[0].astype(int) - first[0]).max() <= 1


def test_one_call_for_both_halves_of_sdxl_equals_two(sdxl):
    from valign.models.conditioning import halves

    cond = sdxl.condition(PROMPTS, ["x", "y"])
    latents = sdxl.noise(SEEDS, Sampler())
    with torch.inference_mode():
        separate, together = (
            sdxl._guided(latents, torch.tensor(400), halves(cond, 2.0, together=each), 2.0, cond)
            for each in (False, True)
        )
    assert torch.allclose(together, separate, atol=1e-4 * float(separate.abs().max()))


def test_sdxls_vae_computes_in_float32_where_it_would_overflow(sdxl_folder):
    half = load_generator(str(sdxl_folder), GeneratorOptions(dtype="float16"))
    assert half.unet.dtype == torch.float16
    assert half.vae.dtype == torch.float32
    bfloat = load_generator(str(sdxl_folder), GeneratorOptions(dtype="bfloat16"))
    assert bfloat.vae.dtype == torch.bfloat16


def test_a_value_encoder_for_sdxl_is_refused(sdxl):
    with pytest.raises(ValueError, match="two text encoders"):
        ValueEncoder.from_generator(sdxl, {"gender": "gender equality"})


def test_latents_are_normalised_as_the_vae_states(sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "copy")
    path = folder / "vae" / "config.json"
    stated = {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [2.0, 3.0, 1.0, 4.0]}
    path.write_text(json.dumps(json.loads(path.read_text()) | stated))
    plain, normed = load_generator(str(sdxl_folder)), load_generator(str(folder))
    images = plain.decode(plain.noise(SEEDS, Sampler()))
    mean, std = (torch.tensor(each).view(1, 4, 1, 1) for each in stated.values())
    scale = normed.vae.config.scaling_factor
    expected = (plain.encode(images) / scale - mean) * scale / std
    assert torch.allclose(normed.encode(images), expected, atol=1e-5)
    moved = normed.decode(expected).astype(int) - plain.decode(plain.encode(images))
    assert np.abs(moved).max() <= 1


def test_velocity_prediction_makes_the_images_of_the_diffusers_pipeline(sd2_folder):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    generator = load_generator(str(sd2_folder))
    assert generator.schedule.prediction_type == "v_prediction"
    expected = theirs(
        StableDiffusionPipeline, sd2_folder, DPMSolverMultistepScheduler, None, 5, 5.0
    )
    assert same(ours(generator, None, Sampler(steps=5, guidance=5.0)), expected)


SCHEDULERS = {
    "second order": ("DPMSolverMultistepScheduler", {"solver_order": 2}, {"solver_order": 2}),
    "first order, Karras": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 1, "karras": True},
        {"solver_order": 1, "use_karras_sigmas": True},
    ),
    "third order": ("DPMSolverMultistepScheduler", {"solver_order": 3}, {"solver_order": 3}),
    "ddim": (
        "DDIMScheduler",
        {"scheduler": "ddim"},
        {"clip_sample": False, "set_alpha_to_one": False},
    ),
    "euler": ("EulerDiscreteScheduler", {"scheduler": "euler"}, {}),
    "euler, Karras": (
        "EulerDiscreteScheduler",
        {"scheduler": "euler", "karras": True},
        {"use_karras_sigmas": True},
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_the_diffusers_one(generator, generator_folder, name):
    import diffusers

    kind, chosen, how = SCHEDULERS[name]
    pipeline, scheduler = diffusers.StableDiffusionPipeline, getattr(diffusers, kind)
    expected = theirs(pipeline, generator_folder, scheduler, None, 6, 3.0, **how)
    images = ours(generator, None, Sampler(steps=6, guidance=3.0, **chosen))
    assert same(images, expected)
    if name != "second order":
        assert not same(ours(generator, None, Sampler(steps=6, guidance=3.0)), expected)


def test_what_is_not_set_is_the_folders(generator_folder, tmp_path):
    folder = shutil.copytree(generator_folder, tmp_path / "copy")
    path = folder / "scheduler" / "scheduler_config.json"
    stated = {"solver_order": 1, "use_karras_sigmas": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | stated))
    stating = load_generator(str(folder))
    chosen = Sampler(steps=3, solver_order=1, karras=True)
    expected = ours(load_generator(str(generator_folder)), None, chosen)
    assert np.array_equal(ours(stating, None, Sampler(steps=3)), expected)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scheduler": "dpm"}, "dpmsolver\\+\\+, ddim, euler"),
        ({"scheduler": "euler", "solver_order": 2}, "applies to dpmsolver\\+\\+ only"),
        ({"solver_order": 4}, "not 1, 2 or 3"),
        ({"scheduler": "ddim", "karras": True}, "karras does not apply to ddim"),
        ({"steps": 1001}, "knows 1000"),
        ({"height": 20}, "multiples of 8"),
    ],
)
def test_settings_that_a_model_cannot_follow_are_told_before_any_weight_is_read(
    settings, told, generator_folder, tmp_path
):
    folder = shutil.copytree(generator_folder, tmp_path / "configs")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    check(PipelineFiles(folder=folder), Sampler(steps=5))
    with pytest.raises(ValueError, match=told):
        check(PipelineFiles(folder=folder), Sampler(**settings))


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        ("unet", {"in_channels": 9}, "no inpainting"),
        ("unet", {"cross_attention_dim": 999}, "width 40, and the UNet takes 999"),
        ("unet", {"projection_class_embeddings_input_dim": 5}, "an SDXL base model is needed"),
        ("scheduler", {"prediction_type": "sample"}, "predicts 'sample'"),
    ],
)
def test_parts_that_do_not_fit_together_are_told(sdxl_folder, tmp_path, part, change, told):
    folder = shutil.copytree(sdxl_folder, tmp_path / "copy")
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    path = folder / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=told):
        check(PipelineFiles(folder=folder), Sampler())
