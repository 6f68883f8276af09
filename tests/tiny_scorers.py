"""Small real scorers with random weights, saved as their authors publish them.

A CLIPModel folder (PickScore), a LLaVA folder, LAION's aesthetic checkpoint, and an open_clip state
dict with its architecture registered (HPSv2). What loads and runs these loads and runs the real
ones. Their scores mean nothing.
"""

import json
from pathlib import Path

import open_clip
import torch
from torch import nn

from tests.tiny import CONTEXT, build_clip, build_tokenizer

ARCHITECTURE = "tiny-hps"


def build_pickscore(folder: Path, *, seed: int = 0) -> Path:
    """Save a CLIPModel with its processor, for images of 32x32."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    folder = Path(folder)
    vocabulary = build_tokenizer(folder)
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPModel(
            CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        ).save_pretrained(folder)
    CLIPProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=CLIPTokenizer.from_pretrained(folder),
    ).save_pretrained(folder)
    return folder


def build_llava(folder: Path, *, seed: int = 0) -> Path:
    """Save a LlavaForConditionalGeneration with its processor; 4 image tokens of 32x32."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    folder = Path(folder)
    symbols = ["<s>", "</s>", "<pad>", "<image>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [("N", "o"), ("Y", "e"), ("Ye", "s"), ("Ġ", "Yes"), ("Ġ", "No")]
    tokens = [*symbols, *letters, *("".join(pair) for pair in words)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, words))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=CLIPVisionConfig(
                    **size, num_hidden_layers=3, image_size=32, patch_size=16
                ),
                text_config=LlamaConfig(
                    **size,
                    num_hidden_layers=2,
                    num_key_value_heads=2,
                    vocab_size=len(tokens),
                    max_position_embeddings=256,
                    pad_token_id=2,
                ),
                image_token_id=tokens.index("<image>"),
                image_seq_length=4,
                vision_feature_layer=-2,
            )
        )
        for weight in model.lm_head.parameters():
            nn.init.normal_(weight, std=0.2)  # so that the answer is neither sure nor a toss
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=wrapped,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{% for message in messages %}{% for part in message['content'] %}"
            "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
            "{% endfor %}{{ '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'Answer:\n' }}{% endif %}"
        ),
    ).save_pretrained(folder)
    return folder


def laion_network(embed_dim: int) -> nn.Sequential:
    """LAION's network with its dropout, for embeddings of another width than 768."""
    return nn.Sequential(
        nn.Linear(embed_dim, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


def build_laion(file: Path, *, seed: int = 0, embed_dim: int = 24) -> nn.Sequential:
    """Save the checkpoint of LAION's network as it was published; return the network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = laion_network(embed_dim).eval()
    torch.save({f"layers.{name}": value for name, value in network.state_dict().items()}, file)
    return network


def build_hps(folder: Path, *, seed: int = 0) -> nn.Module:
    """Save both versions' published files into a folder; return the network of the seed.

    Registers the architecture `tiny-hps`, whose texts go through open_clip's own tokenizer.
    """
    folder = Path(folder)
    clip = build_clip(folder / "clip", seed=seed)
    config = json.loads((clip / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"] |= {"vocab_size": 49408}
    del config["text_cfg"]["hf_tokenizer_name"]
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{ARCHITECTURE}.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = open_clip.CLIP(**config).eval()
        torch.save({"state_dict": network.state_dict()}, folder / "HPS_v2_compressed.pt")
        older = {k: v + 0.01 * torch.randn_like(v) for k, v in network.state_dict().items()}
        torch.save({"state_dict": older}, folder / "HPS_v2.1_compressed.pt")
    return network
