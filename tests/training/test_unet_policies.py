"""Policies with a reference of their own: what they predict, and that they share nothing."""

import pytest
import torch
from tiny import build_sdxl
from torch.nn.functional import mse_loss
from training_world import build_feed, build_trainable, build_value_encoder

from valign.models import lora
from valign.models.generator import load_generator
from valign.train_settings import Lora, Train
from valign.training import policies
from valign.training.batch import Batch
from valign.training.unet_policies import added_conditioning

UNET = Train(objective="balanced_dpo", trains="unet")
LORA = Train(objective="balanced_dpo", trains="lora", lora=Lora(rank=2, text_encoder=True))


@pytest.fixture
def step(world):
    return build_feed(world)(0)


@torch.no_grad()
def shake(policy, scale=0.05):
    """Move all that trains, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(3)
    for _, parameter in policy.trainable():
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def test_errors_are_those_of_the_two_unets(world, step):
    policy = build_trainable(world.generator, UNET)
    shake(policy, 0.01)
    batch, noise, t = step
    with torch.no_grad():
        errors = policy(batch, noise, t)
        for side, latents in (("w", batch.latents_w_BCHW), ("l", batch.latents_l_BCHW)):
            noisy = policy.process.mix(latents, noise, t)
            for who, unet in (("policy", policy.unet), ("reference", policy.reference)):
                predicted = unet(noisy, t, batch.context_BLD).sample
                expected = mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3))
                torch.testing.assert_close(getattr(errors, f"{who}_{side}_B"), expected)
    assert not torch.allclose(errors.policy_w_B, errors.reference_w_B, rtol=1e-3)


def test_with_a_value_encoder_only_the_policy_sees_the_token(world, step):
    policy = build_trainable(world.generator, Train(trains="value_encoder+unet"))
    assert not list(policy.mirrored())
    with torch.no_grad():
        before = policy(*step)
        shake(policy, 0.01)
        after = policy(*step)
    assert torch.equal(before.reference_w_B, after.reference_w_B)
    assert not torch.allclose(before.policy_w_B, after.policy_w_B, rtol=1e-3)
    assert not torch.allclose(before.policy_w_B, before.reference_w_B, rtol=1e-5)


def test_a_low_precision_reference_predicts_in_it(world, step):
    settings = UNET.model_copy(update={"reference_precision": "bfloat16"})
    policy = build_trainable(world.generator, settings)
    assert {p.dtype for p in policy.reference.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in policy.unet.parameters()} == {torch.float32}
    with torch.no_grad():
        errors = policy(*step)
    torch.testing.assert_close(errors.policy_w_B, errors.reference_w_B, rtol=0.05, atol=0)
    assert not torch.equal(errors.policy_w_B, errors.reference_w_B)


def test_a_fresh_adapter_is_the_base_model_and_a_trained_one_is_not(world, step):
    policy, plain = build_trainable(world.generator, LORA), build_trainable(world.generator, UNET)
    with torch.no_grad():
        errors, expected = policy(*step), plain(*step)
        # Its text encoder runs anew, and the stored context was rounded to float16.
        torch.testing.assert_close(errors.policy_w_B, expected.policy_w_B, rtol=1e-2, atol=1e-4)
        assert torch.equal(errors.policy_w_B, errors.reference_w_B)
        shake(policy)
        moved = policy(*step)
    assert torch.equal(moved.reference_w_B, errors.reference_w_B)
    assert not torch.allclose(moved.policy_w_B, errors.policy_w_B, rtol=1e-3)
    names = [name for name, _ in policy.trainable()]
    assert any(name.startswith("text_encoders.0.") for name in names)
    assert all(f".{lora.POLICY}." in name and "lora_" in name for name in names)


def test_an_unknown_target_is_refused(world):
    with pytest.raises(ValueError, match="nowhere"):
        build_trainable(
            world.generator, LORA.model_copy(update={"lora": Lora(targets=("nowhere",))})
        )


@pytest.mark.parametrize("settings", [UNET, LORA, Train()], ids=["unet", "lora", "livo"])
def test_gradient_checkpointing_changes_no_gradient(world, step, settings):
    found = []
    for checkpointing in (False, True):
        policy = build_trainable(world.generator, settings, gradient_checkpointing=checkpointing)
        shake(policy, 0.01)
        errors = policy.train()(*step)
        (errors.policy_w_B - 0.5 * errors.policy_l_B).sum().backward()
        found.append({name: p.grad for name, p in policy.trainable()})
    assert any(grad.abs().max() > 0 for grad in found[0].values())
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-6)


def test_min_snr_weighs_all_errors_alike(world, step):
    plain = build_trainable(world.generator, UNET)
    weighed = build_trainable(world.generator, UNET.model_copy(update={"min_snr": 5.0}))
    t = step[2]
    alphas = load_generator(str(world.generator)).schedule.alphas_cumprod_T.double()
    snr = alphas[t] / (1 - alphas[t])
    weight = (snr.clamp(max=5) / snr).float()
    with torch.no_grad():
        for with_, without in zip(
            (e := weighed(*step)).policy + e.reference,
            (p := plain(*step)).policy + p.reference,
            strict=True,
        ):
            torch.testing.assert_close(with_, without * weight)
    assert weight.min() < 1 or (snr <= 5).all()


def test_dropped_prompts_get_the_empty_caption_whatever_the_workers(world):
    whole, _, _ = build_feed(world, global_batch=8, prompt_dropout=0.5)(3)
    plain, _, _ = build_feed(world, global_batch=8)(3)
    empty = torch.from_numpy(
        load_generator(str(world.generator)).condition([""]).context_BLD.half().float().numpy()
    )
    dropped = [torch.equal(row, empty[0]) for row in whole.context_BLD]
    assert 0 < sum(dropped) < 8
    for row, was_dropped in enumerate(dropped):
        if not was_dropped:
            assert torch.equal(whole.context_BLD[row], plain.context_BLD[row])
    halves = [
        build_feed(world, global_batch=8, rank=rank, world_size=2, prompt_dropout=0.5)(3)[0]
        for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([half.context_BLD for half in halves]), whole.context_BLD)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return build_sdxl(tmp_path_factory.mktemp("sdxl") / "generator")


def sdxl_batch(generator, *, pooled=True):
    prompts = ["A photo of a nun", "A photo of a cab"]
    cond = generator.condition(prompts)
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=random), torch.randn(2, 4, 8, 8, generator=random)
    ids = [
        t(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        for t in generator.text.tokenizers
    ]
    batch = Batch(
        *latents,
        cond.context_BLD,
        pooled_BP=cond.pooled_BP if pooled else None,
        prompt_ids_BEL=torch.stack(ids, dim=1),
    )
    return batch, torch.randn(2, 4, 8, 8, generator=random), torch.tensor([10, 700])


def test_sdxl_is_conditioned_on_pooled_text_and_sizes(sdxl):
    generator = load_generator(str(sdxl))
    batch, noise, t = sdxl_batch(generator)
    policy = policies.build(UNET, generator.unet, generator.schedule, size_px=64)
    with torch.no_grad():
        errors = policy(batch, noise, t)
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
        added = {"text_embeds": batch.pooled_BP, "time_ids": ids}
        noisy = policy.process.mix(batch.latents_w_BCHW, noise, t)
        predicted = policy.unet(noisy, t, batch.context_BLD, added_cond_kwargs=added).sample
    expected = mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3))
    torch.testing.assert_close(errors.policy_w_B, expected)
    with pytest.raises(ValueError, match="needs pooled prompt embeddings"):
        added_conditioning(policy.unet, None, 64)


def test_sdxl_lora_adapts_both_text_encoders_and_every_factor_gets_a_gradient(sdxl):
    generator = load_generator(str(sdxl))
    batch, noise, t = sdxl_batch(generator)
    policy = policies.build(
        LORA,
        generator.unet,
        generator.schedule,
        text_encoders=generator.text.encoders,
        size_px=64,
    )
    with torch.no_grad():
        plain = policies.build(UNET, load_generator(str(sdxl)).unet, generator.schedule, size_px=64)
        torch.testing.assert_close(
            policy(batch, noise, t).policy_w_B, plain(batch, noise, t).policy_w_B
        )
    shake(policy)
    errors = policy(batch, noise, t)
    (errors.policy_w_B - errors.policy_l_B).sum().backward()
    assert all(p.grad is not None for _, p in policy.trainable())
    with pytest.raises(ValueError, match="two text encoders"):
        build_value_encoder(generator)
