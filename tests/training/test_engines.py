"""Every engine follows the curve of one process, and takes over the state of any other.

All engines and policies run inside one process group per world size: starting processes is what
costs time.
"""

import datetime
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import training_world as worlds
from pydantic import ValidationError
from test_refresh import run

from valign import config
from valign.settings import Engine
from valign.train_settings import Lora, Train
from valign.training import engine as engines
from valign.training.held_out import HeldOut
from valign.training.loop import LoopSettings, LoopState, train
from valign.training.optimizer import AdamW

STEPS, REFRESH, SAVED = 8, 3, 4  # the reference is refreshed at steps 3 and 6, and used after both
LONG_STEPS, LONG_SAVED = 50, 46
POLICIES = {
    "livo": Train(),
    "unet": Train(
        objective="balanced_dpo",
        trains="unet",
        beta=500.0,
        aggregation="losses",
        refresh_every=REFRESH,
        ema_decay=0.9,
    ),
    "lora": Train(
        objective="balanced_dpo", trains="lora", refresh_every=REFRESH, lora=Lora(rank=2)
    ),
}
CAST = POLICIES["unet"].model_copy(update={"reference_precision": "bfloat16"})
HALF = {
    "livo": Train(precision="bfloat16"),
    "unet": CAST.model_copy(update={"precision": "bfloat16"}),
}
SPOILT = {1, 5, 6}  # steps; the last two are too many in a row
SPOILT_SAVED, SPOILT_END = 3, 5  # the reference is refreshed in between


def curve(world, settings, name, *, steps, saved=SAVED, state=None, weights=None, **options):
    """Train with an engine; return the state at a multiple of `saved` and at the end, and rows.

    Of a whole UNet, whose objective counts ballots over the global batch, the loss on held-out
    pairs comes last.
    """
    engine = worlds.build_any_engine(world, settings, name, **options)
    feed_of = worlds.build_feed

    def feed(world):
        return feed_of(world, rank=engine.rank, world_size=engine.world_size)

    start, look = LoopState(seed=5, global_batch=4) if state is None else state, None
    if settings is POLICIES["unet"]:
        look = HeldOut(engine, feed(world), 1, worlds.objective_of(settings))
    if weights is not None:
        engine.restore(weights, updates=start.updates, refreshed=start.refreshed)
    _, saves, rows, _ = run(
        world, engine, settings, start, steps=steps, save_every=saved, feed_of=feed
    )
    for (one, value), entry in zip(engine.weights(), saves[steps][1], strict=True):
        assert one == entry.name
        assert torch.equal(value, entry.value if entry.ema is None else entry.ema)
    return saves, rows, look() if look else {}


def spoilt(world, settings, name, micro_steps):
    """Train in bfloat16 while pairs without a number come; resume a save; meet too many of them.

    Bits are compared: a reference in bfloat16 turns rounding of another engine's into steps.
    """

    def go(engine, state, steps):
        feed = worlds.build_feed(world, rank=engine.rank, world_size=engine.world_size)

        def batch_at(step):
            batch, noise, t = feed(step)
            if step in SPOILT and engine.rank == 0:
                noise[0] *= math.nan  # one pair: of one rank, and of its first micro-step
            return batch, noise, t

        return train(
            engine,
            batch_at,
            state,
            objective=worlds.objective_of(settings),
            settings=LoopSettings(
                steps=steps,
                save_every=SPOILT_SAVED,
                max_skips_in_a_row=2,
                micro_steps=micro_steps,
                refresh_every=settings.refresh,
            ),
            save=lambda state, weights: saves.update({state.step: (state, list(weights))}),
            log=lambda row, times: None,
            skipped=left_out.append,
        )

    saves, left_out = {}, []
    first = worlds.build_any_engine(world, settings, name)
    end = go(first, LoopState(seed=5, global_batch=4), SPOILT_END)
    assert (left_out, end.skipped, end.updates) == ([1], 1, SPOILT_END - 1)
    assert end.refreshed == settings.refresh
    state, weights = saves[SPOILT_SAVED]
    wanted = saves.pop(SPOILT_END)[1]
    assert all(value.dtype is torch.float32 for _, value, *_ in wanted)
    assert any(not torch.equal(v, v.bfloat16().float()) for _, v, *_ in wanted), "masters"
    engine = worlds.build_any_engine(world, settings, name)
    engine.restore(weights, updates=state.updates, refreshed=state.refreshed)
    assert go(engine, state, SPOILT_END) == end
    identical(saves[SPOILT_END][1], wanted)
    with pytest.raises(FloatingPointError, match="2 steps in a row up to step 7"):
        go(engine, end, 20)
    assert left_out == [1, 5, 6]
    identical(engine.export(), wanted)  # as good as the last save


def identical(mine, theirs):
    """Assert that all that is exported is the same bit for bit."""
    for one, other in zip(mine, theirs, strict=True):
        for a, b in zip(one[1:], other[1:], strict=True):
            assert (a is None and b is None) or torch.equal(a, b), one.name


def child(rank, world, out, size, kinds, *lengths):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/rendezvous-{size}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(minutes=30),
    )
    found = {}
    for kind in kinds:
        for name in engines.ENGINES:
            found[kind, name] = curve(
                world, POLICIES[kind], name, steps=lengths[0], saved=lengths[1]
            )
    long = lengths[0] > STEPS
    every = [(kind, name) for kind in HALF for name in engines.ENGINES]
    for kind, name in every if long else (("livo", "zero2"), ("unet", "zero2")):
        spoilt(world, HALF[kind], name, micro_steps=4 // size)
    if long:
        found |= further(world, out, kinds, *lengths)
    if rank == 0:
        torch.save(found, out / f"found-{size}.pt")
    dist.barrier()
    dist.destroy_process_group()


def further(world, out, kinds, steps, saved):
    """Resume the state of one process under every engine; offload; cast the reference."""
    found = {}
    for kind in kinds:
        alone = torch.load(out / f"alone-{kind}.pt", weights_only=False)
        for name in engines.ENGINES[1:]:
            state, weights = alone[0][saved]
            found[kind, name, "resumed"] = curve(
                world, POLICIES[kind], name, steps=steps, saved=saved, state=state, weights=weights
            )
    for name in ("zero2", "zero3"):
        found["unet", name, "offloaded"] = curve(
            world, POLICIES["unet"], name, steps=steps, saved=saved, offload=True
        )
        for entry in curve(world, CAST, name, steps=REFRESH)[0][REFRESH][1]:
            assert torch.equal(entry.reference, entry.value.bfloat16().float()), entry.name
    return found


def alike(mine, theirs):
    """Assert that two runs end with the same weights, moments, reference and average."""
    for one, other in zip(mine, theirs, strict=True):
        assert one.name == other.name
        for field in ("value", "exp_avg", "exp_avg_sq", "reference", "ema"):
            a, b = getattr(one, field), getattr(other, field)
            assert (a is None) == (b is None), (one.name, field)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-5, msg=f"{one.name} {field}")


def try_with(world, tmp_path, size, kinds, steps, saved):
    for kind in kinds:
        torch.save(
            curve(world, POLICIES[kind], "ddp", steps=steps, saved=saved),
            tmp_path / f"alone-{kind}.pt",
        )
    mp.spawn(child, args=(world, tmp_path, size, kinds, steps, saved), nprocs=size)
    found = torch.load(tmp_path / f"found-{size}.pt", weights_only=False)
    for key, (their_saves, their_rows, held_out) in found.items():
        saves, rows, expected_held_out = torch.load(
            tmp_path / f"alone-{key[0]}.pt", weights_only=False
        )
        assert rows[-1]["loss"] != pytest.approx(rows[0]["loss"], rel=1e-3), "it moved"
        wanted = rows[saved:] if key[-1] == "resumed" else rows
        for row, expected in zip(their_rows, wanted, strict=True):
            assert row == pytest.approx(expected, rel=5e-3, abs=5e-5), (key, row["step"])
        assert held_out == pytest.approx(expected_held_out, rel=1e-4), key
        if key[0] == "unet":
            assert held_out["held_out_loss"] != pytest.approx(math.log(2), abs=1e-4)
            assert their_saves[steps][0].refreshed == steps // REFRESH * REFRESH
        alike(their_saves[steps][1], saves[steps][1])
    return found


@pytest.mark.slow
def test_two_processes_under_any_engine_follow_the_curve_of_one(world, tmp_path):
    kinds = ("livo", "unet")
    found = try_with(world, tmp_path, 2, kinds, STEPS, SAVED)
    assert found.keys() == {(kind, name) for kind in kinds for name in engines.ENGINES}


@pytest.mark.campaign
@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_and_any_policy_under_any_engine(world, tmp_path, size):
    found = try_with(world, tmp_path, size, tuple(POLICIES), LONG_STEPS, LONG_SAVED)
    assert len(found) == len(POLICIES) * (2 * len(engines.ENGINES) - 1) + 2


def test_a_deepspeed_configuration_may_not_decide_what_the_recipe_does():
    settings = AdamW(lr=1e-4)
    for held, words in (
        ({"bf16": {"enabled": True}, "optimizer": {}}, "may not hold optimizer, bf16"),
        ({"communication_data_type": "fp16"}, "may not hold communication_data_type"),
        ({"zero_optimization": {"zero_quantized_gradients": True}}, "zero_quantized_gradients"),
        ({"zero_optimization": {"stage": 3}}, "name=zero2, and .* has stage 3"),
    ):
        with pytest.raises(ValidationError, match=words):
            Engine(name="zero2", deepspeed=held)
    with pytest.raises(ValueError, match="has stage 3, the engine 2"):
        engines.zero_config(2, settings, more={"zero_optimization": {"stage": 3}})
    with pytest.raises(ValueError, match="nothing to offload"):
        engines.zero_config(0, settings, offload=True)
    made = engines.zero_config(
        1, settings, more={"zero_optimization": {"reduce_bucket_size": 1000}}
    )
    assert made["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1000}
    assert math.isclose(made["gradient_clipping"], 1.0)
    ours = engines.zero_config(1, settings, more={"managed_gradient_accumulation": True})
    assert ours["managed_gradient_accumulation"] is False


def test_more_micro_steps_than_a_worker_has_pairs_are_refused_when_the_recipe_is_read():
    with pytest.raises(ValueError, match="must not be above a worker's pairs of a step \\(4\\)"):
        config.load("miniature", ["resources.engine.micro_steps=5"])


def test_an_unknown_engine_and_one_without_offload_are_refused(world):
    policy = worlds.build_policy(world.generator)
    with pytest.raises(ValueError, match="'zero9' is not one of ddp, zero0"):
        engines.build("zero9", policy, AdamW(lr=1e-4))
    with pytest.raises(ValueError, match="need an engine zero1 to zero3"):
        engines.build("ddp", policy, AdamW(lr=1e-4), offload=True)
