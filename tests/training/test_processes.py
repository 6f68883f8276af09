"""Two processes with half of each global batch each train as one process with all of it does."""

import datetime
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import training_world as worlds

from valign.training.loop import LoopSettings, LoopState, train

STEPS, BAD_STEP, GLOBAL_BATCH = 24, 9, 5  # five pairs: the ranks' shares differ in size


def train_one_rank(world: worlds.World, out: Path) -> None:
    """Train; the first rank's noise is not a number at one step. Save all that came of it."""
    torch.set_num_threads(1)
    # A large eps: with a small one, gradients that are only rounding move weights as others do.
    engine = worlds.build_engine(world, lr=1e-3, eps=1e-3)
    feed = worlds.build_feed(
        world, global_batch=GLOBAL_BATCH, rank=engine.rank, world_size=engine.world_size
    )
    rows, saves = [], []

    def batch_at(step):
        batch, noise, t = feed(step)
        return batch, noise * math.nan if (step, engine.rank) == (BAD_STEP, 0) else noise, t

    state = train(
        engine,
        batch_at,
        LoopState(seed=5, global_batch=GLOBAL_BATCH),
        objective=worlds.build_objective(GLOBAL_BATCH),
        settings=LoopSettings(steps=STEPS, save_every=STEPS, log_every=1),
        save=lambda state, weights: saves.append({e.name: e.value for e in weights}),
        log=lambda row, times: rows.append(row),
    )
    result = {"weights": saves[-1], "rows": rows, "skipped": state.skipped}
    torch.save(result, out / f"{engine.world_size}-{engine.rank}.pt")


def child(rank: int, world: worlds.World, out: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    train_one_rank(world, out)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(world, tmp_path):
    train_one_rank(world, tmp_path)
    mp.spawn(child, args=(world, tmp_path), nprocs=2)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))

    assert one["skipped"] == first["skipped"] == second["skipped"] == 1
    assert second["rows"] == [], "only the first rank logs"
    for mine, theirs in zip(one["rows"], first["rows"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    assert one["rows"][-1]["loss"] != one["rows"][0]["loss"]

    start = {e.name: e.value for e in worlds.build_engine(world).export()}
    for name, value in one["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        moved, expected = first["weights"][name] - start[name], value - start[name]
        torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-5)
    largest = max((value - start[name]).abs().max() for name, value in one["weights"].items())
    assert largest > 1e-3, "the tolerance is small beside the movement"
