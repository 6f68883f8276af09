"""The loop: saves and logs when due, resumes exactly, survives bad batches, and learns."""

import math

import pytest
import torch
from training_world import build_engine, build_feed, build_objective

from valign.training.loop import LoopSettings, LoopState, train

START = LoopState(seed=5, global_batch=4)


def run(engine, feed, state=START, *, objective=None, **settings):
    """Train, and return the final state, the saves and the rows of the log."""
    saves, rows = {}, []
    state = train(
        engine,
        feed,
        state,
        objective=objective or build_objective(),
        settings=LoopSettings(**({"save_every": 10, "log_every": 4} | settings)),
        save=lambda state, weights: saves.update({state.step: (state, list(weights))}),
        log=lambda row, times: rows.append((row, times)),
    )
    return state, saves, rows


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(world):
    feed = build_feed(world)
    whole, whole_saves, whole_rows = run(build_engine(world), feed, steps=20)
    _, saves, rows = run(build_engine(world), feed, steps=10)
    state, weights = saves[10]
    engine = build_engine(world)
    engine.restore(weights, updates=state.updates)
    resumed, resumed_saves, resumed_rows = run(engine, build_feed(world), state, steps=20)
    assert resumed == whole == LoopState(seed=5, global_batch=4, step=20, updates=20)
    assert [row for row, _ in rows + resumed_rows] == [row for row, _ in whole_rows]
    for mine, theirs in zip(resumed_saves[20][1], whole_saves[20][1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine[1:4], theirs[1:4], strict=True))


def test_saves_and_rows_come_when_due(world):
    _, saves, rows = run(build_engine(world), build_feed(world), steps=13, save_every=6)
    assert list(saves) == [6, 12, 13]
    assert [row["step"] for row, _ in rows] == [4, 6, 8, 12, 13]
    assert all(math.isfinite(value) for row, _ in rows for value in row.values())
    assert rows[0][0]["lr"] == 1e-4
    assert set(rows[0][1]) == {"samples_per_s", "step_ms", "data_wait_share"}


def test_a_row_is_the_mean_over_its_steps(world):
    feed = build_feed(world)
    _, _, single = run(build_engine(world), feed, steps=6, log_every=1)
    _, _, joined = run(build_engine(world), feed, steps=6, log_every=3)
    for name in ("loss", "gain_w", "margin_l_active", "grad_norm"):
        means = [sum(row[name] for row, _ in single[i : i + 3]) / 3 for i in (0, 3)]
        assert [row[name] for row, _ in joined] == pytest.approx(means, rel=1e-4, abs=1e-9)


def test_a_finished_run_does_nothing_more(world):
    state = LoopState(seed=5, global_batch=4, step=3)
    assert run(build_engine(world), build_feed(world), state, steps=3) == (state, {}, [])


def test_bad_batches_are_left_out_and_counted(world):
    """A batch of NaN latents leaves the weights as if its step had not been."""
    feed, bad = build_feed(world), {2, 3}

    def broken(step):
        batch, noise, t = feed(step)
        return batch, noise * math.nan if step in bad else noise, t

    def without(step):
        return feed(step if step < min(bad) else step + len(bad))

    state, saves, rows = run(build_engine(world), broken, steps=8)
    _, clean, _ = run(build_engine(world), without, steps=6)
    assert (state.step, state.updates, state.skipped) == (8, 6, 2)
    assert all(math.isfinite(value) for row, _ in rows for value in row.values())
    assert [row["skipped"] for row, _ in rows] == [2, 2]
    for mine, theirs in zip(saves[8][1], clean[6][1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine[1:4], theirs[1:4], strict=True))


def test_nothing_but_bad_batches_stops_the_run(world):
    def broken(step):
        batch, noise, t = build_feed(world)(step)
        return batch, noise * math.nan, t

    with pytest.raises(FloatingPointError, match="3 steps in a row up to step 3"):
        run(build_engine(world), broken, steps=50, max_skips_in_a_row=3)


def test_a_restart_goes_on_counting_the_steps_left_out_in_a_row(world):
    def broken(step):
        batch, noise, t = build_feed(world)(step)
        return batch, noise * math.nan, t

    state, _, _ = run(build_engine(world), broken, steps=2, max_skips_in_a_row=3)
    assert (state.skipped, state.skipped_in_a_row) == (2, 2)
    with pytest.raises(FloatingPointError, match="3 steps in a row up to step 3"):
        run(build_engine(world), broken, state, steps=9, max_skips_in_a_row=3)
    state, _, _ = run(build_engine(world), build_feed(world), state, steps=3)
    assert (state.skipped, state.skipped_in_a_row) == (2, 0)


def test_an_engine_that_was_not_restored_is_refused(world):
    with pytest.raises(ValueError, match="restore the engine"):
        run(
            build_engine(world),
            build_feed(world),
            LoopState(seed=5, global_batch=4, updates=2),
            steps=9,
        )


@pytest.mark.parametrize("name", ["steps", "save_every", "log_every", "max_skips_in_a_row"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=name):
        LoopSettings(**({"steps": 1, "save_every": 1} | {name: 0}))


def test_a_few_pairs_are_learnt_until_their_margins_hold(world):
    """Overfitting one global batch and its noise: the loss falls and margins are reached."""
    first = build_feed(world)(0)
    _, _, rows = run(
        build_engine(world, lr=1e-2, warmup_steps=0),
        lambda step: first,
        steps=60,
        save_every=60,
        log_every=1,
    )
    start, end = rows[0][0], rows[-1][0]
    assert start["loss"] > 1
    assert start["margin_w_active"] + start["margin_l_active"] >= 0.5
    assert end["loss"] < 0.05
    assert end["margin_w_active"] + end["margin_l_active"] <= 0.25
    assert end["gain_w"] < -1e-3, "the margin gamma1 / beta, on average"
    assert end["gain_l"] > 1e-3, "the margin gamma2 / alpha, on average"
