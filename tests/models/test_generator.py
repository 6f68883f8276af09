"""The generator: same images as diffusers' own pipeline, one image's bytes never its company's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.models.conditioning import halves, projected_once
from valign.models.generator import Conditioning, GeneratorOptions, Sampler, load_generator

PROMPTS = ("a photo of a doctor", "zombies in the rain", "a red bus", "")
FAST = Sampler(steps=3)


def draw(generator, prompts, seeds, sampler=FAST, negatives=None):
    return generator.sample(generator.condition(prompts, negatives), seeds, sampler)


def test_it_makes_the_images_of_the_plain_diffusers_pipeline(generator, generator_folder):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(generator_folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    expected = pipeline(
        list(PROMPTS[:2]),
        negative_prompt=["", "blood"],
        num_inference_steps=6,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        output_type="np",
    ).images
    sampler = Sampler(steps=6, guidance=5.0)
    images = draw(generator, PROMPTS[:2], (3, 4), sampler, negatives=["", "blood"])
    assert images.dtype == np.uint8
    assert images.shape == (2, 64, 64, 3)
    assert np.abs(images - expected * 255).max() <= 0.51


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_an_image_keeps_its_bytes_whatever_shares_its_batch(generator, data):
    size = data.draw(st.sampled_from((2, 3, 5, 18)))
    row = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1))

    def batch(place, salt):
        prompts = [PROMPTS[(salt + i) % len(PROMPTS)] for i in range(size)]
        seeds = [1000 * salt + i for i in range(size)]
        prompts[place], seeds[place] = "a photo of a nurse", 7
        return draw(generator, prompts, seeds)[place]

    assert np.array_equal(batch(row, 1), batch(row, 2))
    assert np.array_equal(batch(row, 1), batch(other, 3))


def test_other_batch_sizes_move_a_pixel_by_at_most_one(generator):
    prompts, seeds = [PROMPTS[i % 4] for i in range(19)], list(range(19))
    together = draw(generator, prompts, seeds).astype(int)
    alone = np.concatenate(
        [draw(generator, [p], [s]) for p, s in zip(prompts, seeds, strict=True)]
    ).astype(int)
    assert np.abs(together - alone).max() <= 1


def test_prompt_seed_and_negative_prompt_each_matter(generator):
    base = draw(generator, ["a red bus"], [1])
    assert not np.array_equal(base, draw(generator, ["a blue bus"], [1]))
    assert not np.array_equal(base, draw(generator, ["a red bus"], [2]))
    assert not np.array_equal(base, draw(generator, ["a red bus"], [1], negatives=["rain"]))


def test_a_text_that_was_a_negative_prompt_still_meets_the_guard(generator):
    refused = "nude child"
    generator.condition(["a red bus"], [refused])
    with pytest.raises(ValueError, match="refused"):
        generator.condition([refused])


def test_guidance_one_is_the_conditional_model_alone(generator):
    one = Sampler(steps=3, guidance=1.0)
    first = draw(generator, ["a red bus"], [1], one, negatives=["rain"])
    second = draw(generator, ["a red bus"], [1], one, negatives=["snow"])
    assert np.array_equal(first, second)


def test_size_can_be_chosen_in_steps_of_the_vae(generator):
    wide = draw(generator, ["a"], [1], Sampler(steps=1, height=32, width=48))
    assert wide.shape == (1, 32, 48, 3)
    with pytest.raises(ValueError, match="multiples of 8"):
        draw(generator, ["a"], [1], Sampler(steps=1, height=30))


def test_a_masked_slot_is_absent_on_every_path(generator):
    cond = generator.condition(PROMPTS[:2])
    junk = torch.full((2, 1, 32), 9.0)
    seen = torch.cat([torch.ones(2, 77, dtype=torch.bool), torch.zeros(2, 1, dtype=torch.bool)], 1)
    masked = Conditioning(
        context_BLD=torch.cat([cond.context_BLD, junk], 1),
        uncond_BLD=torch.cat([cond.uncond_BLD, junk], 1),
        mask_BL=seen,
        uncond_mask_BL=seen,
    )
    latents = generator.noise([1, 2], FAST)
    step = torch.tensor(500)
    with torch.inference_mode():
        plain, without = (
            generator._guided(latents, step, halves(each, 7.5, together=False), 7.5, each)
            for each in (cond, masked)
        )
    assert torch.allclose(plain, without, atol=1e-5)


def test_projecting_contexts_once_changes_no_bit_and_leaves_no_trace(generator):
    cond = generator.condition(PROMPTS[:2])
    latents, context = generator.noise([1, 2], FAST), cond.context_BLD
    other = generator.condition(PROMPTS[2:]).context_BLD
    layer = next(m for name, m in generator.unet.named_modules() if name.endswith("attn2.to_k"))
    with torch.inference_mode():
        expected = [generator.unet(latents, 9, each).sample for each in (context, other, context)]
        with projected_once(generator.unet):
            found = [generator.unet(latents, 9, each).sample for each in (context, other, context)]
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert torch.equal(generator.unet(latents, 9, context).sample, expected[0])
    assert "forward" not in vars(layer)


def test_long_prompts_are_cut_and_reported(generator):
    cond = generator.condition(["word " * 100, "short"])
    assert cond.truncated_B == (True, False)
    assert cond.context_BLD.shape == cond.uncond_BLD.shape == (2, 77, 32)


def test_take_keeps_rows_together(generator):
    cond = generator.condition(["word " * 100, "a red bus", ""])
    taken = cond.take([2, 0, 0])
    assert taken.truncated_B == (False, True, True)
    assert torch.equal(taken.context_BLD, cond.context_BLD[[2, 0, 0]])


def test_a_texts_context_does_not_depend_on_the_batch_it_came_in(generator_folder):
    alone = load_generator(str(generator_folder)).condition(["a red bus"]).context_BLD[0]
    crowd = load_generator(str(generator_folder)).condition([*PROMPTS, "a red bus"]).context_BLD[4]
    assert torch.equal(alone, crowd)


def test_encode_gives_scaled_mode_latents(generator):
    images = draw(generator, PROMPTS[:2], (1, 2))
    latents = generator.encode(images)
    assert latents.shape == (2, 4, 8, 8) and latents.dtype == torch.float32
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    mode = generator.vae.encode(pixels).latent_dist.mode() * generator.vae.config.scaling_factor
    assert torch.allclose(latents, mode, atol=1e-5)
    with pytest.raises(ValueError, match="uint8"):
        generator.encode(images.astype(np.float32))


def test_an_image_that_came_out_as_nan_is_black(generator):
    latents = generator.noise([1, 2], FAST)
    latents[1] = float("nan")
    images = generator.decode(latents)
    assert images[0].any() and not images[1].any()


def test_wrong_settings_are_told(generator):
    cond = generator.condition(["a", "b"])
    with pytest.raises(ValueError, match="2 rows of conditioning with 1 seeds"):
        generator.sample(cond, [1], FAST)
    with pytest.raises(ValueError, match="negative prompts"):
        generator.condition(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="at least 1 step"):
        Sampler(steps=0)
    with pytest.raises(ValueError, match="guidance"):
        Sampler(guidance=0.5)
    with pytest.raises(ValueError, match="float32, float16, bfloat16"):
        GeneratorOptions(dtype="int8")


def test_half_precision_draws_nearly_the_same(generator, generator_folder):
    half = load_generator(str(generator_folder), GeneratorOptions(dtype="bfloat16"))
    sampler = Sampler(steps=2, guidance=2.0)
    a = draw(generator, ["a red bus"], [1], sampler).astype(int)
    b = draw(half, ["a red bus"], [1], sampler).astype(int)
    assert np.abs(a - b).mean() < 12
