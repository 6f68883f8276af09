"""A loss becomes new weights: backward, reduction over workers, clipping, AdamW.

An engine owns the optimizer and its state, and hands both out by parameter name in float32, so that
a checkpoint of one engine and worker count restores into another. Here: plain torch, in one process
or under DistributedDataParallel when a process group exists.

Out of scope: what the loss is, when to save, where to.
"""

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from valign.training.batches import Batch
from valign.training.errors import Errors
from valign.training.policy import LivoPolicy


class Exported(NamedTuple):
    """One trained parameter with its optimizer moments, all float32 on the CPU and detached."""

    name: str
    value: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """How the weights move."""

    lr: float
    """Learning rate after warm-up."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises linearly from 0; then it is constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Upper bound of the gradient's norm over all trained weights; longer ones are scaled down."""

    def lr_at(self, updates: int) -> float:
        """Return the learning rate of the update that follows `updates` earlier ones."""
        if updates >= self.warmup_steps:
            return self.lr
        return self.lr * updates / self.warmup_steps


class DdpEngine:
    """Trains a policy in this process, or in all processes of the default process group.

    The trained weights must be float32 (an update of 1e-6 vanishes in half precision); a lower
    compute precision is the policy's `autocast`.

    Args:
        policy: its device decides where the engine computes.
        settings: the optimizer's.

    Attributes:
        updates: weight updates made so far: Adam's step and the position in the learning-rate
            schedule. Skipped steps do not count.
    """

    def __init__(self, policy: LivoPolicy, settings: AdamW) -> None:
        named = dict(policy.trainable())
        for name, parameter in named.items():
            if parameter.dtype is not torch.float32:
                raise ValueError(f"trained weights must be float32, {name} is {parameter.dtype}")
        self.policy = policy.train()
        self.settings = settings
        self.updates = 0
        self._named = named
        self._smallest = min(named.values(), key=lambda p: p.numel())
        distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.world_size = dist.get_world_size() if distributed else 1
        self._forward: nn.Module = policy
        if self.world_size > 1:
            self._forward = _distribute(policy)
        # One fused kernel per step instead of a dozen small ones per parameter.
        self._optimizer = torch.optim.AdamW(
            named.values(),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    @property
    def device(self) -> torch.device:
        """Where the trained weights are."""
        return self._smallest.device

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.settings.lr_at(self.updates)

    def errors(self, batch: Batch, noise_BCHW: Tensor, t_B: Tensor) -> Errors:
        """Return this rank's denoising errors; every rank must call it before `step`."""
        return self._forward(batch, noise_BCHW, t_B)

    def step(self, loss: Tensor) -> float:
        """Update the weights once by the sum of all ranks' losses.

        Args:
            loss: this rank's share of the loss (normalised by the global batch), a scalar.

        Returns:
            The gradient's norm before clipping, the same on every rank. If it is not finite, or the
            loss of any rank is not, no weight and no optimizer state has changed on any rank.
        """
        # A non-finite loss can have finite gradients (a clamp's is 0 at NaN). Multiplying it into
        # one small gradient lets the reduction tell every rank, without a message of its own.
        alarm = torch.where(torch.isfinite(loss.detach()), 0.0, math.nan)
        # DDP averages the ranks' gradients; the shares are to be added.
        (loss * self.world_size + alarm * self._smallest.sum()).backward()
        norm = float(
            nn.utils.clip_grad_norm_(self._named.values(), self.settings.clip_norm, foreach=True)
        )
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = self.lr
            self._optimizer.step()
            self.updates += 1
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; every rank must call it."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def export(self) -> Iterator[Exported]:
        """Yield every trained parameter with its moments, in a fixed order.

        The tensors are copies, so training may go on while they are written.
        """
        for name, parameter in self._named.items():
            state = self._optimizer.state.get(parameter)
            if state is None:  # no update yet
                moments = torch.zeros_like(parameter), torch.zeros_like(parameter)
            else:
                moments = state["exp_avg"], state["exp_avg_sq"]
            yield Exported(name, *(_host_copy(t) for t in (parameter, *moments)))

    def restore(self, exported: Iterable[Exported], *, updates: int) -> None:
        """Continue from exported weights and moments, made under any engine or worker count.

        Args:
            exported: what `export` yielded, in any order.
            updates: the engine's `updates` at that time.

        Raises:
            ValueError: a parameter is missing, unexpected, or of another shape.
        """
        missing = set(self._named)
        for name, *values in exported:
            if name not in missing:
                raise ValueError(f"the checkpoint's {name} is unknown to this model or given twice")
            parameter = self._named[name]
            for value in values:
                if value.shape != parameter.shape:
                    raise ValueError(
                        f"the checkpoint's {name} has shape {tuple(value.shape)}, the model's "
                        f"{tuple(parameter.shape)}: resume with the model it was trained from"
                    )
            weight, exp_avg, exp_avg_sq = (v.to(parameter, copy=True) for v in values)
            with torch.no_grad():
                parameter.copy_(weight)
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(updates), device=parameter.device),
                "exp_avg": exp_avg,
                "exp_avg_sq": exp_avg_sq,
            }
            missing.remove(name)
        if missing:
            raise ValueError(
                f"the checkpoint lacks {len(missing)} parameters, {min(missing)} among them: "
                "resume with the settings it was trained with"
            )
        self.updates = updates


def _distribute(policy: LivoPolicy) -> DistributedDataParallel:
    # The policy's buffers are constants: nothing to broadcast before a forward. Newer versions of
    # torch have another name for this.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(policy, gradient_as_bucket_view=True, **options)


def _host_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
