"""Train the denoiser: a small UNet2DConditionModel on the pool's latents, text states frozen.

In: the pool's arrays. Out: a diffusers folder with the exponential moving average of the weights.
Epsilon prediction on SD1.5's scaled-linear schedule; Min-SNR weights (Hang et al. 2023, gamma 5)
so that the noisy steps, where marks are decided, are not drowned out. Attention only at 4x4: what
the context says concerns the whole emblem, and self-attention at 8x8 would halve the speed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from valign.miniature import ranks

# B batch, C latent channels, h w latent pixels, L tokens, D width

GAMMA = 5.0


def build() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def schedule_config() -> dict:
    """SD1.5's noise schedule."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }


def signal_share() -> Tensor:
    """Cumulative product of alphas, float32 (1000,)."""
    c = schedule_config()
    betas = (
        torch.linspace(c["beta_start"] ** 0.5, c["beta_end"] ** 0.5, c["num_train_timesteps"]) ** 2
    )
    return (1 - betas).cumprod(0)


class _Batches:
    """Random batches of a pool, a pure function of (seed, rank)."""

    def __init__(self, folder: Path, batch: int, seed: int, rank: int) -> None:
        self.latents = np.load(folder / "latents.npy")
        self.caption = np.load(folder / "caption.npy")
        self.contexts = np.load(folder / "contexts.npy", mmap_mode="r")
        self.batch, self.rng = batch, np.random.default_rng([seed, rank])

    def next(self) -> tuple[Tensor, Tensor]:
        rows = self.rng.integers(len(self.latents), size=self.batch)
        latents_BChw = torch.from_numpy(self.latents[rows]).float()
        context_BLD = torch.from_numpy(self.contexts[self.caption[rows]]).float()
        return latents_BChw, context_BLD


def _loss(unet: Any, alphas: Tensor, latents_BChw: Tensor, context_BLD: Tensor) -> Tensor:
    t_B = torch.randint(len(alphas), (len(latents_BChw),))
    noise_BChw = torch.randn_like(latents_BChw)
    share_B111 = alphas[t_B].view(-1, 1, 1, 1)
    noisy = share_B111.sqrt() * latents_BChw + (1 - share_B111).sqrt() * noise_BChw
    error_B = (unet(noisy, t_B, context_BLD).sample - noise_BChw).square().mean((1, 2, 3))
    snr_B = alphas[t_B] / (1 - alphas[t_B])
    return (error_B * snr_B.clamp(max=GAMMA) / snr_B).mean()


def train(
    unet: Any,
    folder: Path,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    log: Callable[[int, float], None],
    save: Callable[[Any], None],
    save_every: int,
) -> None:
    """AdamW with warm-up and cosine decay, in place; `unet` ends as the moving average.

    Every rank of an initialised process group takes `batch` rows a step. `log(step, loss)` each
    step; `save(averaged_unet)` every `save_every` steps, on rank 0.
    """
    rank = ranks.rank()
    torch.manual_seed(seed * 1000 + rank)
    batches, alphas = _Batches(folder, batch, seed, rank), signal_share()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1.0, (s + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * s / steps))),
    )
    average = {k: v.detach().clone() for k, v in unet.state_dict().items()}
    for step in range(steps):
        loss = _loss(unet, alphas, *batches.next())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(unet.parameters())
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _follow(average, unet, decay=min(0.998, (step + 1) / (step + 20)))
        log(step, loss.item())
        if rank == 0 and (step + 1) % save_every == 0:
            kept = {k: v.detach().clone() for k, v in unet.state_dict().items()}
            unet.load_state_dict(average)
            save(unet)
            unet.load_state_dict(kept)
    unet.load_state_dict(average)


@torch.no_grad()
def _follow(average: dict[str, Tensor], unet: Any, *, decay: float) -> None:
    for name, value in unet.state_dict().items():
        average[name].lerp_(value, 1 - decay)
