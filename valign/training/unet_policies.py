"""Policies whose UNet trains, as a whole or by LoRA, with a reference that can be refreshed.

Shapes: B pairs, C channels, H x W latent pixels, L tokens, D width of the context, P width of
SDXL's pooled text, E text encoders.
"""

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from valign.models import lora
from valign.models.pipeline_folder import NoiseSchedule
from valign.models.text_context import encode_ids
from valign.training.batch import Batch
from valign.training.policy import Mirrored, Policy


class UnetPolicy(Policy):
    """A UNet of which every weight trains, and its copy as the reference.

    With a value encoder, which then trains too, this is the LiVO paper's "w/ u": the reference
    never sees the token and is never refreshed. Without one it is Diffusion-DPO's and BalancedDPO's
    policy, and a refresh copies the UNet into the reference.

    Args:
        unet: a diffusers UNet2DConditionModel of Stable Diffusion or SDXL, float32.
        schedule, autocast, min_snr: see `Policy`.
        value_encoder: ids_BL -> token_B1D, or None.
        reference_dtype: of the reference's weights.
        size_px: side of the images, which SDXL's time ids name; unused by other families.
    """

    def __init__(
        self,
        unet: nn.Module,
        schedule: NoiseSchedule,
        *,
        value_encoder: nn.Module | None = None,
        reference_dtype: torch.dtype = torch.float32,
        size_px: int = 512,
        autocast: torch.dtype | None = None,
        min_snr: float | None = None,
    ) -> None:
        super().__init__(schedule, autocast=autocast, min_snr=min_snr)
        self.reference = copy.deepcopy(unet).to(reference_dtype).requires_grad_(False).eval()
        self.unet = unet.requires_grad_(True)
        self.value_encoder = None if value_encoder is None else value_encoder.requires_grad_(True)
        self.reference_dtype = reference_dtype
        self.size_px = size_px

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of what trains; the reference stays in evaluation mode."""
        super().train(mode)
        self.reference.eval()
        return self

    def mirrored(self) -> Mirrored:
        """Yield every weight of the UNet with the reference's, unless there is a value encoder."""
        if self.value_encoder is not None:
            return
        frozen = dict(self.reference.named_parameters())
        for name, parameter in self.unet.named_parameters():
            yield f"unet.{name}", parameter, frozen[name]

    def predict(self, noisy: Tensor, t: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predict with the UNet and with its reference."""
        context_BLD = batch.context_BLD
        with torch.no_grad():
            seen = _twice(context_BLD).to(self.reference_dtype)
            added = added_conditioning(self.reference, batch.pooled_BP, self.size_px)
            given = noisy.to(self.reference_dtype)
            reference = self.reference(given, t, seen, added_cond_kwargs=added, return_dict=False)
        if self.value_encoder is not None:
            context_BLD = torch.cat([context_BLD, self.value_encoder(batch.value_ids_BL)], dim=1)
        added = added_conditioning(self.unet, batch.pooled_BP, self.size_px)
        seen = _twice(context_BLD)
        policy = self.unet(noisy, t, seen, added_cond_kwargs=added, return_dict=False)
        return policy[0], reference[0]


class LoraPolicy(Policy):
    """A frozen UNet with LoRA adapters, and the same UNet with the adapters' copy as the reference.

    Where text encoders are given, they are adapted too, and a step encodes its prompts anew, for
    policy and reference each.

    Args:
        unet: a diffusers UNet2DConditionModel of Stable Diffusion or SDXL.
        schedule, autocast, min_snr: see `Policy`.
        rank: of the adapters.
        alpha: scale of the adapters, over their rank.
        seed: of the adapters' first factors.
        targets: ends of the names of the UNet's layers that are adapted.
        text_encoders: all of the generator's text encoders, or none.
        size_px: side of the images, which SDXL's time ids name; unused by other families.
    """

    def __init__(
        self,
        unet: nn.Module,
        schedule: NoiseSchedule,
        *,
        rank: int,
        alpha: float,
        seed: int,
        targets: Sequence[str] = lora.UNET_TARGETS,
        text_encoders: Sequence[Any] = (),
        size_px: int = 512,
        autocast: torch.dtype | None = None,
        min_snr: float | None = None,
    ) -> None:
        super().__init__(schedule, autocast=autocast, min_snr=min_snr)
        lora.adapt(unet, text_encoders, rank=rank, alpha=alpha, targets=targets, seed=seed)
        self.unet = unet
        self.text_encoders = nn.ModuleList(text_encoders)
        self.size_px = size_px

    def mirrored(self) -> Mirrored:
        """Yield every factor of the trained adapters with the reference's."""
        return lora.mirrored(self)

    def predict(self, noisy: Tensor, t: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predict with either adapter; the policy's stays active, also for its backward pass."""
        with torch.no_grad():
            lora.activate(self, lora.REFERENCE)
            reference = self._one(noisy, t, batch)
        lora.activate(self, lora.POLICY)
        return self._one(noisy, t, batch), reference

    def _one(self, noisy: Tensor, t: Tensor, batch: Batch) -> Tensor:
        context_BLD, pooled_BP = batch.context_BLD, batch.pooled_BP
        if len(self.text_encoders):
            assert batch.prompt_ids_BEL is not None, "the pairs' arrays hold no prompt ids"
            ids = batch.prompt_ids_BEL.unbind(dim=1)
            context_BLD, pooled_BP = encode_ids(list(self.text_encoders), ids)
        added = added_conditioning(self.unet, pooled_BP, self.size_px)
        seen = _twice(context_BLD)
        return self.unet(noisy, t, seen, added_cond_kwargs=added, return_dict=False)[0]


def added_conditioning(
    unet: Any, pooled_BP: Tensor | None, size_px: int
) -> dict[str, Tensor] | None:
    """Return SDXL's further conditioning of 2B images, or None for other families.

    Pooled text, and the time ids of an image that was never cropped or resized: original size,
    crop, target size (Podell et al. 2023, section 2.2).

    Raises:
        ValueError: the UNet needs pooled text and there is none.
    """
    if getattr(unet.config, "addition_embed_type", None) != "text_time":
        return None
    if pooled_BP is None:
        raise ValueError("an SDXL generator needs pooled prompt embeddings: encode the pairs again")
    ids = (size_px, size_px, 0, 0, size_px, size_px)
    time_ids = pooled_BP.new_tensor(ids).expand(2 * len(pooled_BP), -1)
    return {"text_embeds": _twice(pooled_BP), "time_ids": time_ids}


def _twice(tensor: Tensor) -> Tensor:
    """Return the pairs' rows for winners and again for losers."""
    return torch.cat([tensor, tensor])
