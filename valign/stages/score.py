"""score: images -> numbers. Every scorer sees every image; a shard is read and decoded once."""

from pathlib import Path
from typing import Any

import numpy as np

from valign.config import Run, Scorer
from valign.stages import images
from valign.stages.generate import pixels
from valign.stages.work import Shard, ShardReport, Work, cut
from valign.storage import layout, tables
from valign.storage.objects import open_store, resolve

UPSTREAM = ("generate",)


def perform(work: Work) -> dict[str, Any]:
    """Score every image that generate made; return what was counted."""
    rows = tables.rows(work.store, layout.plan("generate"))
    shards = cut(rows, work.run.generate.shard_rows)
    reports = work.carry_out("score", Worker, (work.run, work.root), shards)
    return {
        "images": sum(report.rows for report in reports),
        "scorers": [scorer.name for scorer in work.run.score.scorers],
        "failed": sum(report.quarantined for report in reports),
    }


class Worker:
    """Scores the images of one shard and writes a part per scorer; built once per process.

    Args:
        run: the run.
        root: URL of the run's root.
        source: prefix of the images' parts.
        prefix: prefix of the scores' parts.
    """

    def __init__(
        self, run: Run, root: str, source: str = "generate", prefix: str = "score"
    ) -> None:
        self.store = open_store(root)
        self.source, self.prefix = source, prefix
        self.batch_size = run.score.batch_size
        self.scorers = run.score.scorers
        self.group = load(run.score.scorers)

    def __call__(self, shard: Shard) -> ShardReport:
        """Read the shard's images, score them in batches, write one part per scorer."""
        table = tables.read(self.store, layout.part(self.source, shard.number), tables.IMAGES)
        data = table.to_pylist()
        columns: dict[str, list[Any]] = {}
        failed: set[str] = set()
        for start in range(0, len(data), self.batch_size):
            rows = data[start : start + self.batch_size]
            images_NHWC = np.stack([pixels(row["image"]["bytes"]) for row in rows])
            scored = self.group.score(images_NHWC, [images.prompt_of(row) for row in rows])
            for name, column in scored.items():
                values = np.asarray(column.values, np.float32).reshape(len(rows), -1)
                columns.setdefault(name, []).extend(values.tolist())
                columns.setdefault(f"{name}.error", []).extend(column.errors)
                failed |= {
                    row["image_id"] for row, error in zip(rows, column.errors, strict=True) if error
                }
        ids = [row["image_id"] for row in data]
        key = layout.part(self.prefix, shard.number)
        tables.write(self.store, key, {"image_id": ids, **columns}, tables.scores(columns))
        return ShardReport(shard.number, len(ids) - len(failed), len(failed))


def load(scorers: tuple[Scorer, ...]):  # type: ignore[no-untyped-def]
    """Return the scorer group of a recipe's scorers."""
    import torch

    from valign.models.scorers import ScorerRef, load_scorers

    refs = [
        ScorerRef(
            name=scorer.name,
            kind=scorer.kind,
            source=local_source(scorer.source),
            options={"classes": list(scorer.classes)} if scorer.classes else {},
        )
        for scorer in scorers
    ]
    return load_scorers(refs, device="cuda" if torch.cuda.is_available() else "cpu")


def local_source(source: str) -> str:
    """Return a local path for a URL or path; anything else is a name that models know."""
    known = "://" in source or source.startswith("package:") or Path(source).exists()
    return resolve(source) if known else source
