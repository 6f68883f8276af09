"""The engine of plain torch: one process, or DistributedDataParallel in a process group."""

import inspect
import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from valign.training.any_engine import Engine, Exported
from valign.training.batch import Batch
from valign.training.errors import Errors
from valign.training.optimizer import AdamW
from valign.training.policy import Policy


class DdpEngine(Engine):
    """Every rank has all weights and all optimizer state. See `Engine`."""

    def __init__(self, policy: Policy, settings: AdamW, *, ema_decay: float | None = None) -> None:
        super().__init__(policy, settings, ema_decay=ema_decay)
        self._smallest = min(self._named.values(), key=lambda p: p.numel())
        self._forward: Any = policy
        if self.world_size > 1:
            self._forward = _distribute(policy)
        # One fused kernel per step instead of a dozen small ones per parameter.
        self._optimizer = torch.optim.AdamW(
            self._named.values(),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._begin()

    def errors(self, batch: Batch, noise_BCHW: Tensor, t_B: Tensor, *, last: bool = True) -> Errors:
        """See `Engine`. Gradients are reduced in the last micro-step's backward pass."""
        waits = not last and isinstance(self._forward, DistributedDataParallel)
        with self._forward.no_sync() if waits else nullcontext():
            return self._forward(batch, noise_BCHW, t_B)

    def accumulate(self, loss: Tensor) -> None:
        """See `Engine`."""
        # A non-finite loss can have finite gradients (a clamp's is 0 at NaN). Multiplying it into
        # one small gradient lets the reduction tell every rank, without a message of its own.
        alarm = torch.where(torch.isfinite(loss.detach()), 0.0, math.nan)
        # DDP averages the ranks' gradients; the shares are to be added.
        (loss * self.world_size + alarm * self._smallest.sum()).backward()

    def step(self, loss: Tensor) -> float:
        """See `Engine`."""
        self.accumulate(loss)
        norm = float(
            nn.utils.clip_grad_norm_(self._named.values(), self.settings.clip_norm, foreach=True)
        )
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = self.lr
            self._optimizer.step()
            self._updated()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _moments(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        state = self._optimizer.state.get(parameter)
        if state is None:  # no update yet
            return torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state["exp_avg"], state["exp_avg_sq"]

    def _set(self, parameter: nn.Parameter, entry: Exported) -> None:
        parameter.copy_(entry.value)
        # The fused kernel goes by the order in memory, which a channels-last weight has of its own.
        self._optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.empty_like(parameter).copy_(entry.exp_avg),
            "exp_avg_sq": torch.empty_like(parameter).copy_(entry.exp_avg_sq),
        }

    def _resume(self, updates: int) -> None:
        for state in self._optimizer.state.values():
            state["step"] = torch.full_like(state["step"], float(updates))


def _distribute(policy: Policy) -> DistributedDataParallel:
    # The policy's buffers are constants: nothing to broadcast before a forward. Newer versions of
    # torch have another name for this.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(policy, gradient_as_bucket_view=True, **options)
