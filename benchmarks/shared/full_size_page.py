"""The page of the full-size run: from samples of memory, the log, manifests and files.

In: what `full_size.py` wrote. Out: full_size.md and full_size.png. Pure, but for reading the run
and writing those two.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.host import machine
from valign.config import Run
from valign.stages.execute import DATASET
from valign.storage import manifests
from valign.storage.manifests import Manifest
from valign.storage.objects import open_store

FROM_IMAGES = 10_000
SMALL_SHARE = 16  # of a run of fewer than that many times FROM_IMAGES, the window starts earlier
GROWING = ("generate", "score", "encode")  # label reads all scores at once
LOG_LINES = 8  # of progress that are shown per stage


@dataclass(frozen=True)
class Sample:
    """Memory at one moment."""

    session: int
    time_s: float
    stage: str
    done: int  # images (encode: and texts) that the stage has done
    driver_mib: float
    workers_mib: float
    ray_mib: float
    workers: int


def window_start(samples: Sequence[Sample], stage: str) -> int:
    """Return from how many images on a stage's growth counts: 10,000, or fewer of a small run."""
    total = max((s.done for s in samples if s.stage == stage), default=0)
    return min(FROM_IMAGES, total // SMALL_SHARE)


def growth_mib(samples: Sequence[Sample]) -> dict[str, float]:
    """Return, by stage, the driver's greatest growth since it had done its first 10,000 images.

    Within one session: a new process starts anew. A stage that was never seen under way is left
    out.
    """
    grown: dict[str, float] = {}
    for stage in GROWING:
        start = window_start(samples, stage)
        mine = [s for s in samples if s.stage == stage and s.done >= max(1, start)]
        for _, group in itertools.groupby(mine, key=lambda sample: sample.session):
            session = list(group)
            if len(session) > 1:
                growth = max(s.driver_mib for s in session) - session[0].driver_mib
                grown[stage] = max(growth, grown.get(stage, growth))
    return grown


def durations(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Return, by stage, the seconds of all sessions and the images per second of its steady state.

    The steady state is from the second progress of a session to its last: without the start of Ray
    and its workers. Not a number where there was too little of it.
    """
    found = {}
    for stage in DATASET:
        seconds = steady_s = 0.0
        images = 0
        mine = [s for s in samples if s.stage == stage]
        for _, group in itertools.groupby(mine, key=lambda sample: sample.session):
            session = list(group)
            seconds += session[-1].time_s - session[0].time_s
            moved = [
                later for earlier, later in itertools.pairwise(session) if later.done > earlier.done
            ][1:]  # the first may be what an earlier session did
            if len(moved) > 1:
                images += moved[-1].done - moved[0].done
                steady_s += moved[-1].time_s - moved[0].time_s
        found[stage] = (seconds, images / steady_s if steady_s else float("nan"))
    return found


def data_rows(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows of prompts, images and pairs by category, the paper's in brackets."""
    rows = []
    for row in table:
        paper = row["paper"] or ("", "", "")
        cells = [row["category"], f"{row['neutral']:,}"]
        for name, count in zip(("prompts", "images", "pairs"), paper, strict=True):
            cells.append(f"{row[name]:,} ({count:,})" if row["paper"] else f"{row[name]:,}")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def objects(root: Path) -> dict[str, list[int]]:
    """Return the sizes in bytes of the objects under a root, by stage and kind."""
    found: dict[str, list[int]] = {}
    for file in sorted(root.rglob("*")):
        parts = file.relative_to(root).parts
        if file.is_file() and not any(part.startswith(".") for part in parts):
            kind = "markers" if "done" in parts else "parts" if "part-" in parts[-1] else "others"
            stage = parts[0] if len(parts) > 1 else "root"
            found.setdefault(f"{stage}, {kind}", []).append(file.stat().st_size)
    return found


def shown_log(log: str) -> list[str]:
    """Return a log with a few lines of progress per stage, evenly chosen, and all others."""
    lines = log.splitlines()
    progress: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        stage, colon, rest = line.partition(": ")
        if colon and " of " in rest and stage in DATASET and rest[:1].isdigit():
            progress.setdefault(stage, []).append(number)
    kept = set(range(len(lines)))
    for numbers in progress.values():
        step = max(1, -(-len(numbers) // LOG_LINES))
        kept -= set(numbers) - {*numbers[::step], numbers[-1]}
    return [lines[number] for number in sorted(kept)]


def write(out: Path, run: Run, samples: Sequence[Sample], log: str, words: str) -> None:
    """Write the page and its picture; `words` are the recipe and what differs from it."""
    store = open_store(run.root)
    made = {stage: found for stage in DATASET if (found := manifests.get(store, stage))}
    draw(out / "full_size.png", samples)
    sizes = objects(Path(run.root))
    text = page(run, made, samples, sizes, log, words)
    (out / "full_size.md").write_text(text, encoding="utf-8")


def page(
    run: Run,
    made: dict[str, Manifest],
    samples: Sequence[Sample],
    sizes: dict[str, list[int]],
    log: str,
    words: str,
) -> str:
    """Return the page."""
    images = made["generate"].counts["images"]
    took, grown = durations(samples), growth_mib(samples)
    by_stage = []
    for stage in DATASET:
        mine = [s for s in samples if s.stage == stage]
        count = made[stage].counts.get("images", 0)
        seconds, steady = took[stage]
        cells = [stage, f"{count:,}" if count else "", f"{seconds / 60:.1f}"]
        cells += [f"{count / seconds:.1f}" if count and seconds else ""]
        cells += ["" if math.isnan(steady) else f"{steady:.1f}"]
        cells += [f"{max((s.driver_mib for s in mine), default=0):,.0f}"]
        cells += [f"{grown[stage]:+.0f}" if stage in grown else ""]
        cells += [f"{max((s.workers_mib for s in mine), default=0):,.0f}"]
        by_stage.append(f"| {' | '.join(cells)} |")
    every = [size for kind in sizes.values() for size in kind]
    kinds = [
        f"| {kind} | {len(found):,} | {sum(found) / 2**20:,.1f} | {max(found) / 2**20:,.2f} |"
        for kind, found in sizes.items()
    ]
    sessions = max(sample.session for sample in samples)
    minutes = sum(seconds for seconds, _ in took.values()) / 60
    start = window_start(samples, "generate")
    return f"""# The papers' full plan on the miniature

Written by `python benchmarks/full_size.py`. {words}: generate, score, label and encode of
{images:,} images at {run.sampling.steps} sampler steps, on Ray with {run.resources.workers} workers
of one thread: {minutes:.1f} minutes, in {sessions} session(s). Machine: {machine()}.

| stage | images | minutes | images/s | steady | driver, most MiB | growth | workers, most MiB |
|---|---|---|---|---|---|---|---|
{chr(10).join(by_stage)}

Images/s counts the start of Ray and of the workers, the steady state does not. The driver's growth,
in MiB, is the most that its resident memory was above what it was at image {start:,} of the stage;
the goal is under 300. Resident memory counts what a process shares with others.

![Memory over time](full_size.png)

## Pairs

In brackets: the paper's, 86,030 pairs in all.

| category | neutral images | prompts | images | pairs |
|---|---|---|---|---|
{chr(10).join(data_rows(made["label"].counts["data"]))}

A pair count depends on the measured base distribution (a preferred image has an under-represented
attribute) and on what the classifier confirms, so it differs from the paper's by design.

## Objects

{len(every):,} objects, {sum(every) / 2**30:.2f} GiB, for {images:,} images: no object per image; a
part holds {run.generate.shard_rows} images, the last of each kind fewer.

| what | objects | MiB | largest, MiB |
|---|---|---|---|
{chr(10).join(kinds)}

## Log

Lines of progress are thinned out.

```
{chr(10).join(shown_log(log))}
```
"""


def draw(file: Path, samples: Sequence[Sample]) -> None:
    """Draw memory over time, sessions end to end, with the stages told apart."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    minutes, at = [0.0], 0.0
    for earlier, later in itertools.pairwise(samples):
        at += (later.time_s - earlier.time_s) / 60 if later.session == earlier.session else 0.0
        minutes.append(at)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("driver_mib", "driver"), ("workers_mib", "workers, all together")):
        axes.plot(minutes, [getattr(s, name) for s in samples], label=label)
    axes.plot(minutes, [s.ray_mib for s in samples], label="Ray's own processes", color="0.6")
    for stage, group in itertools.groupby(
        zip(minutes, samples, strict=True), key=lambda pair: pair[1].stage
    ):
        first = next(group)[0]
        axes.axvline(first, color="0.85", zorder=0)
        axes.text(first, 1.0, f" {stage}", transform=axes.get_xaxis_transform(), va="bottom")
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", ylim=(0, None), xlim=(0, None))
    axes.legend(loc="upper right", frameon=False)
    FigureCanvasAgg(figure).print_png(str(file))
