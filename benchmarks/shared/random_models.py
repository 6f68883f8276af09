"""Models of published architectures with random weights, saved as the published ones are.

For timing where no weights can be fetched: Stable Diffusion 1.5, CLIP ViT-L/14 and ViT-H/14 of
open_clip, LLaVA-1.5-7B. `small=True` keeps every kind of layer and cuts the widths, so that a CPU
can try the same code. What they draw and say means nothing.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch

BEGIN, END, PAD, IMAGE = "<|startoftext|>", "<|endoftext|>", "<pad>", "<image>"
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
LLAVA_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
LLAVA_TEXT = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32064,
}


def stable_diffusion(folder: Path, *, small: bool = False) -> Path:
    """Save a pipeline folder of Stable Diffusion 1.5's architecture: 512 pixels (small: 64)."""
    from diffusers import (
        AutoencoderKL,
        DPMSolverMultistepScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    width = 64 if small else 768
    channels = (32, 32, 64, 64) if small else (320, 640, 1280, 1280)
    unet = UNet2DConditionModel(
        sample_size=8 if small else 64,
        block_out_channels=channels,
        cross_attention_dim=width,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32) if small else (128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=64 if small else 512,
    )
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2 if small else 12,
        num_attention_heads=2 if small else 12,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(folder)
    return folder


def clip_tokenizer() -> Any:
    """Return CLIP's own tokenizer of 49,408 entries, from the vocabulary that open_clip ships."""
    import gzip

    import open_clip
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")[1:48895]
    merges = [tuple(line.split()) for line in lines]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), BEGIN, END]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def clip(folder: Path, architecture: str, *, small: bool = False) -> Path:
    """Save an open_clip folder of an architecture such as ViT-L-14."""
    import open_clip
    from safetensors.torch import save_file

    model = open_clip.get_model_config(architecture)
    if small:
        model["vision_cfg"] |= {"layers": 2, "width": 64, "image_size": 56, "head_width": 32}
        model["text_cfg"] |= {"layers": 2, "width": 64, "heads": 2}
    network = open_clip.CLIP(**model).half()
    folder.mkdir(parents=True)
    save_file(dict(network.state_dict()), folder / "open_clip_model.safetensors")
    side = model["vision_cfg"]["image_size"]
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": side}
    config = {"model_cfg": model, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def llava(folder: Path, question: str, *, small: bool = False, device: str = "cpu") -> Path:
    """Save a LLaVA of LLaVA-1.5-7B's sizes, whose tokenizer knows the question's words."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    cut = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    vision = LLAVA_VISION | (cut | {"num_hidden_layers": 3, "image_size": 56} if small else {})
    text = LLAVA_TEXT | (cut | {"num_hidden_layers": 2} if small else {})
    tokenizer = _word_tokenizer(question)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text, pad_token_id=tokenizer.pad_token_id),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(vision["image_size"] // 14) ** 2,
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(usual)
    model.save_pretrained(folder)
    side = vision["image_size"]
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def _word_tokenizer(question: str) -> Any:
    """Return a tokenizer with one token per word of the question; any other text is bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges, words = [], []
    for word in sorted({*re.findall(r" ?[A-Za-z]+", question), " Yes", " No"}):
        whole = word.replace(" ", "Ġ")
        merges += [(whole[:end], whole[end]) for end in range(1, len(whole))]
        words += [whole[: end + 1] for end in range(1, len(whole))]
    special = ["<s>", "</s>", PAD, IMAGE]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special, *letters, *words]))}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
    )
