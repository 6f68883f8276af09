"""Train the text encoder alone: its end-of-text vector learns to say what a caption means.

In: captions of the grammar with their meanings. Out: a transformers `CLIPTextModel` whose pooled
vector (the last hidden state at end-of-text) linearly encodes the whole meaning, and which
principle's sentence is beside the caption, and whose padding states are nearly constant. So a UNet
trained on the frozen states finds the scene in one place, and a second pooled vector beside it
(LiVO's value token) speaks the same language and starts out different for each principle.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from valign.catalogue.principles import PRINCIPLES
from valign.miniature.captions import Caption, sample
from valign.miniature.progress import one_cycle

# B batch, L tokens, D width, F fields

CLASSES = {  # field of Meaning -> number of classes, the first of which is "not stated" (-1)
    "person": 3, "gender": 3, "race": 6, "glyph": 21, "colour": 9, "frame": 5, "fill": 3,
    "thing": 7, "thing_colour": 5, "setting": 9, "style": 5,
    "nudity": 3, "bloody": 3, "horror": 3, "poor": 3, "empty": 3,
}  # fmt: skip
FIELDS = CLASSES | {"principle": 1 + len(PRINCIPLES)}  # what is read from a caption
WIDTH = 128
POSITIONS = 77


def build(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def targets(captions: list[Caption]) -> Tensor:
    """Class indices, int64 (B, F), in the order of FIELDS."""
    meant = [[getattr(c.meaning, name) for name in CLASSES] + [c.principle] for c in captions]
    return torch.tensor(meant) + 1


def token_ids(tokenizer: Any, texts: list[str], length: int = POSITIONS) -> Tensor:
    """Padded and truncated ids, int64 (B, length)."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length)
    return torch.tensor(encoded["input_ids"])


class Heads(nn.Module):
    """Linear readers of the fields from a pooled vector; thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, sum(FIELDS.values()))

    def forward(self, pooled_BD: Tensor) -> list[Tensor]:
        return list(self.linear(pooled_BD).split(list(FIELDS.values()), dim=-1))


def _meaning_loss(logits_F: list[Tensor], targets_BF: Tensor) -> Tensor:
    losses = [nn.functional.cross_entropy(x, targets_BF[:, i]) for i, x in enumerate(logits_F)]
    return torch.stack(losses).sum()


def accuracy(
    encoder: Any, heads: Heads, tokenizer: Any, *, captions: int, seed: int
) -> dict[str, float]:
    """Share of fresh captions whose fields are read right, per field and "all"."""
    rng = np.random.default_rng(seed)
    batch = [sample(rng) for _ in range(captions)]
    with torch.no_grad():
        pooled_BD = encoder(token_ids(tokenizer, [c.text for c in batch])).pooler_output
        right_BF = torch.stack([x.argmax(-1) for x in heads(pooled_BD)], 1) == targets(batch)
    return dict(zip(FIELDS, right_BF.float().mean(0).tolist(), strict=True)) | {
        "all": float(right_BF.all(1).float().mean())
    }


def train(
    encoder: Any,
    heads: Heads,
    tokenizer: Any,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    log: Callable[[int, float], None],
) -> None:
    """One-cycle AdamW on fresh captions, in place. `log(step, loss)` is called each step.

    Sequences are cut to the longest caption and a few pads (the encoder is causal, so this changes
    nothing before the cut); every eighth batch is a small one of full length, for the positions.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    blank = nn.Parameter(torch.zeros(WIDTH))  # what every padding state should look like
    parameters = [*encoder.parameters(), *heads.parameters(), blank]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = one_cycle(optimizer, lr, steps)
    for step in range(steps):
        full = step % 8 == 7
        captions = [sample(rng) for _ in range(batch // 4 if full else batch)]
        ids_BL = token_ids(tokenizer, [c.text for c in captions])
        if not full:
            longest = int((ids_BL != tokenizer.pad_token_id).sum(1).max())
            ids_BL = ids_BL[:, : min(POSITIONS, longest + 3)]
        output = encoder(ids_BL)
        pads = output.last_hidden_state[ids_BL == tokenizer.pad_token_id]
        loss = _meaning_loss(heads(output.pooler_output), targets(captions))
        total = loss + 2.0 * (pads - blank).square().mean()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        log(step, loss.item())
