"""Train the autoencoder: emblems to 8x8x4 latents and back (diffusers AutoencoderKL, factor 8).

In: rendered random scenes. Out: a diffusers folder with `scaling_factor` set so that latents have
unit variance. Trained on absolute error plus the error of image gradients, which keeps edges; no
adversarial or perceptual loss.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from valign.miniature import ranks
from valign.miniature.renderer import render
from valign.miniature.scenes import random_scene

# B batch, C channels, H W pixels, h w latent pixels; images in -1..1


def build() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def to_tensor(images_BHWC: np.ndarray) -> Tensor:
    """uint8 images to float -1..1, channels first."""
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _batches(batch: int, seed: int) -> Iterator[Tensor]:
    rng = np.random.default_rng([seed, ranks.rank()] if ranks.rank() else seed)
    while True:
        yield to_tensor(np.stack([render(random_scene(rng)) for _ in range(batch)]))


def _loss(out_BCHW: Tensor, images_BCHW: Tensor, badge_weight: float) -> Tensor:
    error = out_BCHW - images_BCHW
    error = torch.cat([error[:, :, :, :28], _weighted(error[:, :, :, 28:], badge_weight)], dim=3)
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * edges


def _weighted(right_BCHW: Tensor, weight: float) -> Tensor:
    """The right part of an error with the badge's rows weighted."""
    return torch.cat([right_BCHW[:, :, :42] * weight, right_BCHW[:, :, 42:]], dim=2)


def train(
    vae: Any,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    log: Callable[[int, float], None],
    badge_weight: float = 1.0,
) -> None:
    """One-cycle AdamW in place.

    Ranks of a process group (see `ranks`) take a batch each and share gradients.
    `badge_weight` scales errors around the badge, whose fine glyph is a small part of the pixels.

    `log(step, loss)` is called each step.
    """
    torch.manual_seed(seed + 1000 * ranks.rank())
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.08)
    for step, images_BCHW in enumerate(itertools.islice(_batches(batch, seed), steps)):
        posterior = vae.encode(images_BCHW).latent_dist
        latents_BChw = posterior.sample()
        loss = _loss(vae.decode(latents_BChw).sample, images_BCHW, badge_weight)
        loss = loss + 2e-6 * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        log(step, loss.item())


@torch.no_grad()
def set_scale(vae: Any, *, images: int, seed: int) -> float:
    """Set and return the scaling factor that gives latents unit standard deviation."""
    batches = itertools.islice(_batches(64, seed), max(1, images // 64))
    std = float(torch.cat([vae.encode(x).latent_dist.mean for x in batches]).std())
    vae.register_to_config(scaling_factor=1 / std)
    return 1 / std


@torch.no_grad()
def encode(vae: Any, images_BHWC: np.ndarray) -> Tensor:
    """Scaled latents of uint8 images (posterior mean)."""
    return vae.encode(to_tensor(images_BHWC)).latent_dist.mean * vae.config.scaling_factor
