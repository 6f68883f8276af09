"""What every engine is: a loss becomes new weights, and all state is handed out by name.

An engine owns the optimizer and its state, and hands both out by parameter name in float32, so that
a checkpoint of one engine and worker count restores into another. It also keeps the reference, a
moving average of the weights, and how far these are from where they began.

An engine may hold only a part of each parameter (a shard). What is done element by element is done
on the parts, here; the engines say how a part is found, and put together to the whole.

Out of scope: what the loss is, when to save or to refresh, where to.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from valign.training.batch import Batch
from valign.training.errors import Errors
from valign.training.optimizer import AdamW
from valign.training.policy import Policy


class Exported(NamedTuple):
    """One trained parameter with its optimizer moments, all float32 on the CPU and detached."""

    name: str
    value: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    reference: Tensor | None = None
    """The reference's, once it has been refreshed; before that it is the base model's."""
    ema: Tensor | None = None
    """The moving average, where one is kept."""


class Engine(ABC):
    """Trains a policy in this process, or in all processes of the default process group.

    The trained weights must be float32 (an update of 1e-6 vanishes in half precision); a lower
    compute precision is the policy's `autocast`.

    Args:
        policy: its device decides where the engine computes.
        settings: the optimizer's.
        ema_decay: of a moving average over the trained weights, per update; None for none.

    Attributes:
        updates: weight updates made so far: Adam's step and the position in the learning-rate
            schedule. Skipped steps do not count.
        refreshed: updates made when the reference was last refreshed; 0 for never.
    """

    def __init__(self, policy: Policy, settings: AdamW, *, ema_decay: float | None = None) -> None:
        named = dict(policy.trainable())
        for name, parameter in named.items():
            if parameter.dtype is not torch.float32:
                raise ValueError(f"trained weights must be float32, {name} is {parameter.dtype}")
        self.policy = policy.train()
        self.settings = settings
        self.updates = 0
        self.refreshed = 0
        self._named = named
        self._mirrored = {name: frozen for name, _, frozen in policy.mirrored()}
        assert self._mirrored.keys() <= named.keys()
        distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.world_size = dist.get_world_size() if distributed else 1
        self._ema_decay = ema_decay
        self._ema: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}

    @abstractmethod
    def errors(self, batch: Batch, noise_BCHW: Tensor, t_B: Tensor, *, last: bool = True) -> Errors:
        """Return this rank's denoising errors; every rank must call it before `step`.

        Args:
            batch, noise_BCHW, t_B: a step, or a micro-step of it.
            last: whether `step` follows; if not, `accumulate` does.
        """

    @abstractmethod
    def accumulate(self, loss: Tensor) -> None:
        """Add the gradient of a micro-step's share of the loss; weights stay as they are."""

    @abstractmethod
    def step(self, loss: Tensor) -> float:
        """Update the weights once by the sum of all ranks' losses and what was accumulated.

        Args:
            loss: this rank's share of the loss (normalised by the global batch), a scalar.

        Returns:
            The gradient's norm before clipping, the same on every rank. If it is not finite, or the
            loss of any rank is not, no weight and no optimizer state has changed on any rank.
        """

    @property
    def device(self) -> torch.device:
        """Where the trained weights are."""
        return next(iter(self._named.values())).device

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.settings.lr_at(self.updates)

    @property
    def refreshable(self) -> bool:
        """Whether the policy has a reference that follows it."""
        return bool(self._mirrored)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; every rank must call it."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """Copy the trained weights into the reference, cast to its dtype (BalancedDPO, Alg. 1).

        Raises:
            ValueError: the policy's reference is not one that follows it.
        """
        if not self._mirrored:
            raise ValueError(
                f"{type(self.policy).__name__} has no reference of its own to refresh: set "
                "refresh_every to 0"
            )
        for name, frozen in self._mirrored.items():
            self._part(frozen).copy_(self._part(self._named[name]))
            self._changed(frozen)
        self.refreshed = self.updates

    @torch.no_grad()
    def drift(self) -> float:
        """Return |weights - those at the start| / |those at the start|; every rank must call it."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for name, start in self._start.items():
            was = start.to(self.device, torch.float64)
            moved = self._part(self._named[name]).to(torch.float64) - was
            sums += torch.stack([moved.square().sum(), was.square().sum()])
        moved_sum, start_sum = self.sum(sums).tolist()
        return (moved_sum / start_sum) ** 0.5 if start_sum else 0.0

    @torch.no_grad()
    def export(self) -> Iterator[Exported]:
        """Yield every trained parameter with all that belongs to it, in a fixed order.

        The tensors are copies, so training may go on while they are written. Every rank must walk
        it to its end.
        """
        for name, parameter in self._named.items():
            exp_avg, exp_avg_sq = self._moments(parameter)
            entry = Exported(
                name,
                _host_copy(self._whole(self._part(parameter), parameter)),
                _host_copy(exp_avg),
                _host_copy(exp_avg_sq),
            )
            if self.refreshed and name in self._mirrored:
                frozen = self._mirrored[name]
                whole = self._whole(self._part(frozen), frozen)
                entry = entry._replace(reference=_host_copy(whole))
            if name in self._ema:
                ema = _host_copy(self._whole(self._ema[name], parameter))
                entry = entry._replace(ema=ema)
            yield entry

    @torch.no_grad()
    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of what would be left behind if training ended now.

        That is the moving average where one is kept. Float32 copies on the CPU; every rank must
        walk it to its end.
        """
        for name, parameter in self._named.items():
            part = self._ema.get(name, self._part(parameter))
            yield name, _host_copy(self._whole(part, parameter))

    @torch.no_grad()
    def restore(self, exported: Iterable[Exported], *, updates: int, refreshed: int = 0) -> None:
        """Continue from exported weights and moments, made under any engine or worker count.

        Args:
            exported: what `export` yielded, in any order.
            updates: the engine's `updates` at that time.
            refreshed: the engine's `refreshed` at that time.

        Raises:
            ValueError: a parameter is missing, unexpected, or of another shape; or the reference
                or the moving average is missing.
        """
        missing = set(self._named)
        for entry in exported:
            if entry.name not in missing:
                raise ValueError(
                    f"the checkpoint's {entry.name} is unknown to this model or given twice"
                )
            self._check(entry, refreshed)
            parameter = self._named[entry.name]
            self._set(parameter, entry)
            if entry.reference is not None:
                frozen = self._mirrored[entry.name]
                self._part(frozen).copy_(self._part_of(entry.reference, frozen))
                self._changed(frozen)
            if entry.ema is not None and self._ema_decay is not None:
                part = self._part_of(entry.ema, parameter)
                self._ema[entry.name] = part.to(parameter.device, copy=True)
            missing.remove(entry.name)
        if missing:
            raise ValueError(
                f"the checkpoint lacks {len(missing)} parameters, {min(missing)} among them: "
                "resume with the settings it was trained with"
            )
        self.updates, self.refreshed = updates, refreshed
        self._resume(updates)

    def _check(self, entry: Exported, refreshed: int) -> None:
        shape = self._shape(self._named[entry.name])
        for value in entry[1:]:
            if isinstance(value, Tensor) and value.shape != shape:
                raise ValueError(
                    f"the checkpoint's {entry.name} has shape {tuple(value.shape)}, the model's "
                    f"{tuple(shape)}: resume with the model it was trained from"
                )
        followed = entry.name in self._mirrored
        if (entry.reference is not None) != bool(followed and refreshed):
            raise ValueError(
                f"the checkpoint has {'a' if entry.reference is not None else 'no'} reference for "
                f"{entry.name}, which was refreshed at update {refreshed}: resume with the policy "
                "that was trained"
            )
        if self._ema_decay is not None and entry.ema is None:
            raise ValueError(
                f"the checkpoint has no moving average of {entry.name}: resume without ema_decay"
            )

    def _updated(self) -> None:
        """Count an update, and let the moving average follow."""
        self.updates += 1
        if self._ema_decay is not None:
            with torch.no_grad():
                parts = [self._part(parameter) for parameter in self._named.values()]
                torch._foreach_lerp_(list(self._ema.values()), parts, 1 - self._ema_decay)

    def _begin(self) -> None:
        """Note the weights at the start; an engine calls it once its parameters are in place."""
        if self._ema_decay is not None:
            self._ema = {n: self._part(p).detach().clone() for n, p in self._named.items()}
        for number, name in enumerate(self._mirrored):
            if self._keeps(number):  # of what every rank has as a whole, each notes a share
                self._start[name] = self._part(self._named[name]).detach().to("cpu", copy=True)

    def _keeps(self, number: int) -> bool:
        return number % self.world_size == self.rank

    # How an engine holds a parameter; here: every rank has the whole.

    def _part(self, parameter: nn.Parameter) -> Tensor:
        """Return what this rank holds of a parameter; writing to it changes the parameter."""
        return parameter.data

    def _part_of(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:
        """Cut this rank's part out of a whole tensor."""
        return whole

    def _whole(self, part: Tensor, parameter: nn.Parameter) -> Tensor:
        """Put all ranks' parts together; every rank must call it."""
        return part

    def _shape(self, parameter: nn.Parameter) -> torch.Size:
        return parameter.shape

    def _changed(self, parameter: nn.Parameter) -> None:  # noqa: B027 - nothing to do here
        """Make up for a part having been written to."""

    @abstractmethod
    def _moments(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        """Return the whole of both moments; every rank must call it."""

    @abstractmethod
    def _set(self, parameter: nn.Parameter, entry: Exported) -> None:
        """Set a parameter and its moments from whole tensors."""

    @abstractmethod
    def _resume(self, updates: int) -> None:
        """Set the optimizer's own count of updates."""


def _host_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
