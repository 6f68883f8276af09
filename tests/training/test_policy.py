"""The policy's errors: what they are, what trains, and that padding of the value text is idle."""

import pytest
import torch
from torch.nn.functional import mse_loss
from training_world import build_feed, build_policy

from valign.training.batch import Batch
from valign.training.batches import PairSource


@pytest.fixture(scope="module")
def policy(world):
    return build_policy(world.generator)


@pytest.fixture
def step(world):
    return build_feed(world)(0)


def test_errors_equal_one_unet_call_per_image(policy, step):
    batch, noise, t = step
    with torch.no_grad():
        errors = policy(batch, noise, t)
        token = policy.value_encoder(batch.value_ids_BL)
        found = {"policy_w": [], "policy_l": [], "reference_w": [], "reference_l": []}
        for row in range(len(t)):
            context = batch.context_BLD[row : row + 1]
            aligned = torch.cat([context, token[row : row + 1]], dim=1)
            for side, latents in (("w", batch.latents_w_BCHW), ("l", batch.latents_l_BCHW)):
                one = slice(row, row + 1)
                noisy = policy.process.mix(latents[one], noise[one], t[one])
                for who, seen in (("policy", aligned), ("reference", context)):
                    predicted = policy.unet(noisy, t[one], seen).sample
                    found[f"{who}_{side}"].append(mse_loss(predicted, noise[one]))
    for name, values in found.items():
        torch.testing.assert_close(getattr(errors, f"{name}_B"), torch.stack(values))
    assert not torch.allclose(errors.policy_w_B, errors.reference_w_B, rtol=1e-4)
    assert not torch.allclose(errors.policy_w_B, errors.policy_l_B, rtol=1e-4)


def test_only_the_value_encoder_gets_gradients(policy, step):
    errors = policy(*step)
    assert not errors.reference_w_B.requires_grad
    (errors.policy_w_B - errors.policy_l_B).sum().backward()
    names = [name for name, _ in policy.trainable()]
    assert names
    assert all(name.startswith("value_encoder.") for name in names)
    assert all(p.grad is not None for _, p in policy.trainable())
    assert any(p.grad.abs().max() > 0 for _, p in policy.trainable())
    assert all(p.grad is None for p in policy.unet.parameters())
    policy.zero_grad()


def test_the_unet_stays_in_evaluation_mode(policy):
    policy.train()
    assert policy.value_encoder.training
    assert not any(module.training for module in policy.unet.modules())


def test_the_tokens_position_does_not_matter(policy, step):
    batch, noise, t = step
    with torch.no_grad():
        token = policy.value_encoder(batch.value_ids_BL)
        noisy = policy.process.mix(batch.latents_w_BCHW, noise, t)
        last = policy.unet(noisy, t, torch.cat([batch.context_BLD, token], dim=1)).sample
        first = policy.unet(noisy, t, torch.cat([token, batch.context_BLD], dim=1)).sample
    torch.testing.assert_close(last, first)


def test_cutting_the_value_texts_padding_leaves_the_token_as_it_is(policy, world):
    source = PairSource(world.pairs)
    rows = torch.arange(8).numpy()
    cut = source.get(rows).value_ids_BL
    padding = cut[:, -1:].max()  # the end token has the highest id
    full = torch.cat([cut, padding.expand(len(cut), 77 - cut.shape[1])], dim=1)
    assert cut.shape[1] < 30
    with torch.no_grad():
        torch.testing.assert_close(
            policy.value_encoder(cut), policy.value_encoder(full), rtol=1e-5, atol=1e-6
        )


def test_bfloat16_compute_keeps_float32_errors_and_weights(world, step):
    policy = build_policy(world.generator, autocast=torch.bfloat16)
    errors = policy(*step)
    assert errors.policy_w_B.dtype is errors.reference_w_B.dtype is torch.float32
    (errors.policy_w_B - errors.policy_l_B).sum().backward()
    assert all(p.dtype is p.grad.dtype is torch.float32 for _, p in policy.trainable())
    with torch.no_grad():
        exact = build_policy(world.generator)(*step)
    torch.testing.assert_close(errors.policy_w_B, exact.policy_w_B, rtol=0.05, atol=0)
    assert not torch.equal(errors.policy_w_B, exact.policy_w_B), "it did compute in bfloat16"


def test_batch_moves_as_a_whole(step):
    moved = step[0].to("meta")
    assert isinstance(moved, Batch)
    tensors = [getattr(moved, name) for name in Batch.__slots__]
    assert sum(tensor is not None for tensor in tensors) == 7
    assert all(tensor.is_meta for tensor in tensors if tensor is not None)
