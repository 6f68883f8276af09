"""What the UNet is conditioned on: contexts with masks, and how they are fed to it step by step.

In: text embeddings made elsewhere (`generator`, `value_encoder`). Out: the contexts of one UNet
call. No network is loaded or run here.

Shapes: B images, L context slots, D context width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Half(NamedTuple):
    """What one UNet call is conditioned on."""

    context_BLD: Tensor
    mask_BL: Tensor | None
    pooled_BP: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What a batch is conditioned on. A mask is True where a slot is seen; None sees all slots."""

    context_BLD: Tensor
    uncond_BLD: Tensor
    mask_BL: Tensor | None = None
    uncond_mask_BL: Tensor | None = None
    pooled_BP: Tensor | None = None  # SDXL's pooled text
    uncond_pooled_BP: Tensor | None = None
    truncated_B: tuple[bool, ...] = ()  # the prompt was longer than the text encoder reads
    plain: Half | None = None  # the same without a value token, where tokens count by strength_B
    strength_B: Tensor | None = None  # float32; 0 is without the token, 1 with it

    def __len__(self) -> int:
        return len(self.context_BLD)

    def take(self, rows: Sequence[int]) -> "Conditioning":
        """Return the conditioning of the given rows, in their order; rows may repeat."""
        index = torch.as_tensor(list(rows), dtype=torch.long, device=self.context_BLD.device)

        def some(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index]

        return replace(
            self,
            context_BLD=self.context_BLD[index],
            uncond_BLD=self.uncond_BLD[index],
            mask_BL=some(self.mask_BL),
            uncond_mask_BL=some(self.uncond_mask_BL),
            pooled_BP=some(self.pooled_BP),
            uncond_pooled_BP=some(self.uncond_pooled_BP),
            truncated_B=tuple(self.truncated_B[row] for row in rows) if self.truncated_B else (),
            plain=self.plain
            and Half(self.plain[0][index], some(self.plain[1]), some(self.plain[2])),
            strength_B=some(self.strength_B),
        )


def halves(cond: Conditioning, guidance: float, *, together: bool) -> list[Half]:
    """Return what the UNet is called with in each step.

    Args:
        cond: the batch's.
        guidance: at 1.0 only the conditional context is needed.
        together: one call of 2B rows, unconditional ones first, which fills a GPU better. Otherwise
            a conditional and an unconditional call of B rows, as fast on a CPU, where each context
            keeps its length.
    """
    conditional = Half(cond.context_BLD, cond.mask_BL, cond.pooled_BP)
    unconditional = Half(cond.uncond_BLD, cond.uncond_mask_BL, cond.uncond_pooled_BP)
    if guidance == 1:
        return [conditional]
    return [_join(unconditional, conditional)] if together else [conditional, unconditional]


def _join(first: Half, second: Half) -> Half:
    """Stack two contexts; if either has a mask or is shorter, its missing slots are masked."""
    n_slots = max(first.context_BLD.shape[1], second.context_BLD.shape[1])
    pooled = None
    if first.pooled_BP is not None and second.pooled_BP is not None:
        pooled = torch.cat([first.pooled_BP, second.pooled_BP])
    alike = first.context_BLD.shape == second.context_BLD.shape
    if first.mask_BL is None and second.mask_BL is None and alike:
        return Half(torch.cat([first.context_BLD, second.context_BLD]), None, pooled)
    contexts, masks = [], []
    for context, mask, _ in (first, second):
        seen = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        missing = n_slots - context.shape[1]
        contexts.append(nn.functional.pad(context, (0, 0, 0, missing)))
        masks.append(nn.functional.pad(seen if mask is None else mask, (0, missing)))
    return Half(torch.cat(contexts), torch.cat(masks), pooled)


@contextmanager
def projected_once(unet: nn.Module) -> Iterator[None]:
    """Within, project each context to cross-attention keys and values once, not in every step.

    A context stays the same through an image's steps, so this saves a sixth of a small UNet's work
    and changes no bit.
    """
    layers = [
        layer
        for name, layer in unet.named_modules()
        if name.endswith((".attn2.to_k", ".attn2.to_v"))
    ]
    for layer in layers:
        layer.forward = _remembering(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own again


def _remembering(project: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    # by identity; holding the context keeps its id from being given to another tensor
    known: dict[int, tuple[Tensor, Tensor]] = {}

    def once(context: Tensor) -> Tensor:
        if id(context) not in known:
            known[id(context)] = (context, project(context))
        return known[id(context)][1]

    return once
