"""DeepSpeed's engines, and the choice between all of them by name.

ZeRO shards optimizer state (1), gradients too (2), and weights too (3). It is made of DeepSpeed's
parts with torch's AdamW on float32 weights, so that nothing has to be compiled and every engine
follows the same curve. A DeepSpeed configuration may be given whole; what this package decides
(`settings.DEEPSPEED_OURS`) it may not contain.
"""

import math
import os
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from valign.settings import EngineName
from valign.training.any_engine import Engine, Exported
from valign.training.batch import Batch
from valign.training.ddp import DdpEngine
from valign.training.errors import Errors
from valign.training.optimizer import AdamW
from valign.training.policy import Policy

ENGINES: tuple[str, ...] = get_args(EngineName)


def build(
    name: str,
    policy: Policy,
    settings: AdamW,
    *,
    ema_decay: float | None = None,
    offload: bool = False,
    deepspeed_config: dict[str, Any] | None = None,
) -> Engine:
    """Return an engine by name.

    Args:
        name: one of `ENGINES`.
        policy, settings, ema_decay: see `Engine`.
        offload: keep optimizer state, and its part of the update, on the CPU (ZeRO 1 to 3).
        deepspeed_config: merged over what the name stands for (a zero engine's only).

    Raises:
        ValueError: the name is unknown, or the configuration says what is not its to say.
    """
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is not one of {', '.join(ENGINES)}")
    if name == "ddp":
        if offload or deepspeed_config:
            raise ValueError("offload and a DeepSpeed configuration need an engine zero1 to zero3")
        return DdpEngine(policy, settings, ema_decay=ema_decay)
    config = zero_config(int(name[-1]), settings, offload=offload, more=deepspeed_config)
    return ZeroEngine(policy, settings, config, ema_decay=ema_decay)


def zero_config(
    stage: int,
    settings: AdamW,
    *,
    offload: bool = False,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return DeepSpeed's configuration of a ZeRO stage.

    What is decided here wins over `more`; `settings.Engine` refuses that.

    Raises:
        ValueError: stage 0 is to be offloaded, or `more` holds another stage.
    """
    if offload and stage == 0:
        raise ValueError("there is nothing to offload in ZeRO 0: use an engine zero1 to zero3")
    zero: dict[str, Any] = {"stage": stage}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    zero |= (more or {}).get("zero_optimization", {})
    if zero["stage"] != stage:
        raise ValueError(
            f"the DeepSpeed configuration has stage {zero['stage']}, the engine {stage}"
        )
    return {
        **(more or {}),
        "train_micro_batch_size_per_gpu": 1,  # bookkeeping only: the loop cuts the batches
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # `step` is where a step ends
        "gradient_clipping": settings.clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "zero_optimization": zero,
    }


class ZeroEngine(Engine):
    """DeepSpeed with a ZeRO stage. See `Engine`.

    Args:
        policy, settings, ema_decay: see `Engine`.
        config: DeepSpeed's, from `zero_config`.
    """

    def __init__(
        self,
        policy: Policy,
        settings: AdamW,
        config: dict[str, Any],
        *,
        ema_decay: float | None = None,
    ) -> None:
        deepspeed = _deepspeed(next(policy.parameters()).device)
        for parameter in policy.parameters():  # it sends them as bytes, and shards them as they lie
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        super().__init__(policy, settings, ema_decay=ema_decay)
        self._shapes = {name: parameter.shape for name, parameter in self._named.items()}
        self._device = next(policy.parameters()).device
        self.stage = int(config["zero_optimization"]["stage"])
        client = torch.optim.AdamW(
            self._named.values(),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._deepspeed, self._optimizer, _, _ = deepspeed.initialize(
            model=policy, optimizer=client, config=config, dist_init_required=False
        )
        # Behind ZeRO's wrapper torch's own optimizer has one flat tensor per group and rank.
        self._client = client if self.stage == 0 else self._optimizer.optimizer
        self._last: Tensor | None = None
        self._create_state()
        self._begin()

    @property
    def device(self) -> torch.device:
        """Where the trained weights are."""
        return self._device

    def errors(self, batch: Batch, noise_BCHW: Tensor, t_B: Tensor, *, last: bool = True) -> Errors:
        """See `Engine`."""
        errors = self._deepspeed(batch, noise_BCHW, t_B)
        self._last = errors.policy_w_B
        return errors

    def accumulate(self, loss: Tensor) -> None:
        """See `Engine`."""
        assert self._last is not None, "errors come before a loss"
        # As in `DdpEngine`, but through the errors: a rank does not hold its weights here.
        alarm = torch.where(torch.isfinite(loss.detach()), 0.0, math.nan)
        # DeepSpeed averages the ranks' gradients; the shares are to be added.
        self._deepspeed.backward(loss * self.world_size + alarm * self._last.sum())
        self._last = None

    def step(self, loss: Tensor) -> float:
        """See `Engine`."""
        self.accumulate(loss)
        for group in self._client.param_groups:
            group["lr"] = self.lr
        if self.stage == 0:
            norm = self._plain_step()
        else:
            self._deepspeed.step()  # changes nothing where the norm is not finite
            norm = float(self._deepspeed.get_global_grad_norm())
        if math.isfinite(norm):
            self._updated()
        return norm

    def _plain_step(self) -> float:
        # Without ZeRO, DeepSpeed neither tells the norm nor refuses one that is not finite.
        # (Its allreduce_gradients() does nothing outside its own step().)
        self._deepspeed.buffered_allreduce_fallback()
        clip = self.settings.clip_norm
        norm = float(nn.utils.clip_grad_norm_(self._named.values(), clip, foreach=True))
        if math.isfinite(norm):
            self._client.step()
        self._deepspeed.zero_grad()
        return norm

    def _flats(self) -> list[Tensor]:
        """Return the tensors that torch's optimizer sees."""
        if self.stage == 0:
            return list(self._named.values())
        if self.stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return list(self._optimizer.single_partition_of_fp32_groups)

    def _create_state(self) -> None:
        """Create moments of zero, so that they can be exported and set before the first update."""
        for flat in self._flats():
            self._client.state[flat] = {
                "step": torch.zeros((), device=flat.device),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }
        if self.stage in (1, 2):
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _resume(self, updates: int) -> None:
        for flat in self._flats():
            self._client.state[flat]["step"].fill_(float(updates))

    def _moments(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        if self.stage == 0:
            state = self._client.state[parameter]
            return state["exp_avg"], state["exp_avg_sq"]
        from deepspeed.utils import safe_get_full_optimizer_state, safe_get_local_optimizer_state

        keys = ("exp_avg", "exp_avg_sq")
        if self.stage == 3:
            parts = [safe_get_local_optimizer_state(parameter, key) for key in keys]
            first, second = (
                self._whole(part[: self._part(parameter).numel()], parameter) for part in parts
            )
        else:
            first, second = (safe_get_full_optimizer_state(parameter, key) for key in keys)
        return first.view(self._shape(parameter)), second.view(self._shape(parameter))

    def _set(self, parameter: nn.Parameter, entry: Exported) -> None:
        import deepspeed.utils as at

        moments = {"exp_avg": entry.exp_avg, "exp_avg_sq": entry.exp_avg_sq}
        self._part(parameter).copy_(self._part_of(entry.value, parameter))  # what computes
        if self.stage == 0:
            state = self._client.state[parameter]
            for key, moment in moments.items():
                state[key].copy_(moment)
        elif self.stage == 3:
            at.safe_set_local_fp32_param(parameter, self._padded(entry.value, parameter))
            for key, moment in moments.items():
                padded = self._padded(moment, parameter)
                at.safe_set_local_optimizer_state(parameter, padded, key)
            self._changed(parameter)
        else:
            at.safe_set_full_fp32_param(parameter, entry.value.to(parameter))
            for key, moment in moments.items():
                at.safe_set_full_optimizer_state(parameter, moment.to(parameter), key)

    # ZeRO 3 holds a parameter as one flat shard per rank, of equal sizes; the last are
    # padded. (Any: DeepSpeed adds attributes to parameters.)

    def _keeps(self, number: int) -> bool:
        return self.stage == 3 or super()._keeps(number)

    def _part(self, parameter: Any) -> Tensor:
        if self.stage < 3:
            return super()._part(parameter)
        shard: Any = parameter.ds_tensor
        start = self.rank * shard.numel()
        return shard.data[: max(0, min(shard.numel(), parameter.ds_numel - start))]

    def _part_of(self, whole: Tensor, parameter: Any) -> Tensor:
        if self.stage < 3:
            return super()._part_of(whole, parameter)
        part = self._part(parameter)
        start = self.rank * parameter.ds_tensor.numel()
        return whole.reshape(-1)[start : start + part.numel()]

    def _padded(self, whole: Tensor, parameter: Any) -> Tensor:
        part = self._part_of(whole, parameter).to(self.device)
        return nn.functional.pad(part, (0, parameter.ds_tensor.numel() - part.numel()))

    def _whole(self, part: Tensor, parameter: Any) -> Tensor:
        if self.stage < 3:
            return super()._whole(part, parameter)
        size = parameter.ds_tensor.numel()
        padded = nn.functional.pad(part.to(self.device), (0, size - part.numel()))
        shards = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(shards, padded)
        return torch.cat(shards)[: parameter.ds_numel].view(parameter.ds_shape)

    def _shape(self, parameter: Any) -> torch.Size:
        return parameter.shape if self.stage < 3 else parameter.ds_shape

    def _changed(self, parameter: Any) -> None:
        # A small weight may be kept whole between steps: drop that, so that it is gathered anew.
        if self.stage == 3 and parameter.ds_status.name == "AVAILABLE":
            parameter.partition(param_list=[parameter], has_been_updated=False)


def _deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed and join it to the process group; a process alone makes a group of one."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))  # a launcher's is kept
    import deepspeed
    import deepspeed.ops

    if device.type == "cpu":
        # It would be compiled on first use, and gloo does as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        store = dist.HashStore()
        dist.init_process_group(_backend(device), store=store, rank=0, world_size=1)
    deepspeed.init_distributed(
        dist_backend=_backend(device), auto_mpi_discovery=False, verbose=False
    )
    return deepspeed


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"
