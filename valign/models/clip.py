"""A CLIP model of open_clip: one forward pass whose embeddings several scorers share.

In: uint8 images and texts. Out: L2-normalised float32 embeddings. Images and texts run in chunks of
one fixed size, padded, so an embedding never depends on its company. What scorers make of the
embeddings is not decided here.

Shapes: N images, M texts, D embedding width, H and W pixels.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

IMAGE_CHUNK, TEXT_CHUNK = 32, 8
REMEMBERED_TEXTS = 8192


class Clip:
    """A loaded model with its own preprocessing and tokenizer.

    Args:
        source: an open_clip folder (open_clip_config.json and safetensors, with tokenizer files if
            it names its own), a hub id, or "architecture:weights" with a tag that open_clip knows
            or a file, such as "ViT-L-14:openai".
        device: where it runs.

    Raises:
        ValueError: there is no such model, or its weights do not fit.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        import open_clip

        name, weights = _parse(source)
        tag: dict[str, Any] = open_clip.get_pretrained_cfg(name, weights) if weights else {}
        try:
            model, _, self._preprocess = open_clip.create_model_and_transforms(
                name,
                pretrained=weights,
                # open_clip only warns if the activation is not that of the weights
                force_quick_gelu=bool(tag.get("quick_gelu", False)),
                require_pretrained=True,
                device=device,
            )
            self._tokenizer: Any = open_clip.get_tokenizer(name)
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"the CLIP model {source} did not load: {error}") from error
        self._model: Any = model.eval().requires_grad_(False)
        self._device = torch.device(device)
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()
        self.source = source
        self.fingerprint = hash_weights(self._model)

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with before a softmax."""
        return float(self._model.logit_scale.exp())

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings."""
        return int(self.embed_texts([""]).shape[1])

    @torch.no_grad()
    def embed_images(self, images_NHWC: np.ndarray) -> Tensor:
        """Return unit embedding_ND (float32, on the CPU) of uint8 images."""
        pixels = torch.stack(
            [self._preprocess(Image.fromarray(image_HWC)) for image_HWC in images_NHWC]
        )
        found_ND = in_chunks(self._model.encode_image, pixels.to(self._device), IMAGE_CHUNK)
        return nn.functional.normalize(found_ND, dim=-1).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit embedding_MD (float32, on the CPU); each distinct text is encoded once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        if new:
            ids = self._tokenizer(new).to(self._device)
            found_MD = in_chunks(self._model.encode_text, ids, TEXT_CHUNK)
            found_MD = nn.functional.normalize(found_MD, dim=-1).cpu()
            self._remembered.update(zip(new, found_MD, strict=True))
        embedding_MD = torch.stack([self._remembered[text] for text in texts])
        while len(self._remembered) > REMEMBERED_TEXTS:
            self._remembered.popitem(last=False)
        return embedding_MD


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


def in_chunks(apply: Callable[[Tensor], Tensor], rows_N: Tensor, size: int) -> Tensor:
    """Apply a network in chunks of one size, the last one padded: equal shapes, equal rounding."""
    n_rows = len(rows_N)
    padding = rows_N[-1:].expand(-n_rows % size, *rows_N.shape[1:])
    chunks = torch.cat([rows_N, padding]).split(size)
    return torch.cat([apply(chunk).float() for chunk in chunks])[:n_rows]


def hash_weights(network: nn.Module) -> str:
    """Return the sha256 (hex) of a network's weights by name, dtype and value."""
    whole = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        value = weight.detach().cpu().contiguous()
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
