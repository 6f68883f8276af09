"""A smaller CLIP for the voters: fewer and narrower words, and a vision tower of patches.

In: a tokenizer. Out: a transformers `CLIPModel`, and the same network as an open_clip model, so
that one network can be shipped in both formats. A voter as large as the shipped CLIP would not fit
the package: this one has a sixth of its size. How it is taught is in `tuning`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from valign.miniature import publish, text
from valign.miniature.clip import EMBEDDING

VOCABULARY = 1280
TEXT_WIDTH, TEXT_LAYERS, TEXT_RATIO = 64, 2, 2  # ratio: width of the inner layer to the width
VISION_WIDTH, VISION_LAYERS, VISION_RATIO = 80, 3, 4
HEADS, PATCH, SIZE = 4, 8, 64
MEAN = STD = (0.5, 0.5, 0.5)


def build(tokenizer: Any) -> Any:
    """A fresh transformers CLIPModel."""
    from transformers import CLIPConfig, CLIPModel

    words = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": TEXT_RATIO * TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": text.POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPModel(
        CLIPConfig(text_config=words, vision_config=vision_config(), projection_dim=EMBEDDING)
    )


def vision_config(layers: int = VISION_LAYERS) -> dict[str, int]:
    """Settings of the vision tower, or of its first layers, as transformers names them."""
    return {
        "hidden_size": VISION_WIDTH,
        "intermediate_size": VISION_RATIO * VISION_WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "image_size": SIZE,
        "patch_size": PATCH,
    }


def open_clip_config(tokenizer: Any) -> dict[str, Any]:
    """The open_clip_config.json of the same network."""
    return {
        "model_cfg": {
            "embed_dim": EMBEDDING,
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": SIZE,
                "layers": VISION_LAYERS,
                "width": VISION_WIDTH,
                "head_width": VISION_WIDTH // HEADS,
                "mlp_ratio": VISION_RATIO,
                "patch_size": PATCH,
            },
            "text_cfg": {
                "context_length": text.POSITIONS,
                "vocab_size": len(tokenizer),
                "width": TEXT_WIDTH,
                "heads": HEADS,
                "layers": TEXT_LAYERS,
                "mlp_ratio": TEXT_RATIO,
                "hf_tokenizer_name": "tokenizer",
                "tokenizer_kwargs": {"clean": "whitespace"},
            },
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic"},
    }


@torch.no_grad()
def open_clip_state(model: Any) -> dict[str, torch.Tensor]:
    """The weights of a transformers CLIPModel under open_clip's names."""
    source = model.state_dict()
    vision = "vision_model."
    words = "text_model."
    state = {
        "logit_scale": source["logit_scale"],
        "token_embedding.weight": source[f"{words}embeddings.token_embedding.weight"],
        "positional_embedding": source[f"{words}embeddings.position_embedding.weight"],
        "text_projection": source["text_projection.weight"].T,
        "visual.class_embedding": source[f"{vision}embeddings.class_embedding"],
        "visual.conv1.weight": source[f"{vision}embeddings.patch_embedding.weight"],
        "visual.positional_embedding": source[f"{vision}embeddings.position_embedding.weight"],
        "visual.proj": source["visual_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        state |= {
            f"ln_final.{kind}": source[f"{words}final_layer_norm.{kind}"],
            f"visual.ln_pre.{kind}": source[f"{vision}pre_layrnorm.{kind}"],
            f"visual.ln_post.{kind}": source[f"{vision}post_layernorm.{kind}"],
        }
    state |= _blocks(source, words, "transformer", TEXT_LAYERS)
    state |= _blocks(source, vision, "visual.transformer", VISION_LAYERS)
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def _blocks(
    source: dict[str, torch.Tensor], tower: str, name: str, layers: int
) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for i in range(layers):
        old, new = f"{tower}encoder.layers.{i}.", f"{name}.resblocks.{i}."
        for kind in ("weight", "bias"):
            parts = [source[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state |= {
                f"{new}attn.in_proj_{kind}": torch.cat(parts),
                f"{new}attn.out_proj.{kind}": source[f"{old}self_attn.out_proj.{kind}"],
                f"{new}ln_1.{kind}": source[f"{old}layer_norm1.{kind}"],
                f"{new}ln_2.{kind}": source[f"{old}layer_norm2.{kind}"],
                f"{new}mlp.c_fc.{kind}": source[f"{old}mlp.fc1.{kind}"],
                f"{new}mlp.c_proj.{kind}": source[f"{old}mlp.fc2.{kind}"],
            }
    return state


def unit_texts(model: Any, ids_TL: torch.Tensor) -> torch.Tensor:
    """Unit text embeddings (T, D); ids may be cut after the longest text."""
    pooled = model.text_model(input_ids=ids_TL).pooler_output
    return nn.functional.normalize(model.text_projection(pooled), dim=-1)


def save_open_clip(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an open_clip folder: config, half-precision weights, tokenizer beside them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(open_clip_config(tokenizer), indent=2)
    (folder / "open_clip_config.json").write_text(settings + "\n")
    weights = {name: value.half() for name, value in open_clip_state(model).items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    publish.for_everyone(folder)


def save_transformers(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a CLIPModel folder with its processor, weights in half precision."""
    from transformers import CLIPProcessor

    model.half().save_pretrained(folder, safe_serialization=True)
    CLIPProcessor(image_processor=image_processor(), tokenizer=tokenizer).save_pretrained(folder)
    publish.for_everyone(folder)


def image_processor() -> Any:
    """How a transformers model reads the student's images."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
