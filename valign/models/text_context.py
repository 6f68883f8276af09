"""Texts to what the UNet is conditioned on, with the one or two text encoders of a pipeline.

In: a text. Out: the context that cross-attention reads and, for SDXL, the pooled text. Stable
Diffusion 1.x and 2.x take the text encoder's last hidden state; SDXL takes the last but one of each
of its two, side by side, and the second one's projected pooled output (Podell et al. 2023).

Shapes: L context slots (77), D context width, P width of the pooled text.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REMEMBERED_TEXTS = 512


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One text, encoded."""

    context_LD: Tensor
    pooled_P: Tensor | None  # SDXL only
    truncated: bool  # it was longer than the text encoder reads


class TextContext:
    """Encodes every distinct text once and alone, and remembers the latest.

    So a text's context never depends on what else is asked for.

    Args:
        tokenizers: transformers CLIPTokenizers, one per text encoder.
        encoders: a CLIPTextModel; or, for SDXL, that and a CLIPTextModelWithProjection.
        zero_empty: an empty negative prompt is zeros, as SDXL was trained.
    """

    def __init__(
        self, tokenizers: Sequence[Any], encoders: Sequence[Any], *, zero_empty: bool = False
    ) -> None:
        self.tokenizers = tuple(tokenizers)
        self.encoders = tuple(encoders)
        self.zero_empty = zero_empty
        self._remembered: OrderedDict[str, EncodedText] = OrderedDict()

    def negative(self, text: str) -> EncodedText:
        """Encode a negative prompt."""
        encoded = self(text)
        if text or not self.zero_empty or encoded.pooled_P is None:
            return encoded
        zeros = torch.zeros_like(encoded.context_LD), torch.zeros_like(encoded.pooled_P)
        return EncodedText(*zeros, truncated=False)

    def forget(self) -> None:
        """Forget what was encoded: the encoders have other weights now."""
        self._remembered.clear()

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """Return ids_NEL (int64) of texts for each text encoder, padded or cut to its slots."""
        ids = [
            tokenizer(
                list(texts),
                padding="max_length",
                max_length=encoder.config.max_position_embeddings,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True)
        ]
        return torch.stack(ids, dim=1)

    @torch.no_grad()  # not inference_mode: what comes out may be trained on
    def __call__(self, text: str) -> EncodedText:
        """Encode a text; what does not fit the encoder's slots is cut off at its end."""
        if text in self._remembered:
            self._remembered.move_to_end(text)
            return self._remembered[text]
        encoded = self._encode(text)
        self._remembered[text] = encoded
        if len(self._remembered) > REMEMBERED_TEXTS:
            self._remembered.popitem(last=False)
        return encoded

    def _encode(self, text: str) -> EncodedText:
        truncated = any(
            len(tokenizer(text).input_ids) > encoder.config.max_position_embeddings
            for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True)
        )
        ids_1EL = self.token_ids([text])
        ids = [
            ids_1L.to(encoder.device)
            for ids_1L, encoder in zip(ids_1EL.unbind(dim=1), self.encoders, strict=True)
        ]
        context_1LD, pooled_1P = encode_ids(self.encoders, ids)
        pooled_P = None if pooled_1P is None else pooled_1P[0]
        return EncodedText(context_1LD[0], pooled_P, truncated)


def encode_ids(encoders: Sequence[Any], ids: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return context_BLD and, of two encoders, pooled_BP of token ids.

    Args:
        encoders: as `TextContext` takes them.
        ids: ids_BL for each of them.
    """
    if len(encoders) == 1:
        return encoders[0](ids[0]).last_hidden_state, None
    contexts, pooled_BP = [], None
    for encoder, ids_BL in zip(encoders, ids, strict=True):
        output = encoder(ids_BL, output_hidden_states=True)
        contexts.append(output.hidden_states[-2])
        pooled_BP = output.text_embeds if "text_embeds" in output else None
    return torch.cat(contexts, dim=-1), pooled_BP
