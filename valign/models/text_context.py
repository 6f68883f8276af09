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
        contexts, truncated, pooled_P = [], False, None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            slots = encoder.config.max_position_embeddings
            ids_1L = tokenizer(
                [text], padding="max_length", max_length=slots, truncation=True, return_tensors="pt"
            ).input_ids.to(encoder.device)
            truncated |= len(tokenizer(text).input_ids) > slots
            if len(self.encoders) == 1:
                contexts.append(encoder(ids_1L).last_hidden_state[0])
            else:
                output = encoder(ids_1L, output_hidden_states=True)
                contexts.append(output.hidden_states[-2][0])
                pooled_P = output.text_embeds[0] if "text_embeds" in output else None
        return EncodedText(torch.cat(contexts, dim=-1), pooled_P, truncated)
