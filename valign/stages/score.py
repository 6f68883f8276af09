"""score: images -> numbers. Every scorer sees every image; a shard is read and decoded once."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.catalogue.principles import PRINCIPLES
from valign.config import Run
from valign.settings import Scorer
from valign.stages import images
from valign.stages.device import prepare
from valign.stages.generate import pixels
from valign.stages.scores import Scores, read_scores
from valign.stages.work import Shard, ShardReport, Work
from valign.storage import layout, tables
from valign.storage.objects import open_store, resolve

if TYPE_CHECKING:
    from valign.models.scorers import ScorerGroup

UPSTREAM = ("generate",)
CLIP_SCORE = "clip_score"  # the column that evaluation reads


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    return {
        f"the weights of scorer {n}": f for n, f in load(run.score.scorers).fingerprints.items()
    }


def check(run: Run) -> None:
    """Make sure before any work that the recipe's scorers give what later stages read.

    Raises:
        ValueError: a principle or the CLIP score has no scorer.
    """
    given = load(run.score.scorers).columns
    missing = [name for name in (*run.generate.principles, CLIP_SCORE) if name not in given]
    if missing:
        raise ValueError(
            f"no scorer of the recipe gives {', '.join(missing)}; they give "
            f"{', '.join(given) or 'nothing'}. Add scorers under score.scorers (the CLIP scorer "
            "must be named clip), or choose other generate.principles."
        )


def perform(work: Work) -> dict[str, Any]:
    """Score every image that generate made; return what was counted."""
    shards = images.shards(work.store, "generate", work.run.generate.shard_rows)
    reports = work.carry_out("score", Worker, (work.run, work.root), shards)
    return {
        "images": sum(report.rows for report in reports),
        "failed": sum(report.quarantined for report in reports),
        "columns": columns_summary(read_scores(work.store)),
    }


def columns_summary(scores: Scores) -> dict[str, dict[str, Any]]:
    """Return, per score, its mean per class, lowest and highest value, and how many are missing."""
    summary = {}
    for name, values_NK in scores.scored.items():
        readable = values_NK[~np.isnan(values_NK).any(axis=1)].astype(np.float64)
        summary[name] = {
            "unreadable": len(values_NK) - len(readable),
            "mean": [round(float(mean), 6) for mean in readable.mean(axis=0)]
            if len(readable)
            else [],
            "low": round(float(readable.min()), 6) if len(readable) else None,
            "high": round(float(readable.max()), 6) if len(readable) else None,
        }
    return summary


def details(counts: dict[str, Any]) -> list[str]:
    """Return a line per score."""
    lines = []
    for name, column in counts["columns"].items():
        mean = ", ".join(f"{value:.3f}" for value in column["mean"])
        span = f" · from {column['low']:.3f} to {column['high']:.3f}" if mean else ""
        missing = f" · no value for {column['unreadable']:,}" if column["unreadable"] else ""
        lines.append(f"  {name}: mean {mean or 'none'}{span}{missing}")
    return lines


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
        table = tables.read(self.store, shard.part(self.source), tables.IMAGES)
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
        scores = len(ids) * sum(not name.endswith(".error") for name in columns)
        return ShardReport(shard.number, len(ids) - len(failed), len(failed), scores)


@functools.cache
def load(scorers: tuple[Scorer, ...]) -> "ScorerGroup":
    """Return the scorer group of a recipe's scorers.

    Raises:
        ValueError: a scorer does not load, or lists a principle's classes in another order.
    """
    from valign.models.scorers import ScorerRef, load_scorers

    for scorer in scorers:
        principle = PRINCIPLES.get(scorer.name)
        if principle and scorer.kind == "zero_shot" and scorer.classes != principle.attributes:
            raise ValueError(
                f"the scorer {scorer.name} must list the classes {list(principle.attributes)} in "
                f"this order, not {list(scorer.classes)}: labels are read by their place"
            )
    refs = [
        ScorerRef(
            name=scorer.name,
            kind=scorer.kind,
            source=local_source(scorer.source),
            options={"classes": list(scorer.classes)} if scorer.classes else {},
        )
        for scorer in scorers
    ]
    return load_scorers(refs, device=prepare())


def local_source(source: str) -> str:
    """Return a local path for a URL or path; anything else is a name that models know."""
    if not source:
        return ""
    known = "://" in source or source.startswith("package:") or Path(source).exists()
    return resolve(source) if known else source
