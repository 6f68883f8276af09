"""Load a pipeline's networks from one safetensors file in Stable Diffusion's original layout.

In: a checkpoint as trainers and model sites share it (`model.diffusion_model.…`,
`first_stage_model.…`, `cond_stage_model.…` or `conditioner.embedders.…`), and a pipeline folder of
the same architecture for its configs. Out: the same networks that a pipeline folder gives, with the
same strictness. Renaming of UNet and VAE weights is diffusers' own.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from valign.models.pipeline_folder import fill, fill_text_encoder, text_encoder

UNET, VAE = "model.diffusion_model.", "first_stage_model."
# text encoder's folder -> where its weights are, as transformers names them and as open_clip does
TRANSFORMERS = {
    "text_encoder": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
    "text_encoder_2": (),
}
OPEN_CLIP = {
    "text_encoder": ("cond_stage_model.model.",),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Return all weights of a checkpoint, on the CPU.

    Raises:
        ValueError: it is no safetensors file, or holds no Stable Diffusion model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no readable safetensors file: {error}") from error
    for prefix in (UNET, VAE):
        if not any(key.startswith(prefix) for key in stored):
            raise ValueError(
                f"{file} holds no weights named {prefix}…: it is no Stable Diffusion checkpoint in "
                "the original layout"
            )
    return stored


def load_part(
    stored: dict[str, Tensor], folder: Path, dtype: torch.dtype, source: str
) -> nn.Module:
    """Load one network of a checkpoint, strictly.

    Args:
        stored: what `read_checkpoint` gave.
        folder: folder of the network's config.json, named as in a pipeline folder.
        dtype: of its weights.
        source: the checkpoint, for messages.

    Raises:
        ValueError: a weight is missing, unexpected or of another shape.
    """
    if folder.name in TRANSFORMERS:
        network = _text_encoder(stored, folder, source)
    else:
        network = _diffusers_network(stored, folder, source)
    return network.to(dtype).eval()


def _diffusers_network(stored: dict[str, Tensor], folder: Path, source: str) -> nn.Module:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    kind: Any = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[folder.name]
    convert: Any = {"unet": convert_ldm_unet_checkpoint, "vae": convert_ldm_vae_checkpoint}
    prefix = {"unet": UNET, "vae": VAE}[folder.name]
    config = kind.load_config(folder)
    own = {key: value for key, value in stored.items() if key.startswith(prefix)}
    try:
        converted = convert[folder.name](own, config=config)
    except KeyError as error:
        raise ValueError(
            f"{source} lacks the weight {error}, which {folder}/config.json calls for: the configs "
            "belong to a model of another architecture"
        ) from error
    with torch.device("meta"):
        network = kind.from_config(config)
    return fill(network, converted, f"{source} ({folder.name})", assign=True)


def _text_encoder(stored: dict[str, Tensor], folder: Path, source: str) -> nn.Module:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    network = text_encoder(folder)
    for prefix in TRANSFORMERS[folder.name]:
        own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        if own:
            return fill_text_encoder(network, own, f"{source} ({folder.name})")
    for prefix in OPEN_CLIP[folder.name]:
        own = {key: value for key, value in stored.items() if key.startswith(prefix)}
        if own:
            converted = convert_open_clip_checkpoint(network, own, prefix=prefix)
            return fill_text_encoder(network, converted, f"{source} ({folder.name})")
    raise ValueError(
        f"{source} holds no weights for {folder.name}: the configs belong to a model of another "
        "family, or the checkpoint lacks its text encoder"
    )
