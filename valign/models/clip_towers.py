"""The two encoders of a CLIP with what prepares their inputs, from open_clip or from transformers.

In: a source. Out: `Towers`: raw embeddings of preprocessed pixels and of token ids. Both libraries
only warn about some weights that do not fit (or resize them); here they are errors. Chunks,
normalisation and memory are `clip`'s.

Shapes: N images, M texts, C, H and W of pixels, L tokens, D embedding width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from valign.models.weight_files import misshapen, read_weights, refuse_misfits

PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Old checkpoints carry these beside the weights.
OLD_CONSTANTS = ("position_ids", "rotary_emb.inv_freq")


class Towers(Protocol):
    """What a CLIP is made of."""

    network: nn.Module
    label: str
    """What the model is called, for people."""
    preprocessing: str
    """Equal for models that want the same pixels."""

    def preprocess(self, images_NHWC: np.ndarray) -> Tensor:
        """Return pixels_NCHW (float32, on the CPU) of uint8 images; safe on another thread."""
        ...

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return what `encode_texts` reads, one row per text."""
        ...

    def encode_images(self, pixels_NCHW: Tensor) -> Tensor:
        """Return embedding_ND, not normalised."""
        ...

    def encode_texts(self, tokens_M: Tensor) -> Tensor:
        """Return embedding_MD, not normalised."""
        ...

    def logit_scale(self) -> float:
        """Return what cosines are multiplied with before a softmax."""
        ...


class OpenClip:
    """An open_clip model.

    Args:
        source: a folder (open_clip_config.json and safetensors, with tokenizer files if it names
            its own), a hub id, or "architecture:weights" with a tag that open_clip knows or a file.
        device: where it runs.
        precision: of weights and computation.
        resize_mode: open_clip's name for how images are made square; none: the model's own way.

    Raises:
        ValueError: there is no such model, or its weights do not fit.
    """

    def __init__(
        self, source: str, device: str, precision: str, resize_mode: str | None = None
    ) -> None:
        import open_clip

        name, weights = _parse(source)
        tag: dict[str, Any] = open_clip.get_pretrained_cfg(name, weights) if weights else {}
        # open_clip resizes positions that do not fit, and reads a pickle with a bare traceback
        stored = read_weights(weights) if weights and Path(weights).is_file() else {}
        try:
            model, _, self._transform = open_clip.create_model_and_transforms(
                name,
                pretrained=weights,
                precision=PRECISIONS[precision],
                # open_clip only warns if the activation is not that of the weights
                force_quick_gelu=bool(tag.get("quick_gelu", False)),
                image_resize_mode=resize_mode,
                require_pretrained=True,
                device=device,
            )
            self._tokenizer: Any = open_clip.get_tokenizer(name)
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"the CLIP model {source} did not load: {error}") from error
        refuse_misfits(source, misshapen=misshapen(model, stored))
        self.network = model.eval().requires_grad_(False)
        self.label = source if weights is None else f"{name}:{Path(weights).name}"
        self.preprocessing = f"open_clip {self._transform}"
        self._dtype = open_clip.get_input_dtype(PRECISIONS[precision])
        self._model: Any = model

    def preprocess(self, images_NHWC: np.ndarray) -> Tensor:
        """Return pixels_NCHW (float32, on the CPU) of uint8 images."""
        return torch.stack([self._transform(Image.fromarray(image)) for image in images_NHWC])

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return ids_ML."""
        return self._tokenizer(list(texts))

    def encode_images(self, pixels_NCHW: Tensor) -> Tensor:
        """Return embedding_ND, not normalised."""
        return self._model.encode_image(pixels_NCHW.to(self._dtype))

    def encode_texts(self, tokens_M: Tensor) -> Tensor:
        """Return embedding_MD, not normalised."""
        return self._model.encode_text(tokens_M)

    def logit_scale(self) -> float:
        """Return what cosines are multiplied with before a softmax."""
        return float(self._model.logit_scale.exp())


class TransformersClip:
    """A CLIPModel of transformers with its processor.

    Args:
        source: a folder that save_pretrained wrote (config, safetensors, tokenizer and image
            processor), or a hub id.
        device: where it runs.
        precision: of weights and computation.

    Raises:
        ValueError: there is no such model, its weights do not fit, or its processor is missing.
    """

    def __init__(self, source: str, device: str, precision: str) -> None:
        from transformers import CLIPModel, CLIPProcessor

        model = load_transformers(CLIPModel, source, precision)
        processor: Any = load_processor(CLIPProcessor, source)
        self.network = model.to(device)
        self.label = source
        self._images: Any = processor.image_processor
        self._tokenizer: Any = processor.tokenizer
        self.preprocessing = f"transformers {self._images.to_json_string()}"
        self._model: Any = model
        self._dtype = getattr(torch, precision)

    def preprocess(self, images_NHWC: np.ndarray) -> Tensor:
        """Return pixels_NCHW (float32, on the CPU) of uint8 images."""
        made = self._images(
            images=list(images_NHWC), input_data_format="channels_last", return_tensors="pt"
        )
        return made["pixel_values"]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return (M, 2, L): ids and the mask that says which of them are text."""
        made = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        return torch.stack([made["input_ids"], made["attention_mask"]], dim=1)

    def encode_images(self, pixels_NCHW: Tensor) -> Tensor:
        """Return embedding_ND, not normalised."""
        # transformers 5 returns an output object here, transformers 4 returned the tensor
        return self._model.get_image_features(
            pixel_values=pixels_NCHW.to(self._dtype)
        ).pooler_output

    def encode_texts(self, tokens_M: Tensor) -> Tensor:
        """Return embedding_MD, not normalised."""
        ids_ML, mask_ML = tokens_M.unbind(dim=1)
        found = self._model.get_text_features(input_ids=ids_ML, attention_mask=mask_ML)
        return found.pooler_output

    def logit_scale(self) -> float:
        """Return what cosines are multiplied with before a softmax."""
        return float(self._model.logit_scale.exp())


def load_transformers(kind: Any, source: str, precision: str) -> Any:
    """Load a model of transformers from safetensors, strictly and for inference.

    Args:
        kind: a class with `from_pretrained`.
        source: a folder or a hub id.
        precision: of the weights.

    Raises:
        ValueError: there is no such model, or a weight is missing, unexpected or misshapen.
    """
    try:
        model, info = kind.from_pretrained(
            source,
            dtype=getattr(torch, precision),
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{source} did not load as {kind.__name__}: {error}. Give a folder that "
            "save_pretrained wrote with safetensors, or a hub id"
        ) from error
    refuse_misfits(
        source,
        missing=info["missing_keys"],
        unexpected=[k for k in info["unexpected_keys"] if not k.endswith(OLD_CONSTANTS)],
        misshapen=[str(key[0]) for key in info["mismatched_keys"]],
    )
    return model.eval().requires_grad_(False)


def load_processor(kind: Any, source: str) -> Any:
    """Load the processor that belongs to a model of transformers.

    Raises:
        ValueError: its files are missing.
    """
    try:
        return kind.from_pretrained(source)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{source} has no processor: {error}. Save the model's own processor "
            "(tokenizer and image processor) into the same folder"
        ) from error


def _parse(source: str) -> tuple[str, str | None]:
    """Return open_clip's (model name, pretrained) for a source."""
    folder = Path(source)
    if folder.is_dir():
        if not any(folder.glob("*.safetensors")):
            raise ValueError(f"the CLIP folder {source} holds no safetensors")
        return f"local-dir:{source}", None
    if source.startswith("hf-hub:"):
        return source, None
    name, colon, weights = source.partition(":")
    if colon and weights:
        return name, weights
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return f"hf-hub:{source}", None
    raise ValueError(
        f"no CLIP model at {source!r}: give an open_clip folder, a hub id, or architecture:weights "
        "such as ViT-L-14:openai"
    )
