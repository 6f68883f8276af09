"""Policies by what trains: a generator's networks in, the policy of a recipe out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from valign.models.pipeline_folder import NoiseSchedule
from valign.train_settings import Train
from valign.training.policy import LivoPolicy, Policy
from valign.training.unet_policies import LoraPolicy, UnetPolicy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build(
    settings: Train,
    unet: Any,
    schedule: NoiseSchedule,
    *,
    value_encoder: nn.Module | None = None,
    text_encoders: Sequence[Any] = (),
    seed: int = 0,
    size_px: int = 512,
    gradient_checkpointing: bool = False,
) -> Policy:
    """Return the policy that a recipe trains.

    Args:
        settings: say what trains, and how.
        unet: the generator's, float32; it becomes the policy's own.
        schedule: the generator's.
        value_encoder: where one trains.
        text_encoders: all of the generator's; adapted only where the recipe says so.
        seed: of new adapters' values.
        size_px: side of the images.
        gradient_checkpointing: compute the UNet's activations again in the backward pass.
    """
    shared: dict[str, Any] = {
        "autocast": torch.bfloat16 if settings.precision == "bfloat16" else None,
        "min_snr": settings.min_snr,
    }
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if settings.trains == "lora":
        return LoraPolicy(
            unet,
            schedule,
            rank=settings.lora.rank,
            alpha=settings.lora.alpha,
            targets=settings.lora.targets,
            text_encoders=text_encoders if settings.lora.text_encoder else (),
            seed=seed,
            size_px=size_px,
            **shared,
        )
    if settings.trains == "unet":
        precision = DTYPES[settings.reference_precision]
        return UnetPolicy(unet, schedule, reference_dtype=precision, size_px=size_px, **shared)
    assert value_encoder is not None, f"{settings.trains} needs a value encoder"
    if settings.trains == "value_encoder":
        return LivoPolicy(unet, value_encoder, schedule, **shared)
    precision = DTYPES[settings.reference_precision]
    return UnetPolicy(
        unet, schedule, value_encoder=value_encoder, reference_dtype=precision, **shared
    )
