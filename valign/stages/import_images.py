"""import: images and labels of others -> what generate would have made.

Stands in for generate when the recipe names a source: the same plan, parts, markers and manifest,
so that score, label and encode run on it. Rows that cannot be used are quarantined with their
reason. A source is read as the plan is made and again by the workers, so it must stay as it is.
"""

from collections import Counter
from typing import Any

from valign.config import Run
from valign.pictures import Refused, accept
from valign.stages import images, import_rows, principles
from valign.stages.import_rows import Faulty, Offered
from valign.stages.work import Shard, ShardReport, Work
from valign.storage import foreign, layout, tables
from valign.storage.foreign import Place
from valign.storage.objects import local, open_store

SHOWN_REASONS = 10


def upstream(run: Run) -> tuple[str, ...]:
    """Return the stages that must be finished first."""
    return ()


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    source = local(run.imports.source)
    return {"the source's files": foreign.fingerprint(source, foreign.files(source))}


def perform(work: Work) -> dict[str, Any]:
    """Import every image of the source; return what was counted."""
    run, store = work.run, work.store
    offered = import_rows.read(
        local(run.imports.source),
        caption=run.imports.caption,
        principles=principles.known(run),
    )
    _write_faulty(work, offered.faulty)
    planned = _write_plan(work, offered)
    lost = sum(bad.images for bad in offered.faulty)
    print(
        f"import: {run.imports.source} · {planned + lost:,} images · {len(offered.pairs):,} pairs",
        flush=True,
    )
    shards = images.shards(store, "generate", run.generate.shard_rows)
    reports = work.carry_out("generate", Worker, (run, work.root), shards, lost=lost)
    return {
        "prompts": len({row.prompt.text for row in offered.rows}),
        "images": sum(report.rows for report in reports),
        "quarantined": lost + sum(report.quarantined for report in reports),
        "shards": len(shards),
        "pairs": len(offered.pairs),
        "labelled_pairs": sum(human is not None for _, _, human in offered.pairs),
        "refused": offered.refused,
        "reasons": dict(Counter(bad.reason for bad in offered.faulty).most_common(SHOWN_REASONS)),
    }


def details(counts: dict[str, Any]) -> list[str]:
    """Return why rows were left out, the most frequent reasons first."""
    return [f"  {count:,} rows: {reason}" for reason, count in counts["reasons"].items()]


def _write_faulty(work: Work, faulty: list[Faulty]) -> None:
    if faulty:
        rows = [
            {"image_id": "", "file": bad.file, "row": bad.row, "reason": bad.reason}
            for bad in faulty
        ]
        tables.write(work.store, layout.quarantined_rows("generate"), rows, tables.QUARANTINE)


def _write_plan(work: Work, offered: Offered) -> int:
    """Write what is to be imported, in the order of a plan; return how many images that is."""
    store = work.store
    rows = images.ordered(offered.rows)
    place_of = dict(zip((row.image_id for row in offered.rows), offered.places, strict=True))
    made_by = dict(zip((row.image_id for row in offered.rows), offered.generators, strict=True))
    places = [place_of[row.image_id] for row in rows]
    sources = {
        "image_id": [row.image_id for row in rows],
        "generator": [made_by[row.image_id] for row in rows],
        "file": [place.file for place in places],
        "row": [place.row for place in places],
        "column": [place.column for place in places],
    }
    tables.write(store, layout.sources(), sources, tables.SOURCES)
    if offered.pairs:
        first, second, human = zip(*offered.pairs, strict=True)
        columns = {"first": first, "second": second, "human": human}
        tables.write(store, layout.candidates(), columns, tables.CANDIDATES)
    tables.write(store, layout.plan("generate"), images.columns(rows), tables.PLAN)
    return len(rows)


class Worker:
    """Imports the images of one shard and writes its part; built once per process."""

    def __init__(self, run: Run, root: str) -> None:
        self.store = open_store(root)
        self.base = foreign.folder(local(run.imports.source))
        self.max_pixels = run.imports.max_pixels
        self.plan = images.Plan(self.store, layout.plan("generate"))
        self.sources = tables.Rows(self.store, layout.sources(), tables.SOURCES)

    def __call__(self, shard: Shard) -> ShardReport:
        """Read, check and write the shard's images, quarantining those that cannot be used."""
        rows = self.plan.rows(shard.start, shard.stop)
        sources = self.sources.slice(shard.start, shard.stop).to_pylist()
        places = [Place(s["file"], s["row"], s["column"]) for s in sources]
        data = foreign.pictures(self.base, places)
        kept: list[int] = []
        pictures: list[dict[str, object]] = []
        faults: list[dict[str, object]] = []
        for index, (row, place) in enumerate(zip(rows, places, strict=True)):
            try:
                name = "" if place.column else place.file
                accepted, ending = accept(data[place], name, max_pixels=self.max_pixels)
            except Refused as refused:
                where = {"file": place.file, "row": place.row, "shard": shard.number}
                faults.append({"image_id": row.image_id, "reason": str(refused), **where})
            else:
                kept.append(index)
                pictures.append({"bytes": accepted, "path": f"{row.image_id}{ending}"})
        columns = images.columns([rows[index] for index in kept])
        columns["generator"] = [sources[index]["generator"] for index in kept]
        columns["image"] = list(pictures)
        if faults:
            key = layout.quarantine("generate", shard.number)
            tables.write(self.store, key, faults, tables.QUARANTINE)
        tables.write(self.store, shard.part("generate"), columns, tables.IMAGES)
        return ShardReport(shard.number, len(kept), len(faults))
