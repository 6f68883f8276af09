"""How strongly a value token counts: eps_u + g (eps_c - eps_u) + s g (eps_cv - eps_c)."""

import numpy as np
import pytest
import torch

from valign.models.aligned import sample_rows
from valign.models.conditioning import halves
from valign.models.sampler import Sampler
from valign.models.value_encoder import ValueEncoder

PROMPTS = ["a photo of a doctor", "a red bus", "rain"]
FAST = Sampler(steps=3, guidance=4.0)


@pytest.fixture(scope="module")
def token(generator):
    encoder = ValueEncoder.from_generator(generator, {"gender": "gender equality"})
    return encoder.token(["gender"] * 3, PROMPTS)


def drawn(generator, token, strengths, sampler=FAST):
    cond = generator.condition(PROMPTS, ["rain", "", "a bus"])
    images = sample_rows(
        generator,
        cond,
        [1, 2, 3],
        sampler,
        batch_size=3,
        token_N1D=token,
        apply_N=[True] * 3,
        strength_N=strengths,
    )
    return images.astype(int)


def test_strength_0_is_the_base_and_1_is_the_method_byte_for_byte(generator, token):
    cond = generator.condition(PROMPTS, ["rain", "", "a bus"])
    base = generator.sample(cond, [1, 2, 3], FAST)
    method = generator.sample(ValueEncoder.attach(cond, token, [True] * 3), [1, 2, 3], FAST)
    assert not np.array_equal(base, method)
    assert np.array_equal(drawn(generator, token, [0.0] * 3), base)
    assert np.array_equal(drawn(generator, token, [1.0] * 3), method)
    assert np.array_equal(drawn(generator, token, None), method)
    mixed = drawn(generator, token, [1.0, 0.0, 1.0])
    assert np.array_equal(mixed[1], base[1])
    assert np.array_equal(mixed[[0, 2]], method[[0, 2]])


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_ends_are_approached_without_a_jump(generator, token, guidance):
    sampler = Sampler(steps=3, guidance=guidance)
    for end in (0.0, 1.0):
        near = drawn(generator, token, [end + 1e-6] * 3, sampler)
        assert np.abs(near - drawn(generator, token, [end] * 3, sampler)).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_prediction_follows_the_formula(generator, token, guidance):
    cond = generator.condition(PROMPTS)
    strengths = [0.3, 1.7, 0.0]
    sampler = Sampler(steps=1, guidance=guidance)
    blended = ValueEncoder.attach(cond, token, [True] * 3, strengths)
    with_token = ValueEncoder.attach(cond, token, [True] * 3)
    latents, timestep = generator.noise([1, 2, 3], sampler), torch.tensor(500)

    def predict(conditioning, g):
        calls = halves(conditioning, g, together=False)
        return generator._guided(latents, timestep, calls, g, conditioning)

    with torch.inference_mode():
        eps_c, eps_cv = predict(cond, 1.0), predict(with_token, 1.0)
        # guided at 2 it is 2 c - u, so u is 2 c minus that
        eps_u = 2 * eps_c - predict(cond, 2.0)
        found = predict(blended, guidance)
    s = torch.tensor(strengths)[:, None, None, None]
    expected = eps_u + guidance * (eps_c - eps_u) + s * guidance * (eps_cv - eps_c)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(eps_c, eps_cv, atol=1e-3)
