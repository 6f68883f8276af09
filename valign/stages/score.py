"""score: images -> numbers. Every scorer sees every image; a shard is read and decoded once."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from valign.catalogue.principles import PRINCIPLES, TOXICITY
from valign.config import Run
from valign.settings import Scorer
from valign.stages import images
from valign.stages.device import prepare
from valign.stages.image_files import pixels
from valign.stages.scores import Scores, read_scores
from valign.stages.work import Shard, ShardReport, Work
from valign.storage import layout, tables
from valign.storage.objects import open_store, resolve

if TYPE_CHECKING:
    from valign.models.score_columns import ScorerInfo
    from valign.models.scorer_group import Prepared, ScorerGroup

T = TypeVar("T")
U = TypeVar("U")

CLIP_SCORE = "clip_score"  # the column that evaluation reads
CLIP_METRIC = "clip_l14"  # a scorer of this name, if there is one, is the metric
ASKED = ("llava", "zero_shot_toxicity")  # kinds that look for content named by a word


def upstream(run: Run) -> tuple[str, ...]:
    """Return the stages that must be finished first."""
    return ("generate",)


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    about = describe(run.score.scorers)
    return {f"the weights of scorer {name}": info.fingerprint for name, info in about.items()}


def check(run: Run) -> None:
    """Make sure before any work that the recipe's scorers give what later stages read.

    Raises:
        ValueError: a principle, the CLIP score or a voter has no scorer.
    """
    about = describe(run.score.scorers).values()
    scored = {name: 0 for info in about for name in info.columns}
    own = run.prompts == "catalogue" and not run.imports.source
    read = [*run.generate.principles, CLIP_SCORE] if own else []
    given = with_clip_metric(scored)
    missing = [name for name in read if name not in given]
    if run.label.rule != "livo":
        vote = run.label.vote
        voting = [voter.name for voter in vote.voters] + [vote.human] * bool(vote.human)
        missing += [name for name in voting if name not in scored]
    if missing:
        raise ValueError(
            f"no scorer of the recipe gives {', '.join(missing)}; they give "
            f"{', '.join(given) or 'nothing'}. Add scorers under score.scorers (the CLIP scorer "
            f"must be named clip or {CLIP_METRIC}), or choose other generate.principles "
            "or label.vote.voters."
        )


def with_clip_metric(columns: dict[str, T]) -> dict[str, T]:
    """Return columns with the CLIP score under the name that evaluation reads."""
    names = {f"{CLIP_METRIC}_score{end}": f"{CLIP_SCORE}{end}" for end in ("", "_cleaned")}
    return columns | {new: columns[old] for old, new in names.items() if old in columns}


def perform(work: Work) -> dict[str, Any]:
    """Score every image that generate made; return what was counted."""
    shards = images.shards(work.store, "generate", work.run.generate.shard_rows)
    args = (work.run, work.root, "generate", "score", about(work.run))
    reports = work.carry_out("score", Worker, args, shards)
    return {
        "images": sum(report.rows for report in reports),
        "failed": sum(report.quarantined for report in reports),
        "columns": columns_summary(read_scores(work.store)),
        "scorers": json.loads(about(work.run)),
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
    """Scores the images of one shard and writes their part; built once per process.

    Args:
        run: the run.
        root: URL of the run's root.
        source: prefix of the images' parts.
        prefix: prefix of the scores' parts.
        scorers: what gives the scores (JSON), kept in every part.
    """

    def __init__(
        self,
        run: Run,
        root: str,
        source: str = "generate",
        prefix: str = "score",
        scorers: str = "",
    ) -> None:
        self.store = open_store(root)
        self.source, self.prefix, self.scorers = source, prefix, scorers
        self.batch_size = run.score.batch_size
        self.group = load(run.score.scorers)

    def __call__(self, shard: Shard) -> ShardReport:
        """Score the shard's images in batches, each decoded while the one before is scored."""
        data = tables.read(self.store, shard.part(self.source), tables.IMAGES).to_pylist()
        starts = range(0, len(data), self.batch_size)
        batches = [data[start : start + self.batch_size] for start in starts]
        columns: dict[str, list[Any]] = {}
        failed: set[str] = set()
        for rows, decoded in zip(batches, ahead(self.decode, batches), strict=True):
            for name, (values_NK, errors) in self.score(rows, decoded).items():
                columns.setdefault(name, []).extend(values_NK.tolist())
                columns.setdefault(f"{name}.error", []).extend(errors)
                failed |= {r["image_id"] for r, why in zip(rows, errors, strict=True) if why}
        ids = [row["image_id"] for row in data]
        key = layout.part(self.prefix, shard.number)
        schema = tables.scores(columns, self.scorers)
        tables.write(self.store, key, {"image_id": ids, **columns}, schema)
        scores = len(ids) * sum(not name.endswith(".error") for name in columns)
        return ShardReport(shard.number, len(ids) - len(failed), len(failed), scores)

    def decode(self, rows: list[dict[str, Any]]) -> "Decoded":
        """Decode the images of rows and prepare them for the networks, by size."""
        by_size: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
        broken = {}
        for place, row in enumerate(rows):
            try:
                image_HWC = pixels(row["image"]["bytes"])
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                broken[place] = f"the image cannot be decoded: {error}"
                continue
            by_size.setdefault(image_HWC.shape, {})[place] = image_HWC
        groups = [
            (list(found), self.group.prepare(np.stack(list(found.values()))))
            for found in by_size.values()
        ]
        return Decoded(groups, broken)

    def score(
        self, rows: list[dict[str, Any]], decoded: "Decoded"
    ) -> dict[str, tuple[np.ndarray, list[str | None]]]:
        """Return each column's values (N, K) and errors, in the order of the rows."""
        columns: dict[str, tuple[np.ndarray, list[str | None]]] = {
            name: (
                np.full((len(rows), max(1, len(info.classes))), np.nan, np.float32),
                [decoded.broken.get(place) for place in range(len(rows))],
            )
            for name, info in self.group.columns.items()
        }
        for places, prepared in decoded.groups:
            prompts = [images.prompt_of(rows[place]) for place in places]
            for name, column in self.group.score(prepared, prompts).items():
                values_NK, errors = columns[name]
                values_NK[places] = np.asarray(column.values).reshape(len(places), -1)
                for place, error in zip(places, column.errors, strict=True):
                    errors[place] = error
        return columns


@dataclass(frozen=True, slots=True)
class Decoded:
    """The images of some rows: places and images of each size, and why others are broken."""

    groups: list[tuple[list[int], "Prepared"]]
    broken: dict[int, str]


def ahead(make: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """Yield what `make` gives for each item, made on a thread while the one before is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = [thread.submit(make, item) for item in items[:1]]
        for following in range(1, len(items) + 1):
            made = coming.pop().result()
            if following < len(items):
                coming.append(thread.submit(make, items[following]))
            yield made


@functools.cache
def describe(scorers: tuple[Scorer, ...]) -> "dict[str, ScorerInfo]":
    """Return what each scorer of a recipe is, by name; nothing stays loaded."""
    return _load(scorers, "cpu").about()


def about(run: Run) -> str:
    """Return what each scorer of a run is, as JSON."""
    found = describe(run.score.scorers)
    return json.dumps({name: asdict(info) for name, info in found.items()}, sort_keys=True)


@functools.cache
def load(scorers: tuple[Scorer, ...]) -> "ScorerGroup":
    """Return the scorer group of a recipe's scorers on this process's device; it stays loaded.

    Raises:
        ValueError: a scorer does not load, or lists a principle's classes in another order.
    """
    return _load(scorers, prepare())


def _load(scorers: tuple[Scorer, ...], device: str) -> "ScorerGroup":
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
            options=_options(scorer),
        )
        for scorer in scorers
    ]
    return load_scorers(refs, device=device)


def _options(scorer: Scorer) -> dict[str, Any]:
    """Return what a scorer is loaded with, besides its source; defaults are left to its kind."""
    options = dict(scorer.options)
    if scorer.kind in ASKED and "classes" not in options:
        asked = scorer.classes or TOXICITY
        options["classes"] = {k: PRINCIPLES[k].question if k in PRINCIPLES else k for k in asked}
    elif scorer.classes:
        options["classes"] = list(scorer.classes)
    if scorer.clip:
        options["clip"] = local_source(scorer.clip)
    if scorer.precision != "float32":
        options["precision"] = scorer.precision
    return options


def local_source(source: str) -> str:
    """Return a local path for a URL or path; anything else is a name that models know."""
    if not source:
        return ""
    architecture, _, weights = source.partition(":")
    if "://" in weights:  # architecture:URL, which open_clip reads as architecture:file
        return f"{architecture}:{resolve(weights)}"
    known = "://" in source or source.startswith("package:") or Path(source).exists()
    return resolve(source) if known else source
