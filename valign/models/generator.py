"""A text-to-image generator of the Stable Diffusion 1.x family, with our own sampling loop.

In: a plain diffusers StableDiffusionPipeline folder (or hub id), prompts and one noise seed per
image. Out: uint8 images, and latents of given images. Own loop, because the pipeline class takes
no context mask and draws noise per batch. Batching is the caller's business: one call is one
batch, and images are byte-equal whatever shares the batch as long as its size is the same.

Shapes: B images, L context slots (77), D context width, C latent channels, H and W pixels
(h and w in latents).
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from valign.catalogue import guard
from valign.models.conditioning import Conditioning, Half, halves, projected_once
from valign.models.pipeline_folder import (
    NoiseSchedule,
    check_family,
    fingerprint,
    load_network,
    load_solver,
    load_text_encoder,
    local_folder,
    read_schedule,
)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
REMEMBERED_TEXTS = 512
# What the VAE handles at once: more overflows a CPU's cache (images) or a GPU's memory (pixels).
VAE_IMAGES, VAE_PIXELS = 16, 8 * 512 * 512


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """How a generator is loaded."""

    device: str = "cpu"
    dtype: str = "float32"  # of the weights: float32 | float16 | bfloat16
    variant: str | None = None  # which weight files, as in diffusers ("fp16")

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """DPM-Solver++ (multistep, second order) with classifier-free guidance."""

    steps: int = 10
    guidance: float = 7.5  # 1.0 is no guidance and halves the work
    height: int | None = None  # pixels; None is the generator's own size
    width: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a sampler needs at least 1 step, got {self.steps}")
        if self.guidance < 1:
            raise ValueError(f"guidance {self.guidance} is below 1.0, which is no guidance")


class Generator:
    """The parts of one pipeline, and what is done with them. Made by `load_generator`.

    Not for several threads at once.
    """

    def __init__(self, folder: Path, options: GeneratorOptions) -> None:
        from transformers import CLIPTokenizer

        check_family(folder)
        dtype, variant = DTYPES[options.dtype], options.variant
        self.folder = folder
        self.options = options
        self.device = torch.device(options.device)
        self.dtype = dtype
        self.fingerprint = fingerprint(folder, variant)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        # typed Any: these classes belong to other libraries and are called by their own names
        self.text_encoder: Any = self._place(
            load_text_encoder(folder / "text_encoder", dtype, variant)
        )
        self.unet: Any = self._place(load_network(folder / "unet", dtype, variant))
        self.vae: Any = self._place(load_network(folder / "vae", dtype, variant))
        self._solver: Any = load_solver(folder / "scheduler")
        self.schedule: NoiseSchedule = read_schedule(self._solver)
        self.scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.size_px = int(self.unet.config.sample_size) * self.scale
        self._remembered: OrderedDict[str, tuple[Tensor, bool]] = OrderedDict()

    def _place(self, network: nn.Module) -> Any:
        # channels last: a twentieth faster on a CPU, and what a GPU's half-precision kernels like
        placed = network.to(self.device).to(memory_format=torch.channels_last)
        return placed.requires_grad_(False)

    @property
    def context_slots(self) -> int:
        """Number of tokens the text encoder reads (77)."""
        return int(self.text_encoder.config.max_position_embeddings)

    def condition(
        self, prompts: Sequence[str], negatives: Sequence[str] | None = None
    ) -> Conditioning:
        """Encode prompts and negative prompts (default "") into the UNet's context.

        Every distinct text is encoded once and alone, so its context never depends on what else is
        in the batch. A prompt over the text encoder's length is cut, and `truncated_B` says so.

        Every image passes through here, and so every prompt meets the guard.

        Raises:
            ValueError: there are no prompts, not one negative per prompt, or the guard refuses one.
        """
        negatives = [""] * len(prompts) if negatives is None else list(negatives)
        if not prompts or len(prompts) != len(negatives):
            raise ValueError(f"{len(prompts)} prompts with {len(negatives)} negative prompts")
        for text in dict.fromkeys(prompts):
            if text not in self._remembered and (refusal := guard.refuse(text)):
                raise ValueError(f"a prompt is refused: it {refusal.reason}")
        contexts = [self._encode_text(text) for text in prompts]
        unconds = [self._encode_text(text) for text in negatives]
        return Conditioning(
            context_BLD=torch.stack([context for context, _ in contexts]),
            uncond_BLD=torch.stack([context for context, _ in unconds]),
            truncated_B=tuple(
                cut or negative_cut
                for (_, cut), (_, negative_cut) in zip(contexts, unconds, strict=True)
            ),
        )

    @torch.no_grad()  # not inference_mode: what comes out may be trained on
    def _encode_text(self, text: str) -> tuple[Tensor, bool]:
        if text in self._remembered:
            self._remembered.move_to_end(text)
            return self._remembered[text]
        slots = self.context_slots
        ids = self.tokenizer(
            [text], padding="max_length", max_length=slots, truncation=True, return_tensors="pt"
        ).input_ids
        cut = len(self.tokenizer(text).input_ids) > slots
        context_LD = self.text_encoder(ids.to(self.device)).last_hidden_state[0]
        self._remembered[text] = (context_LD, cut)
        if len(self._remembered) > REMEMBERED_TEXTS:
            self._remembered.popitem(last=False)
        return context_LD, cut

    @torch.inference_mode()
    def sample(
        self, cond: Conditioning, seeds: Sequence[int], sampler: Sampler | None = None
    ) -> np.ndarray:
        """Generate one image per row of `cond`, each from its own noise seed.

        Returns:
            uint8 images_BHWC. An image that came out as NaN is black.

        Raises:
            ValueError: not one seed per row, or a size the VAE cannot make.
        """
        sampler = sampler or Sampler()
        if len(seeds) != len(cond):
            raise ValueError(f"{len(cond)} rows of conditioning with {len(seeds)} seeds")
        scheduler = self._scheduler(sampler.steps)
        latents_BChw = self.noise(seeds, sampler).to(self.device) * scheduler.init_noise_sigma
        calls = halves(cond, sampler.guidance, together=self.device.type != "cpu")
        with projected_once(self.unet):
            for timestep in scheduler.timesteps:
                prediction = self._guided(latents_BChw, timestep, calls, sampler.guidance)
                latents_BChw = scheduler.step(prediction, timestep, latents_BChw).prev_sample
        return self.decode(latents_BChw)

    def noise(self, seeds: Sequence[int], sampler: Sampler) -> Tensor:
        """Return the initial noise_BChw (float32, on the CPU): row i depends on seeds[i] only."""
        height, width = sampler.height or self.size_px, sampler.width or self.size_px
        if height % self.scale or width % self.scale:
            raise ValueError(
                f"images of {height}x{width} pixels: both must be multiples of {self.scale}"
            )
        shape = (self.unet.config.in_channels, height // self.scale, width // self.scale)
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
        )

    def _scheduler(self, steps: int) -> Any:
        """Make a fresh solver: it keeps state between steps, so each call needs its own."""
        if steps > self.schedule.n_timesteps:
            raise ValueError(f"{steps} steps, but the model knows {self.schedule.n_timesteps}")
        scheduler = copy.deepcopy(self._solver)
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler

    def _guided(
        self, latents_BChw: Tensor, timestep: Tensor, calls: list[Half], guidance: float
    ) -> Tensor:
        """Return the guided prediction_BChw in float32: u + guidance * (c - u)."""

        def predict(latents: Tensor, half: Half) -> Tensor:
            context, mask = half
            return self.unet(
                latents, timestep, context, encoder_attention_mask=mask, return_dict=False
            )[0].float()

        latents = latents_BChw.to(self.dtype)
        if guidance == 1:
            return predict(latents, calls[0])
        if len(calls) == 2:
            conditional, unconditional = (predict(latents, half) for half in calls)
        else:
            both = predict(torch.cat([latents, latents]), calls[0])
            unconditional, conditional = both.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    @torch.inference_mode()
    def decode(self, latents_BChw: Tensor) -> np.ndarray:
        """Decode scaled latents into uint8 images_BHWC, rounding half to even."""
        unscaled = (latents_BChw / self.vae.config.scaling_factor).to(self.dtype)
        images_BCHW = _in_chunks(
            lambda chunk: self.vae.decode(chunk).sample.float(),
            unscaled,
            pixels=unscaled[0, 0].numel() * self.scale**2,
        )
        unit_BCHW = images_BCHW.div(2).add(0.5).clamp(0, 1).nan_to_num(nan=0.0)
        return unit_BCHW.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()

    @torch.no_grad()
    def encode(self, images_BHWC: np.ndarray) -> Tensor:
        """Encode uint8 images_BHWC into latents_BChw: the mode, scaled, float32, on the CPU."""
        if images_BHWC.dtype != np.uint8 or images_BHWC.ndim != 4 or images_BHWC.shape[-1] != 3:
            raise ValueError(
                "images must be a uint8 array of (B, H, W, 3), got "
                f"{images_BHWC.dtype} of {images_BHWC.shape}"
            )
        pixels_BCHW = torch.from_numpy(np.ascontiguousarray(images_BHWC)).permute(0, 3, 1, 2)
        pixels_BCHW = pixels_BCHW.to(self.device).float().div(127.5).sub(1).to(self.dtype)
        modes_BChw = _in_chunks(
            lambda chunk: self.vae.encode(chunk).latent_dist.mode().float(),
            pixels_BCHW.contiguous(),
            pixels=pixels_BCHW[0, 0].numel(),
        )
        return modes_BChw.mul(self.vae.config.scaling_factor).cpu()


def _in_chunks(apply: Callable[[Tensor], Tensor], rows_B: Tensor, *, pixels: int) -> Tensor:
    """Apply a network to chunks of one size, the last one padded: equal shapes, equal rounding."""
    n_rows = len(rows_B)
    n_chunks = -(-n_rows // max(1, min(VAE_IMAGES, VAE_PIXELS // pixels)))
    size = -(-n_rows // n_chunks)
    padding = rows_B[:1].expand(n_chunks * size - n_rows, *rows_B.shape[1:])
    chunks = torch.cat([rows_B, padding]).split(size)
    return torch.cat([apply(chunk) for chunk in chunks])[:n_rows]


def load_generator(folder: str, options: GeneratorOptions | None = None) -> Generator:
    """Load a generator from a local StableDiffusionPipeline folder or a hub id.

    Raises:
        ValueError: no such folder, another kind of pipeline, or weights that do not fit.
    """
    return Generator(local_folder(folder), options or GeneratorOptions())
