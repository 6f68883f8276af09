"""The reference follows when it should and only then; the moving average; state that survives."""

import math

import pytest
import torch
from training_world import build_any_engine, build_feed, objective_of

from valign.train_settings import Lora, Train
from valign.training.loop import LoopSettings, LoopState, train

UNET = Train(
    objective="balanced_dpo",
    trains="unet",
    refresh_every=3,
    ema_decay=0.5,
).model_copy(update={"reference_precision": "bfloat16"})  # beside float32: the cast is seen
LORA = Train(objective="balanced_dpo", trains="lora", refresh_every=3, lora=Lora(rank=2))
START = LoopState(seed=5, global_batch=4)


def run(
    world,
    engine,
    settings,
    state=START,
    *,
    steps,
    bad=(),
    micro_steps=1,
    save_every=100,
    feed_of=build_feed,
):
    """Train, and return the final state, the saves, the rows of the log and the steps left out."""
    feed, saves, rows, left_out = feed_of(world), {}, [], []

    def batch_at(step):
        batch, noise, t = feed(step)
        return batch, noise * math.nan if step in bad else noise, t

    state = train(
        engine,
        batch_at,
        state,
        objective=objective_of(settings),
        settings=LoopSettings(
            steps=steps,
            save_every=save_every,
            log_every=1,
            micro_steps=micro_steps,
            refresh_every=settings.refresh,
        ),
        save=lambda state, weights: saves.update({state.step: (state, list(weights))}),
        log=lambda row, times: rows.append(row),
        skipped=left_out.append,
    )
    return state, saves, rows, left_out


def mirrored(engine):
    return [(p.detach().clone(), f.detach().clone()) for _, p, f in engine.policy.mirrored()]


@pytest.mark.parametrize("settings", [UNET, LORA], ids=["unet", "lora"])
def test_the_reference_moves_at_its_updates_and_equals_the_policy_after_the_cast(world, settings):
    engine = build_any_engine(world, settings)
    start = [frozen for _, frozen in mirrored(engine)]
    state, *_ = run(world, engine, settings, steps=2, micro_steps=2)
    assert (engine.updates, engine.refreshed) == (2, 0), "updates count, not micro-steps"
    assert all(torch.equal(a, b) for a, (_, b) in zip(start, mirrored(engine), strict=True))
    # A step that is left out is no update: the refresh comes with the third one that is made.
    state, _, rows, left_out = run(world, engine, settings, state, steps=4, bad=(2,))
    assert (state.updates, state.refreshed, state.skipped, left_out) == (3, 3, 1, [2])
    for trained, frozen in mirrored(engine):
        assert torch.equal(trained.to(frozen.dtype), frozen)
    assert any(not torch.equal(a, b) for a, (_, b) in zip(start, mirrored(engine), strict=True))
    kept = [frozen for _, frozen in mirrored(engine)]
    *_, rows, _ = run(world, engine, settings, state, steps=6)
    assert all(torch.equal(a, b) for a, (_, b) in zip(kept, mirrored(engine), strict=True))
    assert any(not torch.equal(p.to(f.dtype), f) for p, f in mirrored(engine))
    if settings is LORA:  # a float32 reference: right after a refresh the loss is ln 2 again
        assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert [row["steps_since_refresh"] for row in rows] == [1, 2]
    assert 0 < rows[0]["drift"] < rows[1]["drift"]


def as_in_files(weights):
    """Return what was exported as a checkpoint gives it back: in C order, whatever it was."""
    return [
        entry._replace(
            **{
                name: value.clone(memory_format=torch.contiguous_format)
                for name, value in entry._asdict().items()
                if isinstance(value, torch.Tensor)
            }
        )
        for entry in weights
    ]


@pytest.mark.parametrize("settings", [UNET, LORA], ids=["unet", "lora"])
def test_a_resumed_run_equals_the_uninterrupted_one_reference_and_average_included(world, settings):
    whole, saves, rows, _ = run(
        world, build_any_engine(world, settings), settings, steps=8, save_every=4
    )
    state, weights = saves[4]
    assert state.refreshed == 3
    assert all((entry.ema is None) == (settings.ema_decay is None) for entry in weights)
    engine = build_any_engine(world, settings)
    engine.restore(as_in_files(weights), updates=state.updates, refreshed=state.refreshed)
    resumed, again, resumed_rows, _ = run(world, engine, settings, state, steps=8)
    assert resumed == whole
    assert resumed_rows == rows[4:]
    for mine, theirs in zip(again[8][1], saves[8][1], strict=True):
        assert mine.name == theirs.name
        pairs = zip(mine[1:], theirs[1:], strict=True)
        assert all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_without_what_the_run_needs_is_refused(world):
    engine = build_any_engine(world, UNET)
    state, saves, *_ = run(world, engine, UNET, steps=3)
    weights = saves[3][1]
    with pytest.raises(ValueError, match="has no reference for"):
        build_any_engine(world, UNET).restore(
            [entry._replace(reference=None) for entry in weights], updates=3, refreshed=3
        )
    with pytest.raises(ValueError, match="has a reference for"):
        build_any_engine(world, UNET).restore(weights, updates=3, refreshed=0)
    with pytest.raises(ValueError, match="no moving average"):
        build_any_engine(world, UNET).restore(
            [entry._replace(ema=None) for entry in weights], updates=3, refreshed=3
        )
    livo = build_any_engine(world, Train())
    with pytest.raises(ValueError, match="no reference of its own"):
        livo.refresh_reference()
    assert state.refreshed == 3


def test_the_moving_average_is_what_its_formula_says(world):
    engine, feed = build_any_engine(world, UNET), build_feed(world)
    expected = {entry.name: entry.value for entry in engine.export()}
    objective = objective_of(UNET)
    for step in range(3):
        batch, noise, t = feed(step)
        engine.step(objective(engine.errors(batch, noise, t), batch, step)[0])
        for entry in engine.export():
            expected[entry.name] = 0.5 * expected[entry.name] + 0.5 * entry.value
    for entry in engine.export():
        torch.testing.assert_close(entry.ema, expected[entry.name])


def test_micro_steps_give_the_gradient_of_the_whole_step(world):
    settings = Train(objective="balanced_dpo", trains="unet", aggregation="losses")
    ends = []
    for micro_steps in (1, 3):
        engine = build_any_engine(world, settings)
        _, saves, rows, _ = run(world, engine, settings, steps=2, micro_steps=micro_steps)
        ends.append((saves[2][1], rows))
    for mine, theirs in zip(ends[0][0], ends[1][0], strict=True):
        torch.testing.assert_close(mine.exp_avg, theirs.exp_avg, rtol=1e-3, atol=1e-6)
    for mine, theirs in zip(ends[0][1], ends[1][1], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    with pytest.raises(ValueError, match="5 micro-steps for a worker's 4 pairs"):
        run(world, build_any_engine(world, settings), settings, steps=1, micro_steps=5)
