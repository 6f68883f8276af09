"""The vocabulary of stages: shards, reports, who carries the work, and how progress is told.

A sharded stage cuts its work into numbered shards. A worker is built once per process and called
with one shard at a time; it writes the shard's part itself and returns a small report, so images
never pass through the driver. `Work.carry_out` skips shards that are done, turns a shard that keeps
killing its process into a named error, and collects the reports. It knows nothing of Ray: a
`Runner` (inline or on a cluster) moves shards to workers.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from valign.config import Run
from valign.stages import journal
from valign.storage import layout, traffic
from valign.storage.objects import Store, open_store

MARKER_VERSION = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows `start` up to `stop` of a stage's plan; all of them are of toxic prompts, or none."""

    number: int
    start: int
    stop: int
    toxic: bool = False

    def part(self, prefix: str) -> str:
        """Return the key of the part that holds this shard's images, or what shows them."""
        return layout.part(layout.toxic(prefix) if self.toxic else prefix, self.number)


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a worker did with a shard; saved beside the part as the shard's marker."""

    number: int
    rows: int
    quarantined: int = 0
    scores: int = 0  # one per row and score

    def to_json(self) -> bytes:
        """Return the marker's file."""
        tree = {"schema_version": MARKER_VERSION, **asdict(self)}
        return json.dumps(tree, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "ShardReport":
        """Return the report of a marker's file.

        Raises:
            ValueError: the file is of another schema version.
        """
        tree = json.loads(data)
        if (found := tree.pop("schema_version", None)) != MARKER_VERSION:
            raise ValueError(
                f"a shard's marker of schema version {found} was found; this version of valign "
                f"reads {MARKER_VERSION}: use another root, or the version that made this one"
            )
        return cls(**tree)


class ShardWorker(Protocol):
    """Built once per process with the arguments given to `carry_out`, then called per shard."""

    def __call__(self, shard: Shard) -> ShardReport: ...


class Runner(Protocol):
    """Carries work to where it is done."""

    def map_shards(
        self,
        worker: Callable[..., ShardWorker],
        args: tuple[Any, ...],
        shards: Sequence[Shard],
        *,
        prefix: str,
        pool: str,
    ) -> Iterator[ShardReport]:
        """Yield the report of each shard, in the order in which they finish.

        Args:
            worker: makes a worker of `args`, once per process.
            args: its arguments.
            shards: what to do.
            prefix: where the shards' parts go: what this work is called in metrics.
            pool: name of the pool in `resources` whose workers do it.
        """

    def launch(self, function: Callable[..., None], args: tuple[Any, ...], workers: int) -> None:
        """Run `function(*args)` on `workers` processes that share a torch process group."""


Tell = Callable[[str, int, int, str], None]
"""Called with (what, done, total, unit) whenever something was finished."""


@dataclass(frozen=True)
class Work:
    """All that a stage needs to be performed."""

    run: Run
    root: str
    store: Store
    runner: Runner
    tell: Tell

    def carry_out(
        self,
        prefix: str,
        worker: Callable[..., ShardWorker],
        args: tuple[Any, ...],
        shards: Sequence[Shard],
        unit: str = "images",
        pool: str | None = None,
        lost: int = 0,
    ) -> list[ShardReport]:
        """Have every shard under `prefix` done once; return all reports in shard order.

        Args:
            prefix: where the shards' parts and markers go.
            worker: makes a worker of `args`, once per process.
            args: its arguments.
            shards: all shards of the work, also those that are done.
            unit: what the rows of a shard are called when progress is told.
            pool: name of the pool in `resources` whose workers do it; default: the prefix.
            lost: rows that could not even be planned, and count as bad ones.

        Raises:
            ValueError: more rows are bad than `resources.max_bad_fraction` allows.
            RuntimeError: a shard ended its process too often; it names the shard and its rows.
        """
        done = _finished(self.store, prefix)
        todo = [shard for shard in shards if shard.number not in done]
        for key in list(self.store.list(layout.attempts(prefix))):
            self.store.delete(key)
        sizes = {shard.number: shard.stop - shard.start for shard in shards}
        total = sum(sizes.values())
        rows = sum(sizes[number] for number in done)
        self.tell(prefix, rows, total, unit)
        bad = lost + sum(report.quarantined for report in done.values())
        self._check_bad(prefix, bad, lost + total, unit)
        if todo:
            call = (worker, args, self.root, prefix, self.run.resources.max_attempts)
            for report in self.runner.map_shards(
                _Attempt, call, todo, prefix=prefix, pool=pool or prefix
            ):
                done[report.number] = report
                rows += sizes[report.number]
                self.tell(prefix, rows, total, unit)
                bad += report.quarantined
                self._check_bad(prefix, bad, lost + total, unit)
        for key in list(self.store.list(layout.attempts(prefix))):
            self.store.delete(key)
        return [done[shard.number] for shard in shards]

    def _check_bad(self, prefix: str, bad: int, total: int, unit: str) -> None:
        allowed = self.run.resources.max_bad_fraction
        if bad > allowed * total:
            raise ValueError(
                f"{prefix}: {bad:,} of {total:,} {unit} could not be used, more than "
                f"resources.max_bad_fraction={allowed:g} allows. The reasons are in "
                f"{self.root}/{prefix}/quarantine*.parquet, or in the scores' .error columns. Mend "
                "their cause and start under another root, or go on with a larger "
                "resources.max_bad_fraction."
            )


class _Attempt:
    """A worker that counts its attempts at a shard before it starts, and marks it when done."""

    def __init__(
        self,
        worker: Callable[..., ShardWorker],
        args: tuple[Any, ...],
        root: str,
        prefix: str,
        max_attempts: int,
    ) -> None:
        self.store = open_store(root)
        self.prefix = prefix
        self.max_attempts = max_attempts
        self.worker = worker(*args)

    def __call__(self, shard: Shard) -> ShardReport:
        key = layout.marker(self.prefix, shard.number)
        if self.store.exists(key):  # a cluster asks again when a lost node had the answer
            return ShardReport.from_json(self.store.read(key))
        self._count_attempt(shard)
        began, before = time.monotonic(), dict(traffic.totals)
        report = self.worker(shard)
        self.store.write(key, report.to_json())
        journal.note(
            "shard",
            root=self.store.url,
            stage=self.prefix,
            shard=shard.number,
            rows=report.rows,
            quarantined=report.quarantined,
            scores=report.scores,
            seconds=round(time.monotonic() - began, 3),
            **{name: total - before[name] for name, total in traffic.totals.items()},
        )
        return report

    def _count_attempt(self, shard: Shard) -> None:
        for attempt in range(self.max_attempts):
            if self.store.create(layout.attempt(self.prefix, shard.number, attempt), b"\n"):
                if attempt:
                    journal.note(
                        "retry", root=self.store.url, stage=self.prefix, shard=shard.number
                    )
                return
        raise RuntimeError(
            f"{self.prefix}: shard {shard.number} (rows {shard.start} to {shard.stop - 1} of the "
            f"plan) ended its worker's process {self.max_attempts} times. Look at the worker's "
            "log for the cause (often memory: lower sampling.batch_size), then run again; all "
            "other finished shards are kept."
        )


def cut(
    rows: int, size: int, *, first_row: int = 0, first_number: int = 0, toxic: bool = False
) -> list[Shard]:
    """Cut `rows` rows into shards of `size` rows; the last one may be smaller."""
    starts = range(first_row, first_row + rows, size)
    return [
        Shard(first_number + index, start, min(start + size, first_row + rows), toxic)
        for index, start in enumerate(starts)
    ]


def part_keys(store: Store, prefix: str) -> list[str]:
    """Return the keys of all parts under a prefix, in shard order for each of the two places."""
    places = (prefix, layout.toxic(prefix))
    return [key for place in places for key in store.list(layout.parts(place))]


def _finished(store: Store, prefix: str) -> dict[int, ShardReport]:
    reports = (ShardReport.from_json(store.read(key)) for key in store.list(layout.markers(prefix)))
    return {report.number: report for report in reports}


class Lines:
    """A `Tell` that prints a plain line every few seconds: for logs of submitted jobs."""

    def __init__(self, every_s: float = 5.0) -> None:
        self.every_s = every_s
        self.started: dict[str, tuple[float, int]] = {}
        self.last_s = 0.0

    def __call__(self, what: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        start_s, start_done = self.started.setdefault(what, (now, done))
        if done < total and now - self.last_s < self.every_s:
            return
        self.last_s = now
        rate = (done - start_done) / max(now - start_s, 1e-9)
        pace = f" · {rate:,.1f} {unit}/s" if done > start_done else ""
        left = f" · {(total - done) / rate:,.0f} s left" if rate and done < total else ""
        print(f"{what}: {done:,} of {total:,} {unit}{pace}{left}", flush=True)


class Stage(Protocol):
    """What the module of every verb has."""

    def upstream(self, run: Run) -> tuple[str, ...]:
        """Return the stages that must be finished first."""

    def inputs(self, run: Run) -> dict[str, str]:
        """Return the fingerprints of what the stage reads from outside the root."""

    def perform(self, work: Work) -> dict[str, Any]:
        """Do what is left to do, and return what was counted."""

    def details(self, counts: dict[str, Any]) -> list[str]:
        """Return what its end says of these counts, line by line."""
