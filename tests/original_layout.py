"""Save a pipeline folder's weights as one checkpoint in Stable Diffusion's original layout.

For tests of single-file loading: the inverse of the renaming that loaders do, written from the
layout's own names.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}


def save_checkpoint(folder: Path, file: Path, *, layers_per_block: int = 1) -> Path:
    """Write the weights of a StableDiffusionPipeline or StableDiffusionXLPipeline folder."""
    stored = {f"model.diffusion_model.{k}": v for k, v in _unet(folder, layers_per_block).items()}
    stored |= {f"first_stage_model.{key}": value for key, value in _vae(folder).items()}
    xl = (folder / "text_encoder_2").is_dir()
    clip = "conditioner.embedders.0" if xl else "cond_stage_model"
    for key, value in _text(folder / "text_encoder").items():
        stored[f"{clip}.transformer.text_model.{key}"] = value
    stored[f"{clip}.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if xl:
        second = _open_clip(_text(folder / "text_encoder_2"))
        stored |= {f"conditioner.embedders.1.model.{key}": value for key, value in second.items()}
    save_file({key: value.contiguous() for key, value in stored.items()}, file)
    return file


def _weights(folder: Path) -> dict[str, Tensor]:
    return {
        key: value
        for file in folder.glob("*.safetensors")
        for key, value in load_file(file).items()
    }


def _text(folder: Path) -> dict[str, Tensor]:
    return {key.removeprefix("text_model."): value for key, value in _weights(folder).items()}


def _renamed(key: str, names: dict[str, str]) -> str:
    for theirs, original in names.items():
        key = re.sub(rf"(^|(?<=\.)){re.escape(theirs)}(?=\.|$)", original, key)
    return key


def _unet(folder: Path, layers: int) -> dict[str, Tensor]:
    stored = _weights(folder / "unet")
    found = {}
    for key, value in stored.items():
        match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
        if not match:
            name = _renamed(key, UNET)
            found[_renamed(name, RESNET) if "resnets" in key else name] = value
            continue
        side, kind, rest = match[1], match[3], match[5]
        block, layer = int(match[2]), int(match[4])
        start = (1 if side == "down" else 0) + block * (layers + 1)
        place = ("input_blocks" if side == "down" else "output_blocks") + "."
        if kind == "resnets":
            found[f"{place}{start + layer}.0.{_renamed(rest, RESNET)}"] = value
        elif kind == "attentions":
            found[f"{place}{start + layer}.1.{rest}"] = value
        elif kind == "downsamplers":
            found[f"{place}{start + layers}.0.{rest.replace('conv', 'op')}"] = value
        else:
            attends = any(name.startswith(f"up_blocks.{block}.attentions") for name in stored)
            found[f"{place}{start + layers}.{2 if attends else 1}.{rest}"] = value
    return found


def _vae(folder: Path) -> dict[str, Tensor]:
    stored = _weights(folder / "vae")
    last = max(int(key.split(".")[2]) for key in stored if key.startswith("decoder.up_blocks."))
    found = {}
    for key, value in stored.items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name
        )
        if "mid_block.attentions.0" in name:
            name = _renamed(name.replace("mid_block.attentions.0", "mid.attn_1"), VAE_ATTENTION)
        found[name] = value[:, :, None, None] if "attn_1" in name and value.ndim == 2 else value
    return found


def _open_clip(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {
        "logit_scale": torch.tensor(4.6),
        "text_projection": stored["text_projection.weight"].T,
    }
    for key, value in stored.items():
        if match := re.match(r"(.*self_attn\.)q_proj\.(weight|bias)", key):
            parts = [stored[f"{match[1]}{each}_proj.{match[2]}"] for each in "qkv"]
            found[_renamed(match[1], OPEN_CLIP) + f"in_proj_{match[2]}"] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj|text_projection", key):
            found[_renamed(key, OPEN_CLIP)] = value
    return found
