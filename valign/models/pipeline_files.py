"""Find a Stable Diffusion pipeline's files on this machine, and read its configs.

In: a local folder in diffusers' layout or a hub id, of the SD 1.x/2.x or the SDXL family; or such a
folder for configs and tokenizers with a single-file checkpoint for weights. Out: its files, its
blueprint and a fingerprint; no weights are loaded. Safetensors only: nothing is ever unpickled.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# pipeline class -> its text encoders; each has a tokenizer of the same number
FAMILIES = {
    "StableDiffusionPipeline": ("text_encoder",),
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2"),
}
# What the fingerprint covers, in this order; a family has some of them.
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler", "tokenizer_2", "text_encoder_2")
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFiles:
    """Where the files of one pipeline lie on this machine."""

    folder: Path  # model_index.json, configs, tokenizers; the weights too, unless:
    checkpoint: Path | None = None  # one .safetensors of all weights in their original layout
    variant: str | None = None  # which weight files of the folder, as in diffusers ("fp16")

    def __str__(self) -> str:
        return str(self.checkpoint or self.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What a pipeline's configs say about its images."""

    text_parts: tuple[str, ...]  # folders of its text encoders
    size_px: int  # side of the image it was made for
    scale: int  # pixels per latent
    upcast_vae: bool  # the VAE overflows in float16
    zero_empty: bool  # an empty negative prompt is zeros, not the embedding of ""


def local_files(
    source: str, *, config: str | None = None, variant: str | None = None
) -> PipelineFiles:
    """Return the files of a pipeline; a hub id is fetched into the hub's cache first.

    Args:
        source: a pipeline folder, a hub id, or a single-file checkpoint.
        config: for a checkpoint: the folder or hub id of a pipeline of the same architecture, whose
            configs and tokenizers are used and whose weights are not.
        variant: which weight files, as in diffusers.

    Raises:
        ValueError: it is none of these, or pickled.
    """
    refuse_pickle(source)
    if not source.endswith(".safetensors"):
        if config is not None:
            raise ValueError(
                f"{source} brings its own configs; leave generator_config out, which is for a "
                "single-file checkpoint"
            )
        return PipelineFiles(folder=_local_folder(source, variant), variant=variant)
    if not Path(source).is_file():
        raise ValueError(f"there is no checkpoint at {source}")
    if config is None:
        raise ValueError(
            f"{source} is a single-file checkpoint without configs: give generator_config, the "
            "folder or hub id of a pipeline of the same architecture, such as "
            "stable-diffusion-v1-5/stable-diffusion-v1-5 (its weights are not used)"
        )
    if variant is not None:
        raise ValueError(f"{source} is one file and has no variant {variant!r}; leave it out")
    return PipelineFiles(folder=_local_folder(config, weights=False), checkpoint=Path(source))


def config_folder(source: str) -> Path:
    """Return a pipeline's folder for its configs' sake: of a hub id no weights are fetched.

    Raises:
        ValueError: there is no such pipeline, or the hub cannot be reached.
    """
    return _local_folder(source, weights=False)


def refuse_pickle(source: str) -> None:
    """Raise ValueError for a checkpoint that only unpickling could open."""
    if source.endswith(PICKLES):
        raise ValueError(
            f"{source} is a pickle, which can run any code when it is opened, and is never read: "
            "give the .safetensors version, or convert it on a machine that may be lost"
        )


def is_wanted(name: str, variant: str | None = None, *, weights: bool = True) -> bool:
    """Say whether a file of a pipeline folder is of use here: configs, texts, safetensors."""
    if name.endswith(".safetensors"):
        return weights and _variant_of(name.rpartition("/")[2]) == variant
    return name.endswith((".json", ".txt"))


def _local_folder(folder_or_id: str, variant: str | None = None, *, weights: bool = True) -> Path:
    path = Path(folder_or_id)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ValueError(
                f"{path} holds no model_index.json: give the folder that diffusers' "
                "save_pretrained wrote"
            )
        return path
    looks_like_id = folder_or_id.count("/") == 1 and not folder_or_id.startswith((".", "/", "~"))
    if not looks_like_id:
        raise ValueError(f"there is no generator folder at {folder_or_id}")
    return _fetch(folder_or_id, variant, weights=weights)


def _fetch(hub_id: str, variant: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["model_index.json", "tokenizer*/*", "scheduler/*"]
    patterns += [f"{part}/config.json" for part in NETWORKS]
    if weights:
        middle = f".{variant}*" if variant else ""
        patterns += [f"{part}/*{middle}.safetensors" for part in NETWORKS]
    others = [] if variant else ["*/*.*.safetensors"]  # of other variants
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=others))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"the generator {hub_id!r} is no local folder and could not be fetched from the hub: "
            f"{error}. Check the name and the network, or give a local folder"
        ) from error


def blueprint(files: PipelineFiles) -> Blueprint:
    """Read a pipeline's configs, and make sure that its parts are there and fit together.

    Raises:
        ValueError: it is of another family, a part is missing, or the UNet does not take what the
            text encoders and the VAE give.
    """
    folder = files.folder
    text_parts = _text_parts(folder)
    needed = [*text_parts, *(tokenizer_of(part) for part in text_parts), "unet", "vae", "scheduler"]
    missing = [part for part in needed if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; fetch or save the pipeline again")
    unet, vae = _config(folder / "unet"), _config(folder / "vae")
    channels = {unet.get("in_channels", 4), unet.get("out_channels", 4)}
    if channels != {vae.get("latent_channels", 4)}:
        raise ValueError(
            f"{folder}: the UNet takes {unet.get('in_channels', 4)} channels and the VAE gives "
            f"{vae.get('latent_channels', 4)}; a generator makes images from text alone (no "
            "inpainting or image-to-image model)"
        )
    _check_width(folder, text_parts, unet)
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    return Blueprint(
        text_parts=text_parts,
        size_px=int(unet["sample_size"]) * scale,
        scale=scale,
        upcast_vae=len(text_parts) > 1 and bool(vae.get("force_upcast", True)),
        zero_empty=len(text_parts) > 1 and bool(_index(folder)["force_zeros_for_empty_prompt"]),
    )


def _index(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    return {"_class_name": "nameless pipeline", "force_zeros_for_empty_prompt": True, **tree}


def _text_parts(folder: Path) -> tuple[str, ...]:
    family = _index(folder)["_class_name"]
    if family not in FAMILIES:
        raise ValueError(
            f"{folder} is a {family}; a generator must be a {' or '.join(FAMILIES)} (Stable "
            "Diffusion 1.x, 2.x or XL)"
        )
    return FAMILIES[family]


def _check_width(folder: Path, text_parts: tuple[str, ...], unet: dict[str, Any]) -> None:
    from transformers import CLIPTextConfig

    texts = [CLIPTextConfig.from_pretrained(folder / part) for part in text_parts]
    context, taken = sum(text.hidden_size for text in texts), unet["cross_attention_dim"]
    if context != taken:
        raise ValueError(
            f"{folder}: the text encoders give contexts of width {context}, and the UNet takes "
            f"{taken}: its parts are of different models"
        )
    if len(texts) > 1:
        added = texts[-1].projection_dim + 6 * unet["addition_time_embed_dim"]
        if added != unet.get("projection_class_embeddings_input_dim"):
            raise ValueError(
                f"{folder}: the UNet takes {unet.get('projection_class_embeddings_input_dim')} "
                f"pooled text and size features, and gets {added}: an SDXL base model is needed"
            )


def _config(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return tree


def tokenizer_of(text_part: str) -> str:
    """Return the folder of a text encoder's tokenizer."""
    return text_part.replace("text_encoder", "tokenizer")


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return the safetensors of one network in name order (`variant` as in diffusers: "fp16").

    Raises:
        ValueError: there are none (a pickled .bin is never read).
    """
    every = sorted(folder.glob("*.safetensors"))
    found = [file for file in every if _variant_of(file.name) == variant]
    if not found:
        wanted = "safetensors" if variant is None else f"safetensors of the variant {variant!r}"
        names = [file.name for file in every]
        names += sorted(file.name for file in folder.iterdir() if file.name.endswith(PICKLES))
        raise ValueError(
            f"{folder} holds no {wanted} (there are: {', '.join(names) or 'none'}; pickles are "
            "never read)"
        )
    return found


def _variant_of(name: str) -> str | None:
    middle = name.removesuffix(".safetensors").split(".")[1:]
    return middle[0].split("-")[0] if middle else None


_fingerprints: dict[tuple[object, ...], str] = {}


def fingerprint(files: PipelineFiles) -> str:
    """Return the sha256 (hex) of all that shapes the images: configs, vocabulary and weights.

    Files of other variants, READMEs and the like are left out. Cached per process by the files'
    names, sizes and times, because hashing gigabytes takes seconds.
    """
    folder, shaping = files.folder, [files.folder / "model_index.json"]
    text_parts = _text_parts(folder)
    wanted = {*text_parts, *(tokenizer_of(part) for part in text_parts), "unet", "vae", "scheduler"}
    for part in (part for part in PARTS if part in wanted):
        if part not in NETWORKS:
            shaping += sorted(file for file in (folder / part).iterdir() if file.is_file())
        else:
            shaping.append(folder / part / "config.json")
            if files.checkpoint is None:
                shaping += weight_files(folder / part, files.variant)
    names = [file.relative_to(folder).as_posix() for file in shaping]
    if files.checkpoint is not None:
        shaping.append(files.checkpoint)
        names.append("checkpoint")
    stats = [os.stat(file) for file in shaping]
    key = (str(files), files.variant, *((s.st_size, s.st_mtime_ns) for s in stats))
    if key not in _fingerprints:
        whole = hashlib.sha256()
        for name, file in zip(names, shaping, strict=True):
            whole.update(f"{name} {file_sha256(file)}\n".encode())
        _fingerprints[key] = whole.hexdigest()
    return _fingerprints[key]


def file_sha256(file: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
