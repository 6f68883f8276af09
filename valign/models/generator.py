"""A text-to-image generator of the Stable Diffusion 1.x, 2.x or XL family, with our own loop.

In: a plain diffusers pipeline folder, hub id or single-file checkpoint, prompts and one noise seed
per image. Out: uint8 images, and latents of given images. Own loop, because the pipeline classes
take no context mask and draw noise per batch. Batching is the caller's business: one call is one
batch, and images are byte-equal whatever shares the batch as long as its size is the same. There is
no safety checker.

Shapes: B images, L context slots (77), D context width, P width of pooled text, C latent channels,
H and W pixels (h and w in latents).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from valign.catalogue import guard
from valign.models import acceleration, autoencoder, pipeline_folder, single_file
from valign.models.conditioning import Conditioning, Half, halves, projected_once
from valign.models.pipeline_files import (
    Blueprint,
    PipelineFiles,
    blueprint,
    fingerprint,
    local_files,
    tokenizer_of,
)
from valign.models.sampler import Sampler, load_scheduler
from valign.models.text_context import TextContext

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """How a generator is loaded."""

    device: str = "cpu"
    dtype: str = "float32"  # of the weights: float32 | float16 | bfloat16
    variant: str | None = None  # which weight files, as in diffusers ("fp16")
    config: str | None = None  # of a single-file checkpoint: see `pipeline_files.local_files`
    attention: str = "auto"  # kernel of the UNet's attention: see `acceleration`
    compile: bool = False  # the UNet, by torch.compile
    vae_tiling: bool = False  # images larger than the VAE was made for, in overlapping tiles
    vae_slicing: bool = False  # one image at a time through the VAE

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.attention not in acceleration.ATTENTION:
            raise ValueError(
                f"attention {self.attention!r} is not one of {', '.join(acceleration.ATTENTION)}"
            )


class Generator:
    """The parts of one pipeline, and what is done with them. Made by `load_generator`.

    Not for several threads at once.
    """

    def __init__(self, files: PipelineFiles, options: GeneratorOptions) -> None:
        from transformers import CLIPTokenizer

        plan = blueprint(files)
        self.files = files
        self.options = options
        self.device = torch.device(options.device)
        self.dtype = DTYPES[options.dtype]
        self.fingerprint = fingerprint(files)
        self.size_px, self.scale = plan.size_px, plan.scale
        # typed Any: these classes belong to other libraries and are called by their own names
        networks: dict[str, Any] = {
            part: self._place(network) for part, network in _networks(files, plan, self.dtype)
        }
        self.unet, self.vae = networks.pop("unet"), networks.pop("vae")
        self.text = TextContext(
            [CLIPTokenizer.from_pretrained(files.folder / tokenizer_of(p)) for p in networks],
            list(networks.values()),
            zero_empty=plan.zero_empty,
        )
        acceleration.check_attention(self.unet, options.attention)
        self._predict: Callable[..., Any] = (
            acceleration.compiled(self.unet) if options.compile else self.unet
        )
        if options.vae_tiling:
            self.vae.enable_tiling()
        self._vae_images = 1 if options.vae_slicing else autoencoder.AT_ONCE
        self._schedulers: dict[Sampler, Any] = {}
        self.schedule = pipeline_folder.read_schedule(load_scheduler(files.folder / "scheduler"))

    def _place(self, network: nn.Module) -> Any:
        # channels last: a twentieth faster on a CPU, and what a GPU's half-precision kernels like
        placed = network.to(self.device).to(memory_format=torch.channels_last)
        return placed.requires_grad_(False)

    @property
    def tokenizer(self) -> Any:
        """The (first) text encoder's tokenizer."""
        return self.text.tokenizers[0]

    @property
    def text_encoder(self) -> Any:
        """The (first) text encoder."""
        return self.text.encoders[0]

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
            if refusal := guard.refuse(text):
                raise ValueError(f"a prompt is refused: it {refusal.reason}")
        texts = [self.text(text) for text in prompts]
        unconds = [self.text.negative(text) for text in negatives]
        return Conditioning(
            context_BLD=torch.stack([text.context_LD for text in texts]),
            uncond_BLD=torch.stack([text.context_LD for text in unconds]),
            pooled_BP=_stacked([text.pooled_P for text in texts]),
            uncond_pooled_BP=_stacked([text.pooled_P for text in unconds]),
            truncated_B=tuple(
                text.truncated or negative.truncated
                for text, negative in zip(texts, unconds, strict=True)
            ),
        )

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
        scheduler = self._scheduler(sampler)
        latents_BChw = self.noise(seeds, sampler).to(self.device) * scheduler.init_noise_sigma
        calls = halves(cond, sampler.guidance, together=self.device.type != "cpu")
        masked = cond.mask_BL is not None
        # a compiled UNet knows its layers' code, and would not follow a change of them
        projecting = nullcontext() if self.options.compile else projected_once(self.unet)
        with projecting, acceleration.attention(self.options.attention, masked=masked):
            for timestep in scheduler.timesteps:
                scaled = scheduler.scale_model_input(latents_BChw, timestep)
                prediction = self._guided(scaled, timestep, calls, sampler.guidance, cond)
                latents_BChw = scheduler.step(prediction, timestep, latents_BChw).prev_sample
        return self.decode(latents_BChw)

    def noise(self, seeds: Sequence[int], sampler: Sampler) -> Tensor:
        """Return the initial noise_BChw (float32, on the CPU): row i depends on seeds[i] only."""
        height, width = sampler.size(self.size_px, self.scale)
        shape = (self.unet.config.in_channels, height // self.scale, width // self.scale)
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
        )

    def _scheduler(self, sampler: Sampler) -> Any:
        """Make a fresh scheduler: it keeps state between steps, so each call needs its own."""
        if sampler not in self._schedulers:
            self._schedulers[sampler] = load_scheduler(self.files.folder / "scheduler", sampler)
        scheduler = copy.deepcopy(self._schedulers[sampler])
        scheduler.set_timesteps(sampler.steps, device=self.device)
        return scheduler

    def _guided(
        self,
        latents_BChw: Tensor,
        timestep: Tensor,
        calls: list[Half],
        guidance: float,
        cond: Conditioning,
    ) -> Tensor:
        """Return the guided prediction_BChw in float32: u + guidance * (c - u).

        Where a token counts by a strength s, c is p + s * (c - p) with p the prediction without it,
        so that the whole is u + guidance * (p - u) + s * guidance * (c - p).
        """

        def predict(latents: Tensor, half: Half) -> Tensor:
            return self._predict(
                latents,
                timestep,
                half.context_BLD,
                encoder_attention_mask=half.mask_BL,
                added_cond_kwargs=self._added(half, latents),
                return_dict=False,
            )[0].float()

        latents = latents_BChw.to(self.dtype)
        unconditional = None
        if guidance == 1:
            conditional = predict(latents, calls[0])
        elif len(calls) == 2:
            conditional, unconditional = (predict(latents, half) for half in calls)
        else:
            both = predict(torch.cat([latents, latents]), calls[0])
            unconditional, conditional = both.chunk(2)
        if cond.plain is not None and cond.strength_B is not None:
            strength = cond.strength_B.to(conditional)[:, None, None, None]
            plain = predict(latents, cond.plain)
            conditional = plain + strength * (conditional - plain)
        if unconditional is None:
            return conditional
        return unconditional + guidance * (conditional - unconditional)

    def _added(self, half: Half, latents_BChw: Tensor) -> dict[str, Tensor] | None:
        """Return SDXL's further inputs: the pooled text, and the image's size, whole and uncut."""
        if half.pooled_BP is None:
            return None
        height, width = (side * self.scale for side in latents_BChw.shape[-2:])
        sizes = (height, width, 0, 0, height, width)  # original, corner of the crop, target
        time_ids_B6 = latents_BChw.new_tensor(sizes).expand(len(latents_BChw), -1)
        return {"text_embeds": half.pooled_BP, "time_ids": time_ids_B6}

    @torch.inference_mode()
    def decode(self, latents_BChw: Tensor) -> np.ndarray:
        """Decode scaled latents into uint8 images_BHWC, rounding half to even."""
        return autoencoder.decode(self.vae, latents_BChw, at_once=self._vae_images)

    @torch.no_grad()
    def encode(self, images_BHWC: np.ndarray) -> Tensor:
        """Encode uint8 images_BHWC into latents_BChw: the mode, scaled, float32, on the CPU."""
        return autoencoder.encode(self.vae, images_BHWC, at_once=self._vae_images)


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    present = [row for row in rows if row is not None]
    return torch.stack(present) if present else None


def check(files: PipelineFiles, sampler: Sampler) -> None:
    """Make sure that a generator can be sampled so, from its configs alone.

    Raises:
        ValueError: a pipeline of another family, or settings that it cannot follow.
    """
    plan = blueprint(files)
    load_scheduler(files.folder / "scheduler", sampler)
    sampler.size(plan.size_px, plan.scale)


def load_generator(source: str, options: GeneratorOptions | None = None) -> Generator:
    """Load a generator from a local pipeline folder, a hub id or a single-file checkpoint.

    Raises:
        ValueError: no such source, another kind of pipeline, or weights that do not fit.
    """
    options = options or GeneratorOptions()
    files = local_files(source, config=options.config, variant=options.variant)
    return Generator(files, options)


def _networks(
    files: PipelineFiles, plan: Blueprint, dtype: torch.dtype
) -> Iterator[tuple[str, nn.Module]]:
    """Yield every network of a pipeline by its part's name."""
    checkpoint = files.checkpoint and single_file.read_checkpoint(files.checkpoint)
    for part in (*plan.text_parts, "unet", "vae"):
        folder = files.folder / part
        upcast = part == "vae" and plan.upcast_vae and dtype == torch.float16
        own = torch.float32 if upcast else dtype
        if checkpoint:
            yield part, single_file.load_part(checkpoint, folder, own, str(files.checkpoint))
        elif part in plan.text_parts:
            yield part, pipeline_folder.load_text_encoder(folder, own, files.variant)
        else:
            yield part, pipeline_folder.load_network(folder, own, files.variant)
