"""Checkpoints of a training in progress: written by a thread, so that training goes on meanwhile.

In: the loop's state and the engine's export. Out: checkpoints under `train/`, and back.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.storage import checkpoints
from valign.storage.objects import Store

if TYPE_CHECKING:
    from valign.training.any_engine import Exported

KINDS = ("value", "exp_avg", "exp_avg_sq", "reference", "ema")


class Saver:
    """Saves one checkpoint at a time; an error of the last one is raised by the next call."""

    def __init__(self, store: Store, keep_last: int) -> None:
        self.store = store
        self.keep_last = keep_last
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def save(self, step: int, exported: "Iterator[Exported]", loop: Mapping[str, Any]) -> None:
        """Wait for the save before this one, copy the state, and begin to write it."""
        self.wait()
        tensors = _tensors(exported)
        self._last = self._thread.submit(
            checkpoints.save,
            self.store,
            "train",
            step,
            tensors,
            dict(loop),
            keep_last=self.keep_last,
            keep=(loop["best_step"],),
        )

    def wait(self) -> None:
        """Return when everything is saved, or raise what went wrong."""
        if self._last is not None:
            self._last.result()
            self._last = None


def exported(tensors: "Mapping[str, np.ndarray]") -> "Iterator[Exported]":
    """Yield a checkpoint's tensors as an engine restores them."""
    import torch

    from valign.training.any_engine import Exported

    for name in (key.removeprefix("value/") for key in tensors if key.startswith("value/")):
        found = {
            kind: torch.from_numpy(tensors[f"{kind}/{name}"])
            for kind in KINDS
            if f"{kind}/{name}" in tensors
        }
        yield Exported(name, **found)


def _tensors(exported: "Iterator[Exported]") -> dict[str, np.ndarray]:
    tensors = {}
    for entry in exported:
        for kind in KINDS:
            if (value := getattr(entry, kind)) is not None:
                tensors[f"{kind}/{entry.name}"] = value.numpy()
    return tensors
