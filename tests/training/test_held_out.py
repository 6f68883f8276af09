"""The loss on held-out pairs is the objective's against the base model, and may end a training."""

import math
from dataclasses import replace

import numpy as np
import pytest
from test_refresh import UNET
from test_refresh import run as run_refreshed
from training_world import build_any_engine, build_engine, build_feed, build_objective, objective_of

from valign.training.batches import PairSource
from valign.training.held_out import HeldOut
from valign.training.loop import LoopSettings, LoopState, train

START = LoopState(seed=5, global_batch=4)


def test_it_is_the_loss_against_the_base_model_whatever_the_reference_became(world):
    settings = UNET.model_copy(update={"reference_precision": "float32", "beta": 500.0})
    engine, feed = build_any_engine(world, settings), build_feed(world)
    look = HeldOut(engine, feed, 2, objective_of(settings))
    in_parts = HeldOut(engine, feed, 2, objective_of(settings), parts=3)
    assert look()["held_out_loss"] == pytest.approx(math.log(2), abs=1e-6)
    run_refreshed(world, engine, settings, steps=6)  # the last update refreshed the reference
    found = look()
    assert found == look() == pytest.approx(in_parts(), rel=1e-3)
    base = build_any_engine(world, settings)
    losses = []
    for step in range(2):
        batch, noise, t = feed(step)
        mine, theirs = engine.errors(batch, noise, t), base.errors(batch, noise, t)
        assert mine.policy_w_B.allclose(mine.reference_w_B), "refreshed"
        gap = (mine.policy_w_B - mine.policy_l_B) - (theirs.policy_w_B - theirs.policy_l_B)
        losses += [math.log1p(math.exp(250 * float(one))) for one in gap]
    assert found["held_out_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    assert abs(found["held_out_loss"] - math.log(2)) > 1e-3
    assert 0 <= found["held_out_implicit_accuracy"] <= 1


def stopping(world, losses, state=START, engine=None):
    """Train with these held-out losses at the saves, which come every two steps."""
    engine = engine or build_engine(world)
    saves, rows, given = {}, [], iter(losses)
    end = train(
        engine,
        build_feed(world),
        state,
        objective=build_objective(),
        settings=LoopSettings(steps=20, save_every=2, log_every=2, patience=2),
        save=lambda state, weights: saves.update({state.step: (state, list(weights))}),
        log=lambda row, times: rows.append(row),
        look=lambda: {"held_out_loss": next(given)},
    )
    return end, saves, rows


def test_training_ends_when_the_loss_has_not_fallen_for_long_enough(world):
    end, saves, rows = stopping(world, [3.0, 4.0, 2.0, 2.0, math.nan, 1.0])
    assert (end.step, end.stopped, end.best_step, end.best_loss) == (10, True, 6, 2.0)
    assert [row["held_out_loss"] for row in rows[:4]] == [3.0, 4.0, 2.0, 2.0]
    assert saves[10][0] == end
    state, weights = saves[8]  # killed there, it ends where the uninterrupted run did
    assert (state.waited, state.stopped) == (1, False)
    engine = build_engine(world)
    engine.restore(weights, updates=state.updates)
    again, _, _ = stopping(world, [math.nan], state, engine)
    assert replace(again, best_loss=None) == replace(end, best_loss=None)
    assert stopping(world, [], end, engine)[0] == end, "a training that ended stays so"


def test_a_part_of_the_pairs_is_only_those(world):
    source = PairSource(world.pairs)
    chosen = np.arange(len(source)) % 3 == 0
    some, rest = source.part(chosen), source.part(~chosen)
    assert {*some.pair_ids} | {*rest.pair_ids} == {*source.pair_ids}
    assert len(some) + len(rest) == len(source)
    row = 2
    mine, theirs = some.get(np.array([row])), source.get(np.flatnonzero(chosen)[[row]])
    assert mine.latents_w_BCHW.equal(theirs.latents_w_BCHW)
    assert mine.ballots_BK.equal(theirs.ballots_BK)
    assert some.decided(np.array([row])).tolist() == theirs.ballots_BK[0].abs().tolist()
