"""Floating-point operations of networks, counted from their architecture without their weights.

In: configs of a pipeline, a CLIP or a LLaVA. Out: operations per image, a multiplication with its
addition counted as two. The modules run on torch's meta device, which computes shapes only, so
counting SDXL takes seconds and no memory. Text encoders are left out: they see a prompt once.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from valign.models.pipeline_files import PipelineFiles, blueprint, config_folder

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
LLAVA_7B = "llava-hf/llava-1.5-7b-hf"
_LLAVA_7B_VISION = {
    "image_size": 336,
    "patch_size": 14,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
_LLAVA_7B_TEXT = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32064,
}
_TOKENS = 77
_QUESTION_TOKENS = 40  # LiVO's question and its marks, in LLaMA's tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorFlops:
    """Operations of a generator's networks for one image, and the sizes they were counted at."""

    unet: float  # one forward pass
    decode: float
    encode: float
    size_px: int
    latent_bytes: int  # of one image's latents in float16
    source: str

    def image(self, steps: int, guidance: float) -> float:
        """Return the operations of one image; guidance above 1 takes two forward passes a step."""
        return steps * (2 if guidance > 1 else 1) * self.unet + self.decode


# Counted by `of_configs`, so that a plan needs no network; a test counts it again.
_SD15 = GeneratorFlops(
    unet=803_273_441_280,
    decode=2_514_518_933_504,
    encode=1_116_658_466_816,
    size_px=512,
    latent_bytes=2 * 4 * 64 * 64,
    source="counted from Stable Diffusion 1.5's architecture",
)


def of_generator(source: str, size_px: int | None = None) -> GeneratorFlops:
    """Return the operations of a generator: a folder, or a hub id whose configs are fetched.

    Args:
        source: a pipeline folder, or a hub id.
        size_px: side of the image; default: what the generator was made for.

    Raises:
        ValueError: there is no such pipeline, or the hub cannot be reached.
    """
    if source == SD15 and size_px in (None, _SD15.size_px):
        return _SD15
    return of_configs(config_folder(source), size_px)


def of_configs(folder: Path, size_px: int | None = None) -> GeneratorFlops:
    """Count the operations of the networks that a pipeline folder's configs describe."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    plan = blueprint(PipelineFiles(folder=folder))
    size_px = size_px or plan.size_px
    side = size_px // plan.scale
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(_json(folder / "unet" / "config.json"))
        vae: Any = AutoencoderKL.from_config(_json(folder / "vae" / "config.json"))
        channels = int(unet.config.in_channels)
        latents = torch.empty(1, channels, side, side)
        context = torch.empty(1, _TOKENS, int(unet.config.cross_attention_dim))
        added = None
        if len(plan.text_parts) > 1:
            features = int(unet.config.projection_class_embeddings_input_dim)
            pooled = features - 6 * int(unet.config.addition_time_embed_dim)
            added = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        time = torch.ones((), dtype=torch.long)
        return GeneratorFlops(
            unet=_count(lambda: unet(latents, time, context, added_cond_kwargs=added)),
            decode=_count(lambda: vae.decode(latents)),
            encode=_count(lambda: vae.encode(torch.empty(1, 3, size_px, size_px))),
            size_px=size_px,
            latent_bytes=2 * channels * side * side,
            source=f"counted from the modules of {folder.name}",
        )


def of_image_tower(source: str) -> float | None:
    """Return the operations of a CLIP's image encoder for one image.

    Args:
        source: a folder of open_clip or of transformers, or an architecture's name of open_clip,
            with or without `:weights`.

    Returns:
        None if it is none of these.
    """
    import open_clip

    folder = Path(source)
    if (folder / "open_clip_config.json").is_file():
        model = _json(folder / "open_clip_config.json")["model_cfg"]
    elif (folder / "config.json").is_file():
        return _of_vision_model(_json(folder / "config.json").get("vision_config"))
    else:
        model = open_clip.get_model_config(source.partition(":")[0])
    if model is None:
        return None
    architecture = {"embed_dim": model["embed_dim"], "vision_cfg": model["vision_cfg"]}
    side = int(model["vision_cfg"]["image_size"])
    # the smallest text encoder there can be: it is not counted
    text = {"width": 8, "heads": 1, "layers": 1, "vocab_size": 8, "context_length": 8}
    with torch.device("meta"):
        clip: Any = open_clip.CLIP(**architecture, text_cfg=text)
        return _count(lambda: clip.encode_image(torch.empty(1, 3, side, side)))


def _of_vision_model(config: dict[str, Any] | None) -> float | None:
    """Return the operations of transformers' CLIP vision model, or None without its config."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    if (
        config is None
        or config.get("model_type", CLIPVisionConfig.model_type) != "clip_vision_model"
    ):
        return None
    vision = CLIPVisionConfig(**config)
    with torch.device("meta"):
        tower: Any = CLIPVisionModel(vision)
        return _count(lambda: tower(torch.empty(1, 3, vision.image_size, vision.image_size)))


def of_question(source: str) -> float | None:
    """Return the operations of asking a LLaVA one short question about one image.

    Args:
        source: a folder of transformers, or LLaVA-1.5-7B's hub id, whose architecture is known.

    Returns:
        None if it is neither.
    """
    from transformers import LlamaConfig

    if source == LLAVA_7B:
        vision, text = _LLAVA_7B_VISION, LlamaConfig(**_LLAVA_7B_TEXT)
    else:
        config = Path(source) / "config.json"
        tree = _json(config) if config.is_file() else {}
        if tree.get("model_type") != "llava" or tree["text_config"].get("model_type") != "llama":
            return None
        vision, text = tree["vision_config"], LlamaConfig(**tree["text_config"])
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + _QUESTION_TOKENS
    width, keys = text.hidden_size, text.num_key_value_heads * text.head_dim
    # by formula: transformers' LLaMA does not run on the meta device
    layer = 2 * tokens * (2 * width**2 + 2 * width * keys + 3 * width * text.intermediate_size)
    layer += 4 * tokens**2 * width
    return text.num_hidden_layers * layer + (_of_vision_model(vision) or 0.0)


def _count(run: Callable[[], Any]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _json(file: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return tree
