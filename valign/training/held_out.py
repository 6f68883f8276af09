"""The loss on pairs that are not trained on, the same noise every time.

It is taken against the errors of the model that training began with, not against a reference that
is refreshed: right after a refresh any loss against that is the same. A resumed run measures those
errors again, on the engine as it was built and before its state is restored.

Out of scope: which pairs are held out (`stages.pair_arrays`), and what follows from the loss
(`loop`).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from valign.training.any_engine import Engine
from valign.training.batch import Step, micro_steps
from valign.training.loop import Objective

LOSS = "held_out_loss"
NAMES = {"loss": LOSS, "implicit_accuracy": "held_out_implicit_accuracy"}


class HeldOut:
    """Measures an engine's policy on some steps of pairs; every rank makes and calls one.

    Args:
        engine: at its first step: its weights are those that training began with.
        batch_at: this rank's part of each step.
        steps: how many of these are measured.
        objective: the one that is trained by.
        parts: what each is cut into, to save memory (see `micro_steps`).
    """

    def __init__(
        self,
        engine: Engine,
        batch_at: Callable[[int], Step],
        steps: int,
        objective: Objective,
        parts: int = 1,
    ) -> None:
        assert engine.updates == 0, "the engine has moved already"
        self._engine, self._batch_at, self._steps = engine, batch_at, steps
        self._objective, self._parts = objective, parts
        with torch.no_grad():
            self._base = [engine.errors(*part).reference for _, part in self._all()]

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Return the mean loss, and the implicit accuracy where the objective has one."""
        sums: dict[str, Tensor] = {}
        for (step, part), (base_w_B, base_l_B) in zip(self._all(), self._base, strict=True):
            errors = replace(
                self._engine.errors(*part), reference_w_B=base_w_B, reference_l_B=base_l_B
            )
            _, metrics = self._objective(errors, part[0], step)
            for name, value in metrics.items():
                if name in NAMES:
                    sums[name] = sums[name] + value if name in sums else value
        means = self._engine.sum(torch.stack(list(sums.values()))) / self._steps
        return {NAMES[name]: mean for name, mean in zip(sums, means.tolist(), strict=True)}

    def _all(self) -> Iterator[tuple[int, Step]]:
        """Yield every part of every step with the step's number; all ranks have as many."""
        for step in range(self._steps):
            for part in micro_steps(self._batch_at(step), self._parts):
                yield step, part
