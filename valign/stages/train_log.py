"""The training log: results as JSON lines under the root, times and samples for TensorBoard."""

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from valign.stages import journal
from valign.stages.image_files import pixels
from valign.stages.work import Work
from valign.storage import layout
from valign.storage.objects import Store

if TYPE_CHECKING:
    from valign.training.speed import Speed


class Log:
    """Keeps the rows of the training log and writes them under the root.

    `train/metrics.jsonl` holds results only and is the same in every run; times go to TensorBoard.
    """

    EVERY_S = 2.0

    def __init__(self, store: Store, speed: "Speed | None" = None) -> None:
        self.store = store
        self.speed = speed
        self.rows: list[dict[str, float]] = []
        self.times: list[dict[str, float]] = []
        self.written_s = time.monotonic()

    def resume(self, step: int) -> None:
        """Continue the log of an earlier process; rows past the resumed step are dropped."""
        if self.store.exists(layout.METRICS):
            self.rows = [row for row in read_metrics(self.store) if row["step"] <= step]

    def __call__(self, row: dict[str, float], times: dict[str, float]) -> None:
        """Take a row of results and one of times."""
        steps = int(row["step"] - self.rows[-1]["step"]) if self.rows else int(row["step"])
        seconds = steps * times["step_ms"] / 1000
        journal.note(
            "steps",
            root=self.store.url,
            stage="train",
            rank=0,
            step=int(row["step"]),
            steps=steps,
            seconds=round(seconds, 3),
            waited=round(seconds * times["data_wait_share"], 3),
            loss=row.get("loss"),
        )
        self.rows.append(row)
        speed = self.speed.of(times["samples_per_s"]) if self.speed else {}
        self.times.append({**row, **times, **speed})
        if time.monotonic() - self.written_s > self.EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what was taken so far."""
        lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in self.rows)
        self.store.write(layout.METRICS, lines.encode())
        self.written_s = time.monotonic()

    def close(self, samples: Mapping[int, str]) -> None:
        """Write everything, and what this process did as TensorBoard events.

        Args:
            samples: keys of the grids that it drew, by step.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.flush()
        with tempfile.TemporaryDirectory(prefix="valign-tensorboard-") as folder:
            with SummaryWriter(folder) as board:
                for row in self.times:
                    for name, value in row.items():
                        board.add_scalar(name, value, int(row["step"]))
                for step, key in samples.items():
                    grid_HWC = pixels(self.store.read(key))
                    board.add_image("samples", grid_HWC, step, dataformats="HWC")
            for file in sorted(Path(folder).iterdir()):
                self.store.write(f"{layout.TENSORBOARD}/{file.name}", file)


def read_metrics(store: Store) -> list[dict[str, float]]:
    """Return the rows of the training log."""
    return [json.loads(line) for line in store.read(layout.METRICS).splitlines()]


@contextlib.contextmanager
def watched(work: Work) -> Iterator[None]:
    """Tell of the training's progress, read from its log, while the workers train."""
    ended = threading.Event()
    total = work.run.train.steps

    def watch() -> None:
        while not ended.wait(Log.EVERY_S):
            if work.store.exists(layout.METRICS) and (rows := read_metrics(work.store)):
                work.tell("train", int(rows[-1]["step"]), total, "steps")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
