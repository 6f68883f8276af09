"""Load a Stable Diffusion pipeline strictly: every weight of every network, or an error.

In: the files of a pipeline. Out: its networks and its noise schedule. The safety checker is never
loaded. Libraries only warn when weights are missing (transformers 5 and 4 name a CLIP text
encoder's weights differently and then keep random ones), so every load here compares the names
itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from valign.models.pipeline_files import weight_files

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


def load_text_encoder(folder: Path, dtype: torch.dtype, variant: str | None = None) -> nn.Module:
    """Load a CLIP text encoder from weights named with or without the `text_model.` prefix.

    Raises:
        ValueError: a weight is missing, unexpected or of another shape.
    """
    from safetensors.torch import load_file

    stored: dict[str, Tensor] = {}
    for file in weight_files(folder, variant):
        stored.update(load_file(file))
    return fill_text_encoder(text_encoder(folder), stored, str(folder)).to(dtype).eval()


def text_encoder(folder: Path) -> nn.Module:
    """Return the text encoder that a folder's config describes, with random weights.

    `text_encoder_2` is SDXL's, which projects its pooled output.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind: Any = CLIPTextModelWithProjection if folder.name == "text_encoder_2" else CLIPTextModel
    network: nn.Module = kind(CLIPTextConfig.from_pretrained(folder))
    return network


def fill_text_encoder(model: nn.Module, stored: dict[str, Tensor], source: str) -> nn.Module:
    """Put stored weights into a text encoder of `text_encoder`; all of them, or an error."""
    short = {key.removeprefix(TEXT_PREFIX): value for key, value in stored.items()}
    short = {key: value for key, value in short.items() if key not in IGNORED_TEXT_KEYS}
    names = {key.removeprefix(TEXT_PREFIX): key for key in model.state_dict()}
    ignored = {
        names[key]: model.state_dict()[names[key]] for key in names.keys() & IGNORED_TEXT_KEYS
    }
    stored = {names.get(key, key): value for key, value in short.items()} | ignored
    return fill(model, stored, source)


def fill(model: nn.Module, stored: dict[str, Tensor], source: str, *, assign: bool = False) -> Any:
    """Load stored weights into a network.

    Args:
        model: the network.
        stored: its weights by name.
        source: where they are from, for messages.
        assign: take the tensors themselves, for a network made on the meta device.

    Raises:
        ValueError: a weight is missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    complain(
        source,
        missing=sorted(expected.keys() - stored.keys()),
        unexpected=sorted(stored.keys() - expected.keys()),
        mismatched=sorted(
            key
            for key in expected.keys() & stored.keys()
            if expected[key].shape != stored[key].shape
        ),
    )
    model.load_state_dict(stored, assign=assign)
    return model


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
    complain(str(folder), missing=info["missing_keys"], unexpected=info["unexpected_keys"])
    return model.eval()


def complain(source: str, **problems: list[str]) -> None:
    """Raise ValueError if there are names of weights that do not fit."""
    told = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if told:
        raise ValueError(
            f"the weights in {source} do not fit their config.json: {'; '.join(told)}. The file "
            "is incomplete or belongs to another model; fetch or save it again"
        )


def read_schedule(solver: Any) -> NoiseSchedule:
    """Return the forward process that a solver of `load_solver` inverts."""
    return NoiseSchedule(
        alphas_cumprod_T=solver.alphas_cumprod.float(),
        prediction_type=solver.config.prediction_type,
    )
