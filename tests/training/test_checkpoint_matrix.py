"""A checkpoint of any engine and number of workers resumes under any other, float32 or bfloat16.

Every writer trains, saves as the train stage does, and goes on to the end. Every reader takes over
every save: what it then exports is the save, bit for bit (float32 masters too, where bfloat16
computes), and where it ends is where the writer ended, within a share of the way that is left.
"""

import datetime
import itertools
from dataclasses import asdict

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import training_world as worlds
from test_refresh import run

from valign.stages.train_save import Saver, exported
from valign.storage import checkpoints
from valign.storage.objects import open_store
from valign.train_settings import Train
from valign.training.any_engine import Exported
from valign.training.loop import LoopState

ENGINES, SIZES = ("ddp", "zero1", "zero2", "zero3"), (1, 2, 4)
SAVED, END, REFRESH = 4, 6, 3  # a refresh before the save, and one after it
FLOAT32 = Train(
    objective="balanced_dpo",
    trains="unet",
    beta=500.0,
    aggregation="losses",
    refresh_every=REFRESH,
    ema_decay=0.9,
)
POLICIES = {"float32": FLOAT32, "bfloat16": FLOAT32.model_copy(update={"precision": "bfloat16"})}
# Of the way from the save to the end: how far two engines may end apart. In bfloat16 a sum in
# another order already differs by a hundredth.
APART = {"float32": 0.02, "bfloat16": 0.3}


def go(world, engine, settings, state, steps):
    """Train to a step; return the loop's state and everything there is."""

    def feed(world):
        return worlds.build_feed(world, rank=engine.rank, world_size=engine.world_size)

    _, saves, _, _ = run(world, engine, settings, state, steps=steps, feed_of=feed)
    return saves[steps]


def writes(world, out, kind, name, size):
    engine = worlds.build_any_engine(world, POLICIES[kind], name)
    start = LoopState(seed=5, global_batch=4)
    state, weights = go(world, engine, POLICIES[kind], start, SAVED)
    place = out / f"{kind}-{name}-{size}"
    if engine.rank == 0:
        saver = Saver(open_store(str(place)), keep_last=1)
        saver.save(SAVED, iter(weights), asdict(state))
        saver.wait()
    end = go(world, engine, POLICIES[kind], state, END)
    if engine.rank == 0:
        torch.save([tuple(entry) for entry in end[1]], place / "end.pt")


def reads(world, out, kind, name, writer):
    found = checkpoints.load(open_store(str(out / f"{kind}-{writer}")), "train", SAVED)
    state = LoopState(**found.loop)
    engine = worlds.build_any_engine(world, POLICIES[kind], name)
    tensors = found.tensors
    engine.restore(exported(tensors), updates=state.updates, refreshed=state.refreshed)
    saved = {entry.name: entry for entry in exported(tensors)}
    for entry in engine.export():
        for field, mine, theirs in zip(entry._fields, entry, saved[entry.name], strict=True):
            if isinstance(mine, torch.Tensor):
                assert mine.dtype is torch.float32
                assert torch.equal(mine, theirs), (entry.name, field)
    _, weights = go(world, engine, POLICIES[kind], state, END)
    if engine.rank == 0:
        ended = torch.load(out / f"{kind}-{writer}" / "end.pt")
        wanted = {name: Exported(name, *rest) for name, *rest in ended}
        for field in ("value", "exp_avg", "exp_avg_sq", "reference", "ema"):
            off = share(weights, wanted, saved, field)
            assert off <= APART[kind], f"{kind}: {writer} resumed under {name}: {field} {off:.3f}"


def share(mine, wanted, saved, field):
    """Return |mine - wanted| / |wanted - saved| over all parameters."""
    apart = way = 0.0
    for entry in mine:
        end, start = (getattr(found[entry.name], field) for found in (wanted, saved))
        apart += float((getattr(entry, field) - end).square().sum())
        way += float((end - start).square().sum())
    assert way > 0, f"{field} does not move"
    return (apart / way) ** 0.5


def child(rank, size, work, out, pairs):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/rendezvous-{work.__name__}-{size}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(minutes=30),
    )
    for arguments in pairs:
        work(*arguments)
    dist.barrier()
    dist.destroy_process_group()


def try_all(world, out, engines, sizes):
    """Let every engine and size write, then read what all others wrote; return how many did."""
    kinds = tuple(POLICIES)
    for size in sizes:
        written = [(world, out, kind, name, size) for kind in kinds for name in engines]
        mp.spawn(child, args=(size, writes, out, written), nprocs=size)
    writers = [f"{name}-{size}" for name in engines for size in sizes]
    done = 0
    for size in sizes:
        taken = [(world, out, *one) for one in itertools.product(kinds, engines, writers)]
        mp.spawn(child, args=(size, reads, out, taken), nprocs=size)
        done += len(taken)
    return done


@pytest.mark.campaign
def test_every_checkpoint_resumes_under_every_engine_and_number_of_workers(world, tmp_path):
    count = len(ENGINES) * len(SIZES)
    assert try_all(world, tmp_path, ENGINES, SIZES) == len(POLICIES) * count**2
