"""Attention kernels, compiling, tiling, slicing: the same images, or an error that says why."""

import shutil

import numpy as np
import pytest

from valign.models.generator import GeneratorOptions, Sampler, load_generator
from valign.models.value_encoder import ValueEncoder

PROMPTS = ["a photo of a doctor", "zombies in the rain", "a red bus"]
FAST = Sampler(steps=3, guidance=3.0)


def draw(generator, sampler=FAST):
    return generator.sample(generator.condition(PROMPTS), [1, 2, 3], sampler).astype(int)


@pytest.mark.parametrize("how", [{"attention": "math"}, {"vae_slicing": True}])
def test_other_ways_to_compute_move_a_pixel_by_at_most_one(generator, generator_folder, how):
    images = draw(load_generator(str(generator_folder), GeneratorOptions(**how)))
    assert np.abs(images - draw(generator)).max() <= 1


def test_a_sliced_image_has_the_same_bytes_in_any_number(generator_folder):
    sliced = load_generator(str(generator_folder), GeneratorOptions(vae_slicing=True))
    latents = sliced.noise([1, 2, 3], FAST)
    assert np.array_equal(sliced.decode(latents)[1], sliced.decode(latents[1:2])[0])
    images = sliced.decode(latents)
    assert np.array_equal(sliced.encode(images)[1], sliced.encode(images[1:2])[0])


def test_tiles_are_for_images_larger_than_the_vae_was_made_for(generator, generator_folder):
    tiled = load_generator(str(generator_folder), GeneratorOptions(vae_tiling=True))
    assert np.array_equal(draw(tiled), draw(generator))
    large = Sampler(steps=1, guidance=1.0, height=64, width=128)
    images, whole = draw(tiled, large), draw(generator, large)
    assert images.shape == whole.shape == (3, 64, 128, 3)
    assert not np.array_equal(images, whole)  # tiles are blended


def test_a_kernel_that_does_not_run_here_is_told(generator_folder):
    with pytest.raises(ValueError, match="'cudnn' does not run here, on cpu"):
        load_generator(str(generator_folder), GeneratorOptions(attention="cudnn"))
    with pytest.raises(ValueError, match="auto, flash, efficient, cudnn, math"):
        GeneratorOptions(attention="xformers")


def test_a_value_token_works_with_any_kernel(generator_folder):
    chosen = load_generator(str(generator_folder), GeneratorOptions(attention="math"))
    encoder = ValueEncoder.from_generator(chosen, {"gender": "gender equality"})
    cond = chosen.condition(PROMPTS)
    attached = encoder.attach(cond, encoder.token(["gender"] * 3, PROMPTS), [True, False, True])
    assert chosen.sample(attached, [1, 2, 3], FAST).shape == (3, 64, 64, 3)


def test_compiling_without_a_compiler_is_told(generator_folder, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no 'no-such-compiler'"):
        load_generator(str(generator_folder), GeneratorOptions(compile=True))


@pytest.mark.campaign
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_generator_draws_the_same(generator, generator_folder):
    compiled = load_generator(str(generator_folder), GeneratorOptions(compile=True))
    images = draw(compiled)
    assert np.abs(images - draw(generator)).max() <= 1
    assert np.array_equal(images, draw(compiled))
