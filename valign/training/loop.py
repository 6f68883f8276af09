"""The training loop: batches in, weights and a log out.

It knows neither Ray nor storage: `save` and `log` are given. All that a resumed run needs besides
the weights and moments is named in `LoopState`.

Out of scope: making batches, computing losses, moving weights, keeping files.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from valign.training.any_engine import Engine, Exported
from valign.training.batch import Batch, Step, micro_steps
from valign.training.errors import Errors, Metrics

Objective = Callable[[Errors, Batch, int], tuple[Tensor, Metrics]]
"""Errors of this rank, its batch and the step -> its share of the loss and of the metrics."""
Save = Callable[["LoopState", Iterator[Exported]], None]
"""Called on every rank after a step whose number is due, and after the last one."""
Log = Callable[[dict[str, float], dict[str, float]], None]
"""Called on rank 0 with a row of results (the same in every run) and a row of times (not so)."""
Look = Callable[[], dict[str, float]]
"""Called on every rank at every save; what it returns joins the log's row."""
Draw = Callable[[int, Iterator[tuple[str, Tensor]]], None]
"""Called on every rank with a number of steps made and the weights, when samples are due."""
Skipped = Callable[[int], None]
"""Called on every rank with the number of a step that was left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """Where a run stands. With the exported weights and moments it resumes exactly.

    Order of the data and noise follow from `seed` and `step`; the learning rate from `updates`.
    """

    seed: int
    """Keys the order of the pairs and the noise."""
    global_batch: int
    """Pairs per step over all workers; step x global_batch is the position in the data."""
    step: int = 0
    """Steps made: the number of the next one."""
    updates: int = 0
    """Steps that changed the weights: position in the learning-rate schedule, and Adam's step."""
    skipped: int = 0
    """Steps left out because the loss or the gradient was not finite."""
    skipped_in_a_row: int = 0
    """How many of them were the last ones; a restart does not begin to count anew."""
    refreshed: int = 0
    """Updates made when the reference was last refreshed; 0 for never."""
    best_step: int = 0
    """Step of the save with the lowest held-out loss; 0 for none."""
    best_loss: float | None = None
    """That loss."""
    waited: int = 0
    """Saves since then."""
    stopped: bool = False
    """Whether the held-out loss ended the training before its last step."""

    def looked(self, loss: float, patience: int) -> "LoopState":
        """Return the state after a held-out loss; one that is no number is no improvement."""
        if math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss):
            return replace(self, best_step=self.step, best_loss=loss, waited=0)
        waited = self.waited + 1
        return replace(self, waited=waited, stopped=0 < patience <= waited)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How long to train and how often to look up."""

    steps: int
    """Number of the step to stop at; a resumed run counts its earlier steps."""
    save_every: int
    """Steps between saves."""
    log_every: int = 10
    """Steps averaged into one row of the log; a save ends a row early."""
    max_skips_in_a_row: int = 20
    """Stop with an error after so many steps in a row without a finite gradient."""
    micro_steps: int = 1
    """Parts that a worker's share of a step is cut into, one after the other, to save memory."""
    refresh_every: int = 0
    """Updates between copies of the policy into the reference; 0 for never."""
    draw_every: int = 0
    """Steps between samples; 0 for none."""
    patience: int = 0
    """Stop after so many saves in a row without a lower held-out loss; 0 for never."""

    def __post_init__(self) -> None:
        for name in ("steps", "save_every", "log_every", "max_skips_in_a_row", "micro_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("refresh_every", "draw_every", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")


def train(
    engine: Engine,
    batch_at: Callable[[int], Step],
    state: LoopState,
    *,
    objective: Objective,
    settings: LoopSettings,
    save: Save,
    log: Log,
    skipped: Skipped = lambda step: None,
    look: Look | None = None,
    draw: Draw | None = None,
) -> LoopState:
    """Train from a state to the last step and return the state reached.

    Every rank calls it with the same settings and its own `batch_at`. For a resumed run, restore
    the engine first. Rows of the log end at multiples of `log_every`, at saves and at the last
    step, so a resumed run writes the rows that the uninterrupted one would have written. The
    reference is refreshed between two steps, after every `refresh_every` updates of the weights.
    With `look`, which returns a `held_out_loss`, training may end before its last step. Samples are
    drawn before a save of the same step, so a run that resumes from there has had them.

    Raises:
        ValueError: the engine was not restored to `state`, or has no reference to refresh.
        FloatingPointError: too many steps in a row had no finite gradient.
    """
    _check(engine, state, settings)
    window = _Window(engine, state)
    while state.step < settings.steps and not state.stopped:
        began = time.perf_counter()
        parts = micro_steps(batch_at(state.step), settings.micro_steps)
        window.waited_s += time.perf_counter() - began
        lr = engine.lr
        norm, metrics = _one_step(engine, parts, objective, state.step)
        finite = math.isfinite(norm)
        if finite:
            window.add(metrics, norm=norm, lr=lr)
            if settings.refresh_every and engine.updates % settings.refresh_every == 0:
                engine.refresh_reference()
        else:
            skipped(state.step)
        state = replace(
            state,
            step=state.step + 1,
            updates=engine.updates,
            skipped=state.skipped + int(not finite),
            skipped_in_a_row=0 if finite else state.skipped_in_a_row + 1,
            refreshed=engine.refreshed,
        )
        if state.skipped_in_a_row >= settings.max_skips_in_a_row:
            raise FloatingPointError(
                f"{state.skipped_in_a_row} steps in a row up to step {state.step} had no finite "
                "gradient: lower the learning rate, and check the latents; the last save is still "
                "good"
            )
        due = state.step == settings.steps or state.step % settings.save_every == 0
        ends = due or state.step % settings.log_every == 0
        if ends:
            row, times = window.close(state)
            if due and look is not None:
                found = look()
                row |= found
                state = state.looked(found["held_out_loss"], settings.patience)
            if engine.rank == 0:
                log(row, times)
        if draw and settings.draw_every and state.step % settings.draw_every == 0:
            began = time.perf_counter()
            draw(state.step, engine.weights())
            window.paused_s += time.perf_counter() - began
        if due:
            save(state, engine.export())
        if ends:
            window = _Window(engine, state)
    return state


def _check(engine: Engine, state: LoopState, settings: LoopSettings) -> None:
    if engine.updates != state.updates:
        raise ValueError(
            f"the engine has made {engine.updates} updates, the state names {state.updates}: "
            "restore the engine from the checkpoint that the state came from"
        )
    if settings.refresh_every and not engine.refreshable:
        raise ValueError(
            "what trains here has no reference of its own that could be refreshed: set "
            "refresh_every to 0"
        )


def _one_step(
    engine: Engine, parts: list[Step], objective: Objective, step: int
) -> tuple[float, Metrics]:
    """Return the gradient's norm and the metrics of a step, made in one or several micro-steps."""
    sums: Metrics = {}
    for number, (batch, noise, t) in enumerate(parts, start=1):
        last = number == len(parts)
        loss, metrics = objective(engine.errors(batch, noise, t, last=last), batch, step)
        sums = {name: sums[name] + value for name, value in metrics.items()} if sums else metrics
        if not last:
            engine.accumulate(loss)
    return engine.step(loss), sums


class _Window:
    """Averages metrics over some steps without looking at them before the window closes."""

    def __init__(self, engine: Engine, state: LoopState) -> None:
        self.waited_s = self.paused_s = 0.0
        self._engine = engine
        self._first = state.step
        self._began = time.perf_counter()
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._count, self._norms, self._lr = 0, 0.0, 0.0

    def add(self, metrics: Metrics, *, norm: float, lr: float) -> None:
        """Add the metrics of one step."""
        values = torch.stack(list(metrics.values()))
        self._names = tuple(metrics)
        self._sums = values if self._sums is None else self._sums + values
        self._count += 1
        self._norms += norm
        self._lr = lr

    def close(self, state: LoopState) -> tuple[dict[str, float], dict[str, float]]:
        """Return means over the window and all ranks, and times."""
        seconds = time.perf_counter() - self._began - self.paused_s
        steps = state.step - self._first
        row: dict[str, float] = {"step": state.step, "skipped": state.skipped}
        if self._sums is not None:
            means = (self._engine.sum(self._sums) / self._count).tolist()
            row |= dict(zip(self._names, means, strict=True))
            row |= {"grad_norm": self._norms / self._count, "lr": self._lr}
        if self._engine.refreshable:
            row |= {"drift": self._engine.drift()}
            row |= {"steps_since_refresh": state.updates - state.refreshed}
        times = {
            "samples_per_s": steps * state.global_batch / seconds,
            "step_ms": 1000 * seconds / steps,
            "data_wait_share": self.waited_s / seconds,
        }
        return row, times
