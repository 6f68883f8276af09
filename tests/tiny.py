"""Small real models with random weights, saved in the formats the package loads.

For tests of any room: Stable Diffusion 1.5 and XL pipeline folders, an open_clip folder and a
toxicity head, each of a few thousand parameters and built in under a second. They are the
architectures of the real thing, so whatever loads and runs them loads and runs the real thing.
Their images mean nothing; for images that mean something use the package's miniature.

    generator = load_generator(str(build_generator(tmp_path / "generator")))
"""

import json
from pathlib import Path

import torch

CONTEXT = 77
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = (("a", "</w>"), ("o", "f"), ("p", "h"), ("ph", "o"), ("t", "o</w>"), ("d", "o"))
SD_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


def build_tokenizer(folder: Path) -> int:
    """Save a CLIP tokenizer (byte-level BPE, every text encodes) and return its vocabulary size."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters]
    merges = [pair for pair in MERGES if all(half in words for half in pair)]
    words += [left + right for left, right in merges if left + right not in words]
    vocabulary = {word: index for index, word in enumerate([*words, BOS, EOS])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


def _text_encoder(vocabulary: int, width: int, *, projects: bool = False) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projects else CLIPTextModel
    return kind(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            projection_dim=width,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def build_generator(
    folder: Path, *, seed: int = 0, width: int = 32, prediction: str = "epsilon"
) -> Path:
    """Save a StableDiffusionPipeline folder: 64x64 RGB images, 4x8x8 latents, random weights.

    With `prediction="v_prediction"` it is of the kind of Stable Diffusion 2.
    """
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    folder = Path(folder)
    vocabulary = build_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = _text_encoder(vocabulary, width)
        unet = _unet(width, use_linear_projection=prediction == "v_prediction")
        vae = _vae()
        _make_visible(unet, vae)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**SD_SCHEDULE, prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def build_sdxl(folder: Path, *, seed: int = 0) -> Path:
    """Save a StableDiffusionXLPipeline folder: 64x64 RGB images, two text encoders."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    folder, widths, time_dim = Path(folder), (16, 24), 8
    vocabulary = build_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = (
            _text_encoder(vocabulary, width, projects=width == widths[1]) for width in widths
        )
        unet = _unet(
            sum(widths),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_dim,
            projection_class_embeddings_input_dim=6 * time_dim + widths[1],
        )
        vae = _vae(scaling_factor=0.13025)
        _make_visible(unet, vae)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SD_SCHEDULE, timestep_spacing="leading"),
    ).save_pretrained(folder)
    return folder


def _unet(context_width: int, **more: object) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=context_width,
        attention_head_dim=4,
        norm_num_groups=8,
        **more,
    )


def _vae(**more: object) -> torch.nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        **more,
    )


@torch.no_grad()
def _make_visible(unet: torch.nn.Module, vae: torch.nn.Module) -> None:
    """Scale weights so that prompts move the latents and latents move the pixels."""
    for name, weight in unet.named_parameters():
        if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
            weight.mul_(6)
        elif "attn2.to_k" in name or "attn2.to_q" in name:
            weight.mul_(3)
    vae.decoder.conv_out.weight.mul_(4)


def build_clip(folder: Path, *, seed: int = 0, embed_dim: int = 24) -> Path:
    """Save an open_clip folder for 64x64 images with its tokenizer beside it; random weights."""
    import open_clip
    from safetensors.torch import save_file

    folder = Path(folder)
    vocabulary = build_tokenizer(folder)
    model_cfg = {
        "embed_dim": embed_dim,
        "vision_cfg": {
            "image_size": 64,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "width": 32,
            "heads": 2,
            "layers": 2,
            "hf_tokenizer_name": "tokenizer-beside-the-weights",
        },
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**model_cfg)
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 64}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    return folder


def build_toxicity_head(folder: Path, *, seed: int = 0, embed_dim: int = 24) -> Path:
    """Save a toxicity head for the embeddings of `build_clip`; random weights."""
    from valign.models.toxicity import ToxicityHead

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ToxicityHead(embed_dim, hidden=8, classes=("nudity", "bloody", "horror"))
        torch.nn.init.normal_(head.layers[-1].weight)
    head.save(Path(folder))
    return Path(folder)
