"""The training log: results as JSON lines under the root, times for TensorBoard."""

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from valign.stages import journal
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

    def close(self) -> None:
        """Write everything, and what this process did as TensorBoard events."""
        from torch.utils.tensorboard import SummaryWriter

        self.flush()
        with tempfile.TemporaryDirectory(prefix="valign-tensorboard-") as folder:
            with SummaryWriter(folder) as board:
                for row in self.times:
                    for name, value in row.items():
                        board.add_scalar(name, value, int(row["step"]))
            for file in sorted(Path(folder).iterdir()):
                self.store.write(f"{layout.TENSORBOARD}/{file.name}", file)


def read_metrics(store: Store) -> list[dict[str, float]]:
    """Return the rows of the training log."""
    return [json.loads(line) for line in store.read(layout.METRICS).splitlines()]
