"""LoRA on a generator's networks: the adapter that trains, and its frozen copy for a reference.

Both adapters sit in the same layers (Hu et al. 2021, by peft), so policy and reference share the
base weights; which of the two a forward pass uses is switched before it. A fresh adapter changes
nothing: its second factor is zero.

In: a network (UNet or CLIP text encoder). Out: the same network, adapted in place.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

POLICY, REFERENCE = "policy", "reference"
UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def add_lora(
    network: nn.Module,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    seed: int,
    layers: Sequence[int] | None = None,
) -> nn.Module:
    """Freeze a network and put both adapters into it, in float32; return the network.

    Args:
        network: adapted in place.
        rank: of the adapters.
        alpha: scale; the adapters' output is multiplied by alpha / rank.
        targets: ends of the names of the linear layers that are adapted.
        seed: of the first factor's values, which are the same in every process.
        layers: numbers of a text encoder's layers that are adapted; None for all.

    Raises:
        ValueError: no layer of the network has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets),
        init_lora_weights="gaussian",
        layers_to_transform=None if layers is None else list(layers),
        layers_pattern=None if layers is None else "layers",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two are meant
        torch.manual_seed(seed)
        for name in (POLICY, REFERENCE):
            inject_adapter_in_model(config, network, adapter_name=name)
    with torch.no_grad():
        for _, trained, frozen in mirrored(network):
            frozen.copy_(trained.float())
            trained.data = trained.data.float()
            frozen.data = frozen.data.float()
    activate(network, POLICY)
    return network


def adapt(
    unet: nn.Module,
    text_encoders: Sequence[Any],
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    seed: int,
) -> None:
    """Put adapters into a generator's UNet and into the given text encoders (all, or none).

    Args:
        unet, text_encoders: adapted in place.
        rank, alpha, seed: see `add_lora`; every network has a seed of its own.
        targets: of the UNet.
    """
    add_lora(unet, rank=rank, alpha=alpha, targets=targets, seed=seed)
    for number, encoder in enumerate(text_encoders):
        # Of two encoders the context is the last layer but one; only the last one's last layer
        # is used, for the pooled text. A layer without use would have no gradient.
        unused = int(len(text_encoders) == 2 and number == 0)
        add_lora(
            encoder,
            rank=rank,
            alpha=alpha,
            targets=TEXT_TARGETS,
            seed=seed + 1 + number,
            layers=range(encoder.config.num_hidden_layers - unused),
        )


def activate(network: nn.Module, adapter: str) -> None:
    """Let forward passes use one adapter; only the policy's ever trains."""
    for layer in _adapted(network):
        layer.set_adapter(adapter, inference_mode=adapter != POLICY)


def mirrored(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """Yield name, policy's and reference's parameter of every factor."""
    named = dict(network.named_parameters())
    for name, parameter in named.items():
        if f".{POLICY}." in name:
            yield name, parameter, named[name.replace(f".{POLICY}.", f".{REFERENCE}.")]


def save_adapter(
    folder: Path | str,
    weights: Mapping[str, Tensor],
    *,
    rank: int,
    alpha: float,
    base: str,
) -> None:
    """Write a network's trained adapter as a peft folder, which `PeftModel.from_pretrained` loads.

    Args:
        folder: is made if need be.
        weights: the policy's factors, by the adapted network's own names.
        rank, alpha: as in `add_lora`.
        base: where the network is from.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Exactly the layers that were adapted: an end of a name may fit more of them.
    layers = sorted({name.partition(".lora_")[0] for name in weights})
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=layers, base_model_name_or_path=base
    )
    config.inference_mode = True
    config.save_pretrained(str(folder))
    named = {
        f"base_model.model.{name.replace(f'.{POLICY}.', '.')}": value.contiguous()
        for name, value in weights.items()
    }
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _adapted(network: nn.Module) -> Iterator[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (module for module in network.modules() if isinstance(module, BaseTunerLayer))
