"""How much a training stage does, and what it tells about it.

In: the working folder and a scale. Out: a `Work` that every stage of `pretrain` is given, and one
`<stage>.jsonl` of losses per stage.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Work:
    """Where a stage works and how much of its full work it does.

    Attributes:
        out: the working folder.
        scale: factor on steps and on sizes of pools; 1 is what the shipped weights were given.
        processes: how many share a stage that is cut into numbered parts.
    """

    out: Path
    scale: float = 1.0
    processes: int = 2

    @property
    def weights(self) -> Path:
        """Where the folders to be shipped are."""
        return self.out / "weights"

    def scaled(self, full: int, least: int = 1) -> int:
        """Return a number of steps or rows at this scale; a scale above 1 is taken as 1."""
        return min(full, max(least, round(full * self.scale)))


def one_cycle(optimizer: Any, peak: float | list[float], steps: int) -> Any:
    """A schedule that rises to the peak rate over a tenth of the steps, and falls to nearly 0."""
    from torch.optim.lr_scheduler import OneCycleLR

    rising = 0.1 if steps > 10 else 0.3  # a rise of exactly one step is a division by zero
    return OneCycleLR(optimizer, peak, total_steps=steps, pct_start=rising)


def log_minutes(
    out: Path, stages: list[str], began: tuple[float, float], ended: tuple[float, float]
) -> None:
    """Add a line to `minutes.log`: stages that ran side by side, and (wall, cores') seconds."""
    minutes, cores = ((end - start) / 60 for start, end in zip(began, ended, strict=True))
    line = {"stages": stages, "minutes": round(minutes, 2), "core_minutes": round(cores, 2)}
    with (out / "minutes.log").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{', '.join(stages)}: {minutes:.1f} min, {cores:.1f} core-min", flush=True)


class Log:
    """Losses to `<stage>.jsonl`, means of `every` steps, and a line of progress."""

    def __init__(self, out: Path, stage: str, steps: int, every: int = 50) -> None:
        self.file = (out / f"{stage}.jsonl").open("w")
        self.stage, self.steps, self.every, self.start = stage, steps, every, time.monotonic()
        self.losses: list[float] = []

    def after(self, done: int, step: int, loss: float) -> None:
        """Log a step of a later round, `done` steps being behind it."""
        self(done + step, loss)

    def __call__(self, step: int, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) < self.every and step + 1 < self.steps:
            return
        mean, seconds = sum(self.losses) / len(self.losses), time.monotonic() - self.start
        self.losses = []
        self.file.write(
            json.dumps({"step": step + 1, "loss": mean, "seconds": round(seconds)}) + "\n"
        )
        self.file.flush()
        print(f"{self.stage} {step + 1}/{self.steps} loss {mean:.4f} {seconds:.0f} s", flush=True)
