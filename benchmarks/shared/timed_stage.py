"""A stage of the miniature, timed on Ray and as a bare loop, each in a fresh process.

In: a root with a plan of images (`prepare`), and how many of its shards. Out: a `Timed`. The bare
loop has the same model, rows, batches and threads, and nothing else: it encodes and writes no
file. What the two are compared for is left to `ray_tax.py` and `actors.py`.
"""

import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from shared.host import KINDS, cpu_between, processes
from valign import config
from valign.config import Run
from valign.stages import generate, generator, images, prompts, score
from valign.stages.work import Shard, Work, cut
from valign.storage import layout, tables
from valign.storage.objects import open_store

VERBS = ("generate", "score")
T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """What a loop over shards did, its first shards and the start left out."""

    images: int
    seconds: float
    cpu_s: dict[str, float] = field(default_factory=dict)  # by kind of process, in these seconds
    start_s: dict[str, float] = field(default_factory=dict)  # what came before the first shard

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


def alone(function: Callable[..., T], *args: Any) -> T:
    """Return `function(*args)` of a process of its own, with one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def the_run(root: str, shard_rows: int, workers: int = 1) -> Run:
    """Return the run that is timed: the papers' plan on the miniature."""
    settings = [f"root={root}", f"generate.shard_rows={shard_rows}", f"resources.workers={workers}"]
    return config.load("miniature_full", settings)


def prepare(root: str, shard_rows: int, rows: int) -> None:
    """Write a plan of the first images of concepts' prompts."""
    run = the_run(root, shard_rows)
    weights = generator.fingerprint_of(run)
    asked = (r for r in prompts.training(run).requests if r.prompt.role == "attribute")
    planned = (
        generate.planned(run, request.prompt, sample, weights)
        for request in asked
        for sample in range(request.images)
    )
    columns = images.columns(list(itertools.islice(planned, rows)))
    tables.write(open_store(root), layout.plan("generate"), columns, tables.PLAN)


def repeat_parts(root: str, count: int) -> int:
    """Give `score` as many parts as it needs, by linking those that are there; return how many."""
    folder = Path(root)
    made = sorted(folder.glob(f"{layout.parts('generate')}*"))
    for number in range(len(made), count):
        target = folder / layout.part("generate", number)
        target.hardlink_to(made[number % len(made)])
    return max(count, len(made))


def bare(verb: str, root: str, shard_rows: int, shards: int) -> Timed:
    """Loop over shards with the model alone; the first shard only warms it up."""
    began = time.perf_counter()
    do = (_bare_generate if verb == "generate" else _bare_score)(the_run(root, shard_rows))
    loaded_s = time.perf_counter() - began
    done = 0
    for shard in cut(shards * shard_rows, shard_rows):
        rows = do(shard)
        if shard.number == 0:
            before, start = processes(os.getpid()), time.perf_counter()
        else:
            done += rows
    seconds = time.perf_counter() - start
    spent = cpu_between(before, processes(os.getpid()))
    return Timed(done, seconds, spent, {"the model loads": loaded_s})


def _bare_generate(run: Run) -> Callable[[Shard], int]:
    from valign.models.aligned import sample_rows

    plan = images.Plan(open_store(run.root), layout.plan("generate"))
    model, sampler = generator.load_generator(run), generator.sampler(run)

    def draw(shard: Shard) -> int:
        rows = plan.rows(shard.start, shard.stop)
        conditioning = model.condition([row.prompt.text for row in rows])
        seeds = [row.seed for row in rows]
        size = run.sampling.batch_size
        return len(sample_rows(model, conditioning, seeds, sampler, batch_size=size))

    return draw


def _bare_score(run: Run) -> Callable[[Shard], int]:
    worker = score.Worker(run, run.root)  # for its way of decoding a batch ahead

    def read(shard: Shard) -> int:
        data = tables.read(worker.store, shard.part("generate"), tables.IMAGES).to_pylist()
        starts = range(0, len(data), worker.batch_size)
        batches = [data[start : start + worker.batch_size] for start in starts]
        decoded = score.ahead(worker.decode, batches)
        for rows, ready in zip(batches, decoded, strict=True):
            worker.score(rows, ready)
        return len(data)

    return read


def on_ray(verb: str, root: str, shard_rows: int, shards: int, workers: int) -> Timed:
    """Carry out shards as the stage does; the first and last shard of each worker only frame it."""
    began = time.perf_counter()
    from valign.on_ray.cluster import Cluster

    run, store = the_run(root, shard_rows, workers), open_store(root)
    imported = time.perf_counter()
    cluster = Cluster(run.resources)
    connected = time.perf_counter()
    told: list[tuple[float, int]] = []
    usage = []

    def tell(what: str, done: int, total: int, unit: str) -> None:
        told.append((time.perf_counter(), done))
        if len(told) - 1 in (workers, shards - workers + 1):  # told[0] is before any shard
            usage.append(processes(os.getpid()))

    work = Work(run, store.url, store, cluster, tell)
    every = cut(shards * shard_rows, shard_rows)
    if verb == "generate":
        work.carry_out(verb, generate.Worker, (run, root), every)
    else:
        work.carry_out(verb, score.Worker, (run, root), every)
    (first, rows_before), (last, rows) = told[workers], told[shards - workers + 1]
    timed = Timed(rows - rows_before, last - first, cpu_between(usage[0], usage[-1]))
    shard_s = workers * shard_rows / timed.rate
    timed.start_s["Ray is imported"] = imported - began
    timed.start_s["Ray starts"] = connected - imported
    timed.start_s["workers start and load the model"] = first - connected - shard_s
    return timed


def cores(timed: Timed) -> str:
    """Say how many cores each kind of process kept busy."""
    used = {kind: timed.cpu_s.get(kind, 0.0) / timed.seconds for kind in KINDS}
    return ", ".join(f"{kind} {value:.2f}" for kind, value in used.items())
