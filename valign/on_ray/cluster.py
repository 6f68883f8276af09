"""The runner that carries work to a Ray cluster: shards by Ray Data, training by Ray Train.

Only shard numbers and small reports travel through Ray; workers read and write the store
themselves. So a part's name, content and order are the stage's own, and nothing depends on how Ray
schedules. See `stages.work.Runner` for the contract.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import ray.data
import ray.exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from valign.on_ray import metrics, session
from valign.settings import POOLS, Pool, Resources
from valign.stages.work import Shard, ShardReport, ShardWorker


class Cluster:
    """A `Runner` over the Ray cluster that `session.join` finds or starts."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.local = session.join()
        metrics.listen()

    def map_shards(
        self,
        worker: Callable[..., ShardWorker],
        args: tuple[Any, ...],
        shards: Sequence[Shard],
        *,
        prefix: str,
        pool: str,
    ) -> Iterator[ShardReport]:
        """Do the shards on a fixed pool of actors, at most two queued per actor."""
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        mine = self.resources.pool(pool)
        assert mine.workers
        size = min(mine.workers, len(shards))
        self._check(prefix, mine, size)
        numbers = ray.data.from_items(
            [asdict(shard) for shard in shards], override_num_blocks=len(shards)
        )
        reports = numbers.map_batches(
            _Actor,
            fn_constructor_args=(worker, args),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            num_cpus=mine.cpus_per_worker,
            num_gpus=mine.gpus_per_worker or None,
            memory=_bytes(mine),
            resources=mine.custom or None,
            accelerator_type=mine.accelerator_type,
            label_selector=mine.labels or None,
        )
        with _plain_errors():
            for row in reports.iter_rows():
                yield ShardReport(**{name: int(value) for name, value in row.items()})

    def launch(self, function: Callable[..., None], args: tuple[Any, ...], workers: int) -> None:
        """Run `function(*args)` on `workers` processes of one torch process group.

        A failed worker restarts them all; the function resumes from its own checkpoints, so Ray
        Train stores nothing and needs only a scratch folder.
        """
        mine = self.resources.pool("train")
        gpus = mine.gpus_per_worker or 0.0
        self._check("train", mine, workers)
        with tempfile.TemporaryDirectory(prefix="valign-train-") as scratch, _plain_errors():
            TorchTrainer(
                lambda: _counted(function, args),
                torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=workers,
                    use_gpu=gpus > 0,
                    resources_per_worker=_demand(mine),
                    accelerator_type=mine.accelerator_type,
                    label_selector=mine.labels or None,
                ),
                run_config=RunConfig(
                    name="train",
                    storage_path=scratch,
                    failure_config=FailureConfig(max_failures=self.resources.max_failures),
                ),
            ).fit()

    def _check(self, what: str, pool: Pool, workers: int) -> None:
        """Refuse, or say, that workers would wait for what is not there.

        Raises:
            ValueError: the cluster is this machine alone, so that it would be for ever.
        """
        lacking = _lacking(pool, workers)
        if lacking and self.local:
            raise ValueError(
                f"{what}: {'; '.join(lacking)}: lower the resources of the recipe, or set "
                "RAY_ADDRESS to a larger cluster"
            )
        if lacking:
            print(f"{what}: waits for the cluster to grow: {'; '.join(lacking)}", flush=True)


def finding(resources: Resources) -> tuple[str, bool, str, str]:
    """Say whether Ray has what a recipe asks for: (name, fine, detail, remedy)."""
    try:
        local = session.join()
        there = ray.cluster_resources()
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        remedy = "Check RAY_ADDRESS and the cluster's token, or unset it to start Ray here."
        return ("ray", False, str(error), remedy)
    nodes = sum(node["Alive"] for node in ray.nodes())
    found = f"{ray.__version__}: {nodes} nodes, {there.get('CPU', 0):g} CPUs, "
    found += f"{there.get('GPU', 0):g} GPUs"
    pools = {name: resources.pool(name) for name in POOLS}
    lacking = [
        f"{name}: {each}"
        for name, pool in pools.items()
        for each in _lacking(pool, pool.workers or 1)
    ]
    if not lacking:
        return ("ray", True, found, "")
    if not local:
        return ("ray", True, f"{found}; runs wait for it to grow: {'; '.join(lacking)}", "")
    remedy = "Lower the resources of the recipe, or set RAY_ADDRESS to a larger cluster."
    return ("ray", False, f"{found}; {'; '.join(lacking)}", remedy)


def _lacking(pool: Pool, workers: int) -> list[str]:
    """Say what the cluster has not, of what so many workers of a pool reserve."""
    there = ray.cluster_resources()
    demand = _demand(pool)
    if pool.accelerator_type:
        demand[f"accelerator_type:{pool.accelerator_type}"] = 0.001  # what Ray itself asks
    known = {item for node in ray.nodes() for item in node["Labels"].items()}
    return [
        f"{workers} workers of {each:g} {name} each need {workers * each:g}, and there are "
        f"{there.get(name, 0):g}"
        for name, each in demand.items()
        if workers * each > there.get(name, 0)
    ] + [
        f"no node has the label {key}={value}"
        for key, value in pool.labels.items()
        if (key, value) not in known and not value.startswith(("!", "in("))
    ]


def _demand(pool: Pool) -> dict[str, float]:
    """Return what one worker reserves, by Ray's names of resources."""
    assert pool.cpus_per_worker
    demand = {"CPU": pool.cpus_per_worker, **pool.custom}
    if pool.gpus_per_worker:
        demand["GPU"] = pool.gpus_per_worker
    if memory := _bytes(pool):
        demand["memory"] = memory
    return demand


def _bytes(pool: Pool) -> int | None:
    return int(pool.memory_gib_per_worker * 2**30) if pool.memory_gib_per_worker else None


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn Ray's wrapping of a worker's error into the error's own message."""
    try:
        yield
    except (ray.exceptions.RayError, TrainingFailedError) as error:
        raise RuntimeError(_innermost(error)) from error


def _innermost(error: BaseException) -> str:
    """Return the words of the first cause that has any: Ray's own wrappers may be empty."""
    inner = list(getattr(error, "worker_failures", {}).values())
    cause = inner[0] if inner else getattr(error, "cause", None) or error.__cause__
    words = _innermost(cause) if isinstance(cause, BaseException) else ""
    return words or str(error)


def _counted(function: Callable[..., None], args: tuple[Any, ...]) -> None:
    metrics.listen()
    function(*args)


class _Actor:
    """Holds a stage's worker in an actor of the pool."""

    def __init__(self, worker: Callable[..., ShardWorker], args: tuple[Any, ...]) -> None:
        metrics.listen()
        self.worker = worker(*args)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shard = Shard(**{name: values[0].item() for name, values in batch.items()})
        report = self.worker(shard)
        return {name: np.array([value]) for name, value in asdict(report).items()}
