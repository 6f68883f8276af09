"""How weights move: AdamW's settings and the learning-rate schedules. No optimizer is made here."""

import math
from dataclasses import dataclass
from typing import get_args

from valign.train_settings import Schedule

SCHEDULES: tuple[str, ...] = get_args(Schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """How the weights move."""

    lr: float
    """Learning rate after warm-up."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises linearly from 0."""
    schedule: str = "constant"
    """After warm-up, as diffusers names it: constant, or linear or cosine down to 0."""
    total_steps: int = 0
    """Updates at whose end the linear or cosine schedule reaches 0; as many as the warm-up's, or
    fewer, are warm-up only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Upper bound of the gradient's norm over all trained weights; longer ones are scaled down."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        if self.schedule != "constant" and self.total_steps < 1:
            raise ValueError(f"a {self.schedule} schedule has to know its end: set total_steps")

    def lr_at(self, updates: int) -> float:
        """Return the learning rate of the update that follows `updates` earlier ones."""
        if updates < self.warmup_steps:
            return self.lr * updates / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        progress = (updates - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.schedule == "linear":
            return self.lr * max(0.0, 1 - progress)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
