"""Sharing the prompts' keys and values changes the work, not the result."""

import pytest
import torch
from torch import nn
from training_world import WIDTH

from valign.models.generator import load_generator
from valign.training.shared_context import SharedContext, SharedContextAttention, share_context

PAIRS = 3


@pytest.fixture
def unet(world):
    return load_generator(str(world.generator)).unet


@pytest.fixture
def given():
    """Noisy images (two per pair), timesteps, prompts and tokens."""
    rng = torch.Generator().manual_seed(2)
    noisy = torch.randn(2 * PAIRS, 4, 8, 8, generator=rng)
    t = torch.tensor([10, 400, 900]).repeat(2)
    prompts = torch.randn(PAIRS, 77, WIDTH, generator=rng)
    token = torch.randn(PAIRS, 1, WIDTH, generator=rng)
    return noisy, t, prompts, token


def plain(unet, noisy, t, prompts, *added):
    context = torch.cat([prompts, *added], dim=1)
    return unet(noisy, t, torch.cat([context, context])).sample


def test_predictions_and_the_tokens_gradient_equal_the_plain_call(unet, given):
    noisy, t, prompts, token = given
    with torch.no_grad():
        reference = plain(unet, noisy, t, prompts)
    wanted_token = token.clone().requires_grad_()
    wanted = plain(unet, noisy, t, prompts, wanted_token)
    wanted.square().sum().backward()

    context = SharedContext(prompts)
    share_context(unet)
    with torch.no_grad():
        torch.testing.assert_close(unet(noisy, t, context).sample, reference)
    found_token = token.clone().requires_grad_()
    found = unet(noisy, t, context.plus(found_token)).sample
    found.square().sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found_token.grad, wanted_token.grad, rtol=1e-4, atol=1e-5)
    assert wanted_token.grad.abs().max() > 1e-3, "the tolerance is small beside it"


def test_every_layer_projects_the_prompts_once(unet, given):
    noisy, t, prompts, token = given
    rows = []
    share_context(unet)
    layers = [m for m in unet.modules() if getattr(m, "is_cross_attention", False)]
    for layer in layers:
        layer.to_k.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[:2]))
    context = SharedContext(prompts)
    unet(noisy, t, context)
    unet(noisy, t, context.plus(token))
    assert len(layers) > 1
    assert rows == [(PAIRS, 77)] * len(layers) + [(PAIRS, 1)] * len(layers)


def test_a_plain_context_is_used_as_before(unet, given):
    noisy, t, prompts, token = given
    mask = torch.ones(2 * PAIRS, 78, dtype=torch.bool)
    mask[:, 77] = False
    context = torch.cat([prompts, token], dim=1).repeat(2, 1, 1)
    with torch.no_grad():
        before = unet(noisy, t, context, encoder_attention_mask=mask).sample
        share_context(share_context(unet))
        after = unet(noisy, t, context, encoder_attention_mask=mask).sample
    assert torch.equal(before, after)
    processors = [p for p in unet.attn_processors.values() if isinstance(p, SharedContextAttention)]
    assert processors
    assert not any(isinstance(p.before, SharedContextAttention) for p in processors)


def test_unets_of_other_families_are_refused():
    from diffusers.models.attention_processor import Attention

    with pytest.raises(ValueError, match="has no cross-attention"):
        share_context(nn.Linear(2, 2))
    other = Attention(8, cross_attention_dim=8, heads=2, dim_head=4, added_kv_proj_dim=8)
    with pytest.raises(ValueError, match="has added_kv_proj_dim"):
        share_context(nn.Sequential(other))
