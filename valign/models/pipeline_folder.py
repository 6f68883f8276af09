"""Read a Stable Diffusion pipeline folder strictly: every weight of every network, or an error.

In: a local folder in diffusers' layout, or a hub id. Out: the networks, the tokenizer, the noise
schedule and a fingerprint. The safety checker is never loaded. Libraries only warn when weights
are missing (transformers 5 and 4 name a CLIP text encoder's weights differently and then keep
random ones), so every load here compares the names itself.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
TEXT_PREFIX = "text_model."
# A constant that old checkpoints carry beside the weights.
IGNORED_TEXT_KEYS = frozenset({"embeddings.position_ids"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """The forward process of a generator: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise."""

    alphas_cumprod_T: Tensor  # float32, on the CPU
    prediction_type: str  # "epsilon" | "v_prediction"

    @property
    def n_timesteps(self) -> int:
        """Number of training timesteps T; timesteps are 0 .. T-1."""
        return len(self.alphas_cumprod_T)


def local_folder(folder_or_id: str) -> Path:
    """Return a local pipeline folder; a hub id is fetched into the hub's cache first.

    Raises:
        ValueError: it is neither a pipeline folder nor a hub id that can be fetched.
    """
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
    return _fetch(folder_or_id)


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["model_index.json", "tokenizer/*", "scheduler/*"]
    for part in ("text_encoder", "unet", "vae"):
        patterns += [f"{part}/config.json", f"{part}/*.safetensors"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"the generator {hub_id!r} is no local folder and could not be fetched from the hub: "
            f"{error}. Check the name and the network, or give a local folder"
        ) from error


def check_family(folder: Path) -> None:
    """Raise ValueError unless the folder is a pipeline of the Stable Diffusion 1.x family."""
    index = json.loads((folder / "model_index.json").read_text())
    family = index.get("_class_name", "")
    if family != "StableDiffusionPipeline":
        raise ValueError(
            f"{folder} is a {family or 'nameless pipeline'}; a generator must be a "
            "StableDiffusionPipeline (the Stable Diffusion 1.x family)"
        )
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; fetch or save the pipeline again")


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return the safetensors of one network in name order (`variant` as in diffusers: "fp16").

    Raises:
        ValueError: there are none (a pickled .bin is never read).
    """
    every = sorted(folder.glob("*.safetensors"))
    found = [file for file in every if _variant_of(file.name) == variant]
    if not found:
        wanted = "safetensors" if variant is None else f"safetensors of the variant {variant!r}"
        names = ", ".join(file.name for file in every) or "none"
        raise ValueError(f"{folder} holds no {wanted} (there are: {names})")
    return found


def _variant_of(name: str) -> str | None:
    middle = name.removesuffix(".safetensors").split(".")[1:]
    return middle[0].split("-")[0] if middle else None


def load_text_encoder(folder: Path, dtype: torch.dtype, variant: str | None = None) -> nn.Module:
    """Load a CLIPTextModel from weights named with or without the `text_model.` prefix.

    Raises:
        ValueError: a weight is missing, unexpected or of another shape.
    """
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModel

    stored: dict[str, Tensor] = {}
    for file in weight_files(folder, variant):
        stored.update(load_file(file))
    stored = {key.removeprefix(TEXT_PREFIX): value for key, value in stored.items()}
    stored = {key: value for key, value in stored.items() if key not in IGNORED_TEXT_KEYS}
    model = CLIPTextModel(CLIPTextConfig.from_pretrained(folder))
    names = {key.removeprefix(TEXT_PREFIX): key for key in model.state_dict()}
    names = {short: key for short, key in names.items() if short not in IGNORED_TEXT_KEYS}
    _complain(
        folder,
        missing=sorted(names.keys() - stored.keys()),
        unexpected=sorted(stored.keys() - names.keys()),
        mismatched=sorted(
            short
            for short in names.keys() & stored.keys()
            if model.state_dict()[names[short]].shape != stored[short].shape
        ),
    )
    model.load_state_dict({names[short]: value for short, value in stored.items()}, strict=False)
    return model.to(dtype).eval()


def load_network(folder: Path, dtype: torch.dtype, variant: str | None = None) -> nn.Module:
    """Load the UNet or the VAE of a pipeline folder (by its folder's name), strictly."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind: Any = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[folder.name]
    weight_files(folder, variant)
    try:
        model, info = kind.from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except RuntimeError as error:  # weights of another shape
        raise ValueError(
            f"the weights in {folder} do not fit their config.json: {error}"
        ) from error
    _complain(folder, missing=info["missing_keys"], unexpected=info["unexpected_keys"])
    return model.eval()


def _complain(folder: Path, **problems: list[str]) -> None:
    told = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if told:
        raise ValueError(
            f"the weights in {folder} do not fit their config.json: {'; '.join(told)}. The file "
            "is incomplete or belongs to another model; fetch or save it again"
        )


def load_solver(folder: Path) -> Any:
    """Load DPM-Solver++ with the noise schedule of a scheduler folder, whatever it was saved as."""
    from diffusers import DPMSolverMultistepScheduler

    solver = DPMSolverMultistepScheduler.from_pretrained(folder, algorithm_type="dpmsolver++")
    if solver.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the schedule in {folder} predicts {solver.config.prediction_type!r}; a generator "
            "must predict epsilon or v_prediction"
        )
    return solver


def read_schedule(solver: Any) -> NoiseSchedule:
    """Return the forward process that a solver of `load_solver` inverts."""
    return NoiseSchedule(
        alphas_cumprod_T=solver.alphas_cumprod.float(),
        prediction_type=solver.config.prediction_type,
    )


_fingerprints: dict[tuple[object, ...], str] = {}


def fingerprint(folder: Path, variant: str | None = None) -> str:
    """Return the sha256 (hex) of all that shapes the images: configs, vocabulary and weights.

    Files of other variants, READMEs and the like are left out. Cached per process by the files'
    names, sizes and times, because hashing gigabytes takes seconds.
    """
    files = [folder / "model_index.json"]
    for part in PARTS:
        if part in ("tokenizer", "scheduler"):
            files += sorted(file for file in (folder / part).iterdir() if file.is_file())
        else:
            files += [folder / part / "config.json", *weight_files(folder / part, variant)]
    stats = [os.stat(file) for file in files]
    key = (str(folder.resolve()), variant, *((s.st_size, s.st_mtime_ns) for s in stats))
    if key not in _fingerprints:
        whole = hashlib.sha256()
        for file in files:
            with open(file, "rb") as stream:
                part_hash = hashlib.file_digest(stream, "sha256").hexdigest()
            whole.update(f"{file.relative_to(folder).as_posix()} {part_hash}\n".encode())
        _fingerprints[key] = whole.hexdigest()
    return _fingerprints[key]
