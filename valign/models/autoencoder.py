"""Images to latents and back, with a diffusers AutoencoderKL.

In: uint8 images or scaled latents. Out: the other. Work is cut into chunks of one size, so that an
image's bytes do not depend on how many there are as long as the chunks' size is the same.

Shapes: B images, C latent channels, H and W pixels (h and w in latents).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What the VAE handles at once: more overflows a CPU's cache (images) or a GPU's memory (pixels).
AT_ONCE, PIXELS_AT_ONCE = 16, 8 * 512 * 512


def decode(vae: Any, latents_BChw: Tensor, *, at_once: int = AT_ONCE) -> np.ndarray:
    """Decode scaled latents into uint8 images_BHWC, rounding half to even; NaN gives black.

    Args:
        vae: the autoencoder.
        latents_BChw: on its device.
        at_once: most images per pass.
    """
    mean, std = _moments(vae)
    unscaled = (latents_BChw * std / vae.config.scaling_factor + mean).to(vae.dtype)
    images_BCHW = _in_chunks(
        lambda chunk: vae.decode(chunk).sample.float(),
        unscaled,
        pixels=unscaled[0, 0].numel() * 4 ** (len(vae.config.block_out_channels) - 1),
        at_once=at_once,
    )
    unit_BCHW = images_BCHW.div(2).add(0.5).clamp(0, 1).nan_to_num(nan=0.0)
    return unit_BCHW.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def encode(vae: Any, images_BHWC: np.ndarray, *, at_once: int = AT_ONCE) -> Tensor:
    """Encode uint8 images into latents_BChw: the mode, scaled, float32, on the CPU.

    Raises:
        ValueError: the images are no uint8 array of (B, H, W, 3).
    """
    if images_BHWC.dtype != np.uint8 or images_BHWC.ndim != 4 or images_BHWC.shape[-1] != 3:
        raise ValueError(
            "images must be a uint8 array of (B, H, W, 3), got "
            f"{images_BHWC.dtype} of {images_BHWC.shape}"
        )
    pixels_BCHW = torch.from_numpy(np.ascontiguousarray(images_BHWC)).permute(0, 3, 1, 2)
    pixels_BCHW = pixels_BCHW.to(vae.device).float().div(127.5).sub(1).to(vae.dtype)
    modes_BChw = _in_chunks(
        lambda chunk: vae.encode(chunk).latent_dist.mode().float(),
        pixels_BCHW.contiguous(),
        pixels=pixels_BCHW[0, 0].numel(),
        at_once=at_once,
    )
    mean, std = _moments(vae)
    return (modes_BChw - mean).mul(vae.config.scaling_factor).div(std).cpu()


def _moments(vae: Any) -> tuple[Tensor | float, Tensor | float]:
    """Return mean and std of latents (1, C, 1, 1) where the VAE states them, else 0 and 1."""
    stated = [getattr(vae.config, name, None) for name in ("latents_mean", "latents_std")]
    if None in stated:
        return 0.0, 1.0
    mean, std = (torch.tensor(each, device=vae.device).view(1, -1, 1, 1) for each in stated)
    return mean, std


def _in_chunks(
    apply: Callable[[Tensor], Tensor], rows_B: Tensor, *, pixels: int, at_once: int
) -> Tensor:
    """Apply a network to chunks of one size, the last one padded: equal shapes, equal rounding."""
    n_rows = len(rows_B)
    n_chunks = -(-n_rows // max(1, min(at_once, PIXELS_AT_ONCE // pixels)))
    size = -(-n_rows // n_chunks)
    padding = rows_B[:1].expand(n_chunks * size - n_rows, *rows_B.shape[1:])
    chunks = torch.cat([rows_B, padding]).split(size)
    return torch.cat([apply(chunk) for chunk in chunks])[:n_rows]
