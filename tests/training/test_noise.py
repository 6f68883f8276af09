"""Noise is a pure function of (seed, step, position); the schedule is diffusers' own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SD_SCHEDULE

from valign.models.pipeline_folder import NoiseSchedule
from valign.training import noise

SHAPE = (4, 8, 8)


@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 10**9), start=st.integers(0, 63))
def test_a_row_is_the_same_whoever_draws_it(seed, step, start):
    whole, whole_t = noise.draw(seed, step, range(64), shape=SHAPE, timesteps=1000)
    part, part_t = noise.draw(seed, step, range(start, 64), shape=SHAPE, timesteps=1000)
    assert torch.equal(part, whole[start:])
    assert torch.equal(part_t, whole_t[start:])


def test_seeds_steps_and_positions_draw_independently():
    draws = [
        noise.draw(seed, step, [position], shape=SHAPE, timesteps=1000)[0].flatten()
        for seed in (0, 1, 2)
        for step in (0, 1, 2)
        for position in (0, 1, 2)
    ]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlations.abs().max() < 0.35  # 351 pairs of 256 numbers: 5.6 standard errors


def test_noise_is_standard_normal_and_timesteps_are_uniform():
    drawn, t = noise.draw(3, 0, range(4000), shape=SHAPE, timesteps=1000)
    assert drawn.dtype is torch.float32
    assert drawn.mean().abs() < 5e-3
    assert drawn.std() == pytest.approx(1, abs=5e-3)
    assert drawn.pow(4).mean() == pytest.approx(3, abs=0.05)
    assert t.min() >= 0
    assert t.max() < 1000
    counts = torch.bincount(t // 100, minlength=10)
    assert ((counts - 400).abs() < 100).all()  # 5 standard deviations


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_forward_process_equals_diffusers(prediction):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(**SD_SCHEDULE, prediction_type=prediction)
    schedule = NoiseSchedule(alphas_cumprod_T=theirs.alphas_cumprod, prediction_type=prediction)
    process = noise.ForwardProcess(schedule)
    latents, drawn = torch.randn(2, 16, *SHAPE, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(0, 999, 16).long()
    torch.testing.assert_close(
        process.mix(latents, drawn, t), theirs.add_noise(latents, drawn, t), rtol=1e-6, atol=1e-6
    )
    expected = drawn if prediction == "epsilon" else theirs.get_velocity(latents, drawn, t)
    torch.testing.assert_close(process.target(latents, drawn, t), expected, rtol=1e-6, atol=1e-6)


def test_a_prediction_it_does_not_know_is_refused():
    schedule = NoiseSchedule(alphas_cumprod_T=torch.linspace(0.9, 0.1, 8), prediction_type="sample")
    with pytest.raises(ValueError, match="cannot be trained"):
        noise.ForwardProcess(schedule)
