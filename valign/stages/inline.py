"""Carry a stage's work without Ray: shards in this process, training in plain child processes."""

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from valign.stages import device
from valign.stages.work import Shard, ShardReport, ShardWorker


class Inline:
    """The runner of tests, of machines without Ray, and of debuggers."""

    def map_shards(
        self,
        worker: Callable[..., ShardWorker],
        args: tuple[Any, ...],
        shards: Sequence[Shard],
        *,
        prefix: str,
        pool: str,
    ) -> Iterator[ShardReport]:
        """Do the shards one after the other in this process."""
        do = worker(*args)
        for shard in shards:
            yield do(shard)

    def launch(self, function: Callable[..., None], args: tuple[Any, ...], workers: int) -> None:
        """Run `function(*args)` here, or on `workers` child processes joined over loopback."""
        if workers == 1:
            function(*args)
            return
        import torch.multiprocessing

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.start_processes(
            _join, args=(function, args, workers, port), nprocs=workers, start_method="spawn"
        )


def _join(
    rank: int, function: Callable[..., None], args: tuple[Any, ...], workers: int, port: int
) -> None:
    import torch.distributed

    device.prepare()
    gpus = torch.cuda.device_count()
    backend = "nccl" if gpus >= workers else "gloo"  # nccl takes no two ranks on one GPU
    if gpus:
        torch.cuda.set_device(rank % gpus)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group(backend, address, rank=rank, world_size=workers)
    try:
        function(*args)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
