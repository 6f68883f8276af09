"""What one step trains on, and how it is cut into micro-steps.

Shapes: B pairs of this rank, C channels, H x W latent pixels, L tokens, D width of the context,
P width of SDXL's pooled text, E text encoders, K voters.
"""

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of a global batch, ready for the policy."""

    latents_w_BCHW: Tensor
    """Scaled VAE latents of the preferred images, float32."""
    latents_l_BCHW: Tensor
    """Scaled VAE latents of the dispreferred images, float32."""
    context_BLD: Tensor
    """Prompt embeddings padded to the text encoder's length, float32."""
    value_ids_BL: Tensor | None = None
    """Token ids of "{principle}, {prompt}" for the value encoder, int64; padding that all rows
    share is cut (see `batches.unpadded_lengths`)."""
    pooled_BP: Tensor | None = None
    """SDXL's pooled prompt embeddings, float32."""
    prompt_ids_BEL: Tensor | None = None
    """The prompts' token ids for each text encoder, int64; where the text encoders train."""
    ballots_BK: Tensor | None = None
    """+1 where a voter prefers w, -1 where it prefers l, 0 where it abstains, int8."""
    decided_K: Tensor | None = None
    """Number of the *global* batch's ballots that are no abstentions, int64."""

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        return Batch(**{n: t.to(device, non_blocking=True) for n, t in self._tensors().items()})

    def rows(self, part: slice) -> "Batch":
        """Return some of the pairs; what is counted over the global batch stays as it is."""
        return Batch(**{n: t if n == "decided_K" else t[part] for n, t in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


Step = tuple[Batch, Tensor, Tensor]
"""What a step trains on: the batch, noise_BCHW and t_B."""


def micro_steps(step: Step, number: int) -> list[Step]:
    """Cut a step into consecutive micro-steps that differ by at most one pair.

    Args:
        step: this rank's.
        number: of micro-steps, the same on every rank.

    Raises:
        ValueError: there are more micro-steps than pairs.
    """
    batch, noise_BCHW, t_B = step
    size = len(t_B)
    if number > size:
        raise ValueError(
            f"{number} micro-steps for a worker's {size} pairs of a step: accumulate over fewer "
            "micro-steps or raise the global batch"
        )
    cuts = [index * size // number for index in range(number + 1)]
    parts = [slice(start, stop) for start, stop in pairwise(cuts)]
    return [(batch.rows(part), noise_BCHW[part], t_B[part]) for part in parts]
