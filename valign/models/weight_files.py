"""Read weights that others published, strictly and never as code.

In: a safetensors file, a torch checkpoint (.pt, .pth, .bin), or a head's folder (config.json and
model.safetensors). Out: tensors by name. A checkpoint is read with `weights_only`, so that a pickle
can run nothing, and what does not fit a network is an error that names it.
"""

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; a checkpoint may hold them under `state_dict`.

    Raises:
        ValueError: the file is missing or broken, holds more than tensors, or could run code.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(file)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds more than tensors, and reading it could run code. If you trust it, save "
            "its state dict as safetensors"
        ) from error  # torch's own words recommend the unsafe way
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(
            f"{file} is no readable file of weights: {error}. Fetch it again, or save the state "
            "dict as safetensors"
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{file} holds no state dict: save the network's state_dict() instead")
    return {name.removeprefix("module."): value for name, value in found.items()}


def refuse_misfits(source: object, **problems: Iterable[str]) -> None:
    """Raise ValueError that names what does not fit, by kind of problem; do nothing if all fits."""
    told = []
    for kind, names in problems.items():
        listed = sorted(names)
        if listed:
            more = ", …" if len(listed) > 3 else ""
            told.append(f"{len(listed)} {kind} ({', '.join(listed[:3])}{more})")
    if told:
        raise ValueError(
            f"the weights of {source} do not fit: {'; '.join(told)}. The file is incomplete or "
            "belongs to another model; fetch or save it again, or name its own architecture"
        )


def misshapen(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights that have another shape in the network."""
    own = network.state_dict()
    return [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]


def load_strictly(network: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Copy weights into a network.

    Raises:
        ValueError: one is missing, unexpected or of another shape.
    """
    own = network.state_dict()
    refuse_misfits(
        source,
        missing=own.keys() - weights.keys(),
        unexpected=weights.keys() - own.keys(),
        misshapen=misshapen(network, weights),
    )
    network.load_state_dict(weights, strict=True)


def write_head(folder: str | Path, head: nn.Module, config: Mapping[str, Any]) -> None:
    """Write config.json and model.safetensors (float32) into a folder."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {k: v.detach().float().cpu().contiguous() for k, v in head.state_dict().items()}
    save_file(weights, folder / WEIGHTS)


def read_head_config(folder: str | Path, *fields: str) -> dict[str, Any]:
    """Return the config.json of a head's folder.

    Raises:
        ValueError: it is missing, no JSON, or lacks one of the fields.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise ValueError(f"there is no {CONFIG} at {folder}: give the folder of a saved head")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    missing = [name for name in fields if not isinstance(config, dict) or name not in config]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}: save the head again")
    return dict(config)


def hash_weights(network: nn.Module) -> str:
    """Return the sha256 (hex) of a network's weights by name, dtype and value."""
    whole = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        value = weight.detach().cpu().contiguous()
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()
