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

from valign.on_ray import session
from valign.settings import Resources
from valign.stages.work import Shard, ShardReport, ShardWorker


class Cluster:
    """A `Runner` over the Ray cluster that `session.join` finds or starts."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.local = session.join()

    def map_shards(
        self, worker: Callable[..., ShardWorker], args: tuple[Any, ...], shards: Sequence[Shard]
    ) -> Iterator[ShardReport]:
        """Do the shards on a fixed pool of actors, at most two queued per actor."""
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        size = min(self.resources.workers, len(shards))
        self._check(size)
        numbers = ray.data.from_items(
            [asdict(shard) for shard in shards], override_num_blocks=len(shards)
        )
        reports = numbers.map_batches(
            _Actor,
            fn_constructor_args=(worker, args),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            num_cpus=self.resources.cpus_per_worker,
            num_gpus=self.resources.gpus_per_worker or None,
        )
        with _plain_errors():
            for row in reports.iter_rows():
                yield ShardReport(**{name: int(value) for name, value in row.items()})

    def launch(self, function: Callable[..., None], args: tuple[Any, ...], workers: int) -> None:
        """Run `function(*args)` on `workers` processes of one torch process group.

        A failed worker restarts them all; the function resumes from its own checkpoints, so Ray
        Train stores nothing and needs only a scratch folder.
        """
        gpus = self.resources.gpus_per_worker
        self._check(workers)
        with tempfile.TemporaryDirectory(prefix="valign-train-") as scratch, _plain_errors():
            TorchTrainer(
                lambda: function(*args),
                torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=workers,
                    use_gpu=gpus > 0,
                    resources_per_worker={"CPU": self.resources.cpus_per_worker}
                    | ({"GPU": gpus} if gpus else {}),
                ),
                run_config=RunConfig(
                    name="train",
                    storage_path=scratch,
                    failure_config=FailureConfig(max_failures=self.resources.max_failures),
                ),
            ).fit()

    def _check(self, workers: int) -> None:
        """Refuse to wait for what a cluster of this machine alone will never have."""
        there = ray.cluster_resources()
        for name, each in (
            ("CPU", self.resources.cpus_per_worker),
            ("GPU", self.resources.gpus_per_worker),
        ):
            if self.local and workers * each > there.get(name, 0):
                raise ValueError(
                    f"{workers} workers of {each:g} {name} each need {workers * each:g}, and this "
                    f"machine has {there.get(name, 0):g}: lower the resources of the recipe, or "
                    "set RAY_ADDRESS to a larger cluster"
                )


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn Ray's wrapping of a worker's error into the error's own message."""
    try:
        yield
    except (ray.exceptions.RayError, TrainingFailedError) as error:
        raise RuntimeError(str(_innermost(error))) from error


def _innermost(error: BaseException) -> BaseException:
    cause = getattr(error, "cause", None) or error.__cause__
    inner = [e for e in getattr(error, "worker_failures", {}).values()]
    if inner:
        return _innermost(inner[0])
    return _innermost(cause) if isinstance(cause, BaseException) else error


class _Actor:
    """Holds a stage's worker in an actor of the pool."""

    def __init__(self, worker: Callable[..., ShardWorker], args: tuple[Any, ...]) -> None:
        self.worker = worker(*args)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shard = Shard(**{name: int(values[0]) for name, values in batch.items()})
        return {name: np.array([value]) for name, value in asdict(self.worker(shard)).items()}
