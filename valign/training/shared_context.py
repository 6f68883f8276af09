"""Cross-attention that projects a step's prompts once: for w and l, for policy and reference.

The prompts are constants of a step. A plain UNet call per network would compute the same keys and
values four times per pair, and gradients for them that nobody wants; here only the value token's
are computed anew and differentiated. The UNet takes a `SharedContext` where it usually takes
a context tensor, and gives the same prediction to rounding.

Out of scope: self-attention, masks, and UNets of other families than Stable Diffusion 1.x.

Shapes: B pairs, M*B images (M of each pair, in M blocks of B), L prompt tokens, E added tokens,
D width of the context, H heads, N queries.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

# What other families' attention layers have and this one leaves out.
FOREIGN = (
    "spatial_norm",
    "group_norm",
    "norm_cross",
    "norm_q",
    "norm_k",
    "added_kv_proj_dim",
    "residual_connection",
)


class SharedContext:
    """The prompts of a step, with the keys and values that the UNet's layers made of them.

    Args:
        prompts_BLD: the prompts' embeddings, one per pair, without gradient.
    """

    def __init__(self, prompts_BLD: Tensor) -> None:
        assert not prompts_BLD.requires_grad
        self.prompts_BLD = prompts_BLD
        self.added_BED: Tensor | None = None
        self._known: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def plus(self, added_BED: Tensor) -> "SharedContext":
        """Return the context with added tokens; it shares what is known of the prompts."""
        context = SharedContext(self.prompts_BLD)
        context.added_BED, context._known = added_BED, self._known
        return context

    def keys_values(self, attention: Any) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values of prompts and added tokens, (B, H, L + E, D / H)."""
        if attention not in self._known:
            with torch.no_grad():
                self._known[attention] = _project(attention, self.prompts_BLD)
        if self.added_BED is None:
            return self._known[attention]
        added = _project(attention, self.added_BED)
        both = zip(self._known[attention], added, strict=True)
        key, value = (torch.cat(parts, dim=2) for parts in both)
        return key, value


class SharedContextAttention:
    """An attention processor (diffusers' term) that understands `SharedContext`.

    For any other context it does what the layer's processor did before, so a UNet that carries it
    is as usable as one that does not.
    """

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | SharedContext | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend from the images' hidden states (M*B, N, width) to the context."""
        if not isinstance(encoder_hidden_states, SharedContext):
            return self.before(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        assert attention_mask is None, "a shared context has no mask"
        key, value = encoder_hidden_states.keys_values(attn)
        pairs, images = len(key), len(hidden_states) // len(key)
        query = _split(attn.to_q(hidden_states), attn.heads).unflatten(0, (images, pairs))
        # The images of a pair side by side, so that they share one set of keys.
        query = query.permute(1, 2, 0, 3, 4).flatten(2, 3)
        seen = scaled_dot_product_attention(query, key, value).unflatten(2, (images, -1))
        seen = seen.permute(2, 0, 3, 1, 4).flatten(3).flatten(0, 1)
        out: Tensor = attn.to_out[0](seen) / attn.rescale_output_factor
        return out


def share_context(unet: nn.Module) -> nn.Module:
    """Teach a UNet's cross-attention layers to take a `SharedContext`; return the UNet.

    Raises:
        ValueError: the UNet has no cross-attention, or one of another family.
    """
    layers: list[Any] = [m for m in unet.modules() if getattr(m, "is_cross_attention", False)]
    for layer in layers:
        foreign = [name for name in FOREIGN if getattr(layer, name, None)]
        if foreign:
            raise ValueError(
                f"the UNet's cross-attention has {', '.join(foreign)}: LiVO needs a generator of "
                "the Stable Diffusion 1.x family"
            )
        if not isinstance(layer.processor, SharedContextAttention):
            layer.set_processor(SharedContextAttention(layer.processor))
    if not layers:
        raise ValueError("the UNet has no cross-attention, so a value token cannot reach it")
    return unet


def _project(attention: Any, context_BLD: Tensor) -> tuple[Tensor, Tensor]:
    key, value = attention.to_k(context_BLD), attention.to_v(context_BLD)
    return _split(key, attention.heads), _split(value, attention.heads)


def _split(projected: Tensor, heads: int) -> Tensor:
    """(rows, length, width) -> (rows, heads, length, width / heads)."""
    return projected.unflatten(-1, (heads, -1)).transpose(1, 2)
