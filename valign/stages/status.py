"""How far a run is, read from its storage alone: no cluster, no models, from any machine."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from valign import config
from valign.stages.work import ShardReport
from valign.storage import checkpoints, layout, manifests, tables
from valign.storage.objects import Store

RECENT = 20  # shards that a rate is taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one piece of work is.

    Attributes:
        prefix: the stage's verb, or the longer prefix of a part of it.
        state: finished, begun, or not begun.
        shards: shards that are done.
        rows: rows in them, quarantined ones left out.
        planned: rows to do, where a plan says so.
        quarantined: rows that could not be used.
        retries: attempts at shards beyond the first, of shards that are not done yet.
        rows_per_s: over the newest shards, by the store's clock.
        step: of the last complete checkpoint.
        counts: what a finished stage counted.
    """

    prefix: str
    state: str
    shards: int = 0
    rows: int = 0
    planned: int | None = None
    quarantined: int = 0
    retries: int = 0
    rows_per_s: float | None = None
    step: int | None = None
    counts: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A run as its storage shows it.

    Attributes:
        root: its URL.
        work: every stage, in order, and parts of stages that have shards of their own.
        driver: who works on it, and when it last gave a sign of life, UTC; None: nobody.
        failed: what the last attempt failed of, if nothing was begun since; else None.
    """

    root: str
    work: tuple[Progress, ...]
    driver: dict[str, Any] | None
    failed: dict[str, Any] | None

    def to_json(self) -> str:
        """Return it for programs."""
        return json.dumps(asdict(self), indent=1)


def read(store: Store) -> Status:
    """Return the status of a root.

    Raises:
        LookupError: there is no run.
    """
    if not any(True for _ in store.list()):
        raise LookupError(f"there is nothing under {store.url}")
    found: list[Progress] = []
    for verb in config.STAGES:
        keys = list(store.list(f"{verb}/"))
        parts = sorted({key.partition("/done/")[0] for key in keys if "/done/" in key} - {verb})
        found.append(_progress(store, verb, keys))
        found += [_progress(store, part, keys) for part in parts]
    return Status(store.url, tuple(found), _driver(store), _json(store, layout.FAILED))


def lines(status: Status) -> list[str]:
    """Return a status in plain words."""
    said = [status.root]
    for one in status.work:
        words = [f"{one.prefix}: {one.state}"]
        if one.shards:
            of = f" of {one.planned:,}" if one.planned is not None else ""
            words.append(f"{one.shards:,} shards, {one.rows:,}{of} rows done")
        if one.quarantined:
            words.append(f"{one.quarantined:,} quarantined")
        if one.retries:
            words.append(f"{one.retries:,} retries under way")
        if one.rows_per_s:
            words.append(f"{one.rows_per_s:,.1f} rows/s lately")
        if one.step is not None:
            words.append(f"checkpoint at step {one.step:,}")
        said.append(" · ".join(words))
    if status.driver:
        said.append(
            f"driver: process {status.driver['pid']} on {status.driver['host']}, last sign of "
            f"life {status.driver['seen']}"
        )
    if status.failed:
        said.append(f"failed in {status.failed['stage']}: {status.failed['error']}")
    return said


def _progress(store: Store, prefix: str, keys: Sequence[str]) -> Progress:
    markers = [key for key in keys if key.startswith(layout.markers(prefix))]
    reports = [ShardReport.from_json(store.read(key)) for key in markers]
    attempts = [key for key in keys if key.startswith(layout.attempts(prefix))]
    steps = [checkpoints.step_of(key) for key in keys if checkpoints.completes(prefix, key)]
    made = manifests.get(store, prefix)
    begun = any(key.startswith(f"{prefix}/") for key in keys)
    state = "finished" if made else "begun" if begun else "not begun"
    planned = None
    if layout.plan(prefix) in keys:
        columns = ["role"]
        planned = tables.read(store, layout.plan(prefix), tables.PLAN, columns).num_rows
    return Progress(
        prefix=prefix,
        state=state if prefix in config.STAGES or not begun else "has shards",
        shards=len(reports),
        rows=sum(report.rows for report in reports),
        planned=planned,
        quarantined=sum(report.quarantined for report in reports),
        retries=sum(not key.endswith("-0") for key in attempts),
        rows_per_s=None if made else _rate(store, markers, reports),
        step=max(steps, default=None),
        counts=dict(made.counts) if made else None,
    )


def _rate(store: Store, markers: Sequence[str], reports: Sequence[ShardReport]) -> float | None:
    newest = list(zip(markers, reports, strict=True))[-RECENT:]
    times = sorted((store.modified_s(key), report.rows) for key, report in newest)
    seconds = times[-1][0] - times[0][0] if times else 0.0
    return sum(rows for _, rows in times[1:]) / seconds if seconds > 0 else None


def _driver(store: Store) -> dict[str, Any] | None:
    keys = sorted(store.list(layout.drivers()))
    found = _json(store, keys[-1]) if keys else None
    if found is None:
        return None
    seen = datetime.datetime.fromtimestamp(store.modified_s(keys[-1]), datetime.UTC)
    return {"pid": found["pid"], "host": found["host"], "seen": f"{seen:%Y-%m-%d %H:%M:%S} UTC"}


def _json(store: Store, key: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(store.read(key))
    except LookupError:
        return None
    return found
