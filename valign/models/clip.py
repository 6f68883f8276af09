"""A CLIP model: one forward pass whose embeddings several scorers share.

In: uint8 images and texts. Out: L2-normalised float32 embeddings. Images and texts run in chunks of
one fixed size, padded, so an embedding never depends on its company. What scorers make of the
embeddings is not decided here.

Shapes: N images, M texts, D embedding width, C, H and W of pixels.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from valign.models.clip_towers import OpenClip, Towers
from valign.models.weight_files import hash_weights
from valign.records import digest

IMAGE_CHUNK, TEXT_CHUNK = 32, 8
REMEMBERED_TEXTS = 8192


class Clip:
    """A loaded model with its own preprocessing and tokenizer.

    Args:
        source: what `towers` loads; with open_clip a folder, a hub id, or "architecture:weights"
            with a tag that open_clip knows or a file, such as "ViT-L-14:openai".
        device: where it runs.
        precision: float32, float16 or bfloat16, of weights and computation.
        towers: which library loads it: `clip_towers.OpenClip` or `clip_towers.TransformersClip`.

    Raises:
        ValueError: there is no such model, or its weights do not fit.
    """

    def __init__(
        self,
        source: str,
        device: str = "cpu",
        precision: str = "float32",
        towers: Callable[[str, str, str], Towers] = OpenClip,
    ) -> None:
        self._towers = towers(source, device, precision)
        self._device = torch.device(device)
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()
        self.source = source
        self.label = self._towers.label
        self.preprocessing = self._towers.preprocessing
        self.preprocess = self._towers.preprocess

    @cached_property
    def weights(self) -> str:
        """sha256 (hex) of the weights."""
        return hash_weights(self._towers.network)

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever an embedding could: with the weights or the preprocessing."""
        return digest("clip", self.weights, self.preprocessing)

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with before a softmax."""
        return self._towers.logit_scale()

    @cached_property
    def embed_dim(self) -> int:
        """Width of the embeddings."""
        return int(self.embed_texts([""]).shape[1])

    def embed_images(self, images_NHWC: np.ndarray) -> Tensor:
        """Return unit embedding_ND (float32, on the CPU) of uint8 images."""
        return self.embed_pixels(self.preprocess(images_NHWC))

    @torch.no_grad()
    def embed_pixels(self, pixels_NCHW: Tensor) -> Tensor:
        """Return unit embedding_ND (float32, on the CPU) of what `preprocess` made.

        Raises:
            ValueError: an embedding is not finite.
        """
        found_ND = in_chunks(self._towers.encode_images, pixels_NCHW.to(self._device), IMAGE_CHUNK)
        unit_ND = nn.functional.normalize(found_ND, dim=-1).cpu()
        if not unit_ND.isfinite().all():
            raise ValueError(f"{self.label} gave no finite embedding; try precision float32")
        return unit_ND

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit embedding_MD (float32, on the CPU); each distinct text is encoded once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        if new:
            tokens_M = self._towers.tokenize(new).to(self._device)
            found_MD = in_chunks(self._towers.encode_texts, tokens_M, TEXT_CHUNK)
            found_MD = nn.functional.normalize(found_MD, dim=-1).cpu()
            self._remembered.update(zip(new, found_MD, strict=True))
        embedding_MD = torch.stack([self._remembered[text] for text in texts])
        while len(self._remembered) > REMEMBERED_TEXTS:
            self._remembered.popitem(last=False)
        return embedding_MD


def in_chunks(apply: Callable[[Tensor], Tensor], rows_N: Tensor, size: int) -> Tensor:
    """Apply a network in chunks of one size, the last one padded: equal shapes, equal rounding."""
    n_rows = len(rows_N)
    padding = rows_N[-1:].expand(-n_rows % size, *rows_N.shape[1:])
    chunks = torch.cat([rows_N, padding]).split(size)
    return torch.cat([apply(chunk).float() for chunk in chunks])[:n_rows]
