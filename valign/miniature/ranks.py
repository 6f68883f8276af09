"""Several single-threaded processes training one network: shared gradients, nothing else.

In: an initialised gloo process group (or none: then everything is a no-op). Plain averaging after
backward; torch's DDP wrapper would want one forward method, which an autoencoder has not.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor


def join(folder: Path, rank: int, size: int) -> None:
    """Meet the other ranks through a file in the folder, removed by `leave`; alone, do nothing."""
    if size == 1:
        return
    dist.init_process_group(
        "gloo",
        init_method=f"file://{(folder / 'rendezvous').resolve()}",
        rank=rank,
        world_size=size,
    )


def wait() -> None:
    """Until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def leave(folder: Path) -> None:
    if not dist.is_initialized():
        return
    wait()
    dist.destroy_process_group()
    (folder / "rendezvous").unlink(missing_ok=True)


def rank() -> int:
    """This process's rank; 0 where there is no group."""
    return dist.get_rank() if dist.is_initialized() else 0


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the ranks, in one message."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
