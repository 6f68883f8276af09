"""One update of the weights: clipping, warm-up, refusal of what is not finite, export, restore."""

import math

import pytest
import torch
from training_world import build_engine, build_feed, build_objective

from valign.training.ddp import DdpEngine
from valign.training.optimizer import AdamW


def take_step(engine, feed, step, *, scale=1.0):
    loss, _ = build_objective()(engine.errors(*feed(step)))
    return engine.step(loss * scale)


def weights_of(engine: DdpEngine) -> dict[str, torch.Tensor]:
    return {e.name: e.value for e in engine.export()}


def test_update_equals_plain_adamw(world):
    # A large eps: with a small one, gradients that are only rounding move weights as others do.
    engine = build_engine(world, lr=1e-3, warmup_steps=0, clip_norm=0.5, eps=1e-3)
    feed, twin = build_feed(world), build_engine(world).policy
    parameters = [p for _, p in twin.trainable()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, eps=1e-3, foreach=False)
    start = {name: p.detach().clone() for name, p in twin.trainable()}
    for step in range(4):
        norm = take_step(engine, feed, step)
        build_objective()(twin(*feed(step)))[0].backward()
        squares = [p.grad.square().sum() for _, p in twin.trainable()]
        assert norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)
        assert norm > 0.5, "clipping is at work"
        for _, parameter in twin.trainable():
            parameter.grad *= 0.5 / norm
        optimizer.step()
        optimizer.zero_grad()
    weights = weights_of(engine)
    for name, parameter in twin.trainable():
        moved, expected = weights[name] - start[name], parameter.detach() - start[name]
        torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-6)


def test_learning_rate_rises_to_its_value_and_stays():
    settings = AdamW(lr=2.0, warmup_steps=4)
    assert [settings.lr_at(n) for n in range(7)] == [0, 0.5, 1, 1.5, 2, 2, 2]
    assert AdamW(lr=2.0).lr_at(0) == 2


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_no_longer_than_its_warm_up_is_warm_up_only(schedule):
    short = AdamW(lr=2.0, warmup_steps=4, schedule=schedule, total_steps=3)
    assert [short.lr_at(n) for n in range(3)] == [0, 0.5, 1]
    with pytest.raises(ValueError, match="set total_steps"):
        AdamW(lr=2.0, schedule=schedule)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(world, bad):
    engine, feed = build_engine(world), build_feed(world)
    for step in range(4):
        take_step(engine, feed, step)
    before = list(engine.export())
    assert not math.isfinite(take_step(engine, feed, 4, scale=bad))
    assert engine.updates == 4
    for old, new in zip(before, engine.export(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old[1:4], new[1:4], strict=True))
    assert math.isfinite(take_step(engine, feed, 5))
    assert engine.updates == 5


def test_a_loss_without_gradient_is_refused_too_when_it_is_nan(world):
    """A clamp's gradient is zero at NaN: only the loss tells."""
    engine, feed = build_engine(world), build_feed(world)
    loss, _ = build_objective()(engine.errors(*feed(0)))
    assert math.isnan(engine.step(0 * loss + torch.tensor(math.nan)))
    assert engine.updates == 0


def test_export_hands_out_copies(world):
    engine, feed = build_engine(world, warmup_steps=0), build_feed(world)
    exported = list(engine.export())
    assert all((e.exp_avg == 0).all() and (e.exp_avg_sq == 0).all() for e in exported)
    kept = [e.value.clone() for e in exported]
    take_step(engine, feed, 0)
    assert all(torch.equal(e.value, k) for e, k in zip(exported, kept, strict=True))
    changed = [not torch.equal(e.value, k) for e, k in zip(engine.export(), kept, strict=True)]
    assert all(changed)


def test_restored_engine_continues_bit_for_bit(world):
    engine, feed = build_engine(world), build_feed(world)
    for step in range(5):
        take_step(engine, feed, step)
    other = build_engine(world)
    take_step(other, feed, 17)  # what it was before does not matter
    other.restore(reversed(list(engine.export())), updates=engine.updates)
    for step in range(5, 9):
        assert take_step(other, feed, step) == take_step(engine, feed, step)
    for mine, theirs in zip(engine.export(), other.export(), strict=True):
        assert mine.name == theirs.name
        assert all(torch.equal(a, b) for a, b in zip(mine[1:4], theirs[1:4], strict=True))
    assert other.updates == engine.updates == 9


def test_restore_refuses_what_does_not_fit(world):
    engine = build_engine(world)
    exported = list(engine.export())
    with pytest.raises(ValueError, match="lacks 1 parameters"):
        engine.restore(exported[1:], updates=0)
    with pytest.raises(ValueError, match="unknown to this model or given twice"):
        engine.restore([*exported, exported[0]], updates=0)
    with pytest.raises(ValueError, match="unknown to this model"):
        engine.restore([*exported[1:], exported[0]._replace(name="unet.weight")], updates=0)
    with pytest.raises(ValueError, match="has shape"):
        engine.restore([exported[0]._replace(exp_avg=torch.zeros(3))], updates=0)


def test_half_precision_weights_are_refused(world):
    policy = build_engine(world).policy.to(torch.bfloat16)
    with pytest.raises(ValueError, match="must be float32"):
        DdpEngine(policy, AdamW(lr=1e-4))
