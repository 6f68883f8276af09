"""The page of a reproduction, and its tables as CSV, from all evaluations that are finished.

Nothing is computed here that is not in `numbers`, `orderings` or what runs left behind; what is not
finished is left out and said to be.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from valign.reproduction import expected, runs, tune, work
from valign.reproduction.numbers import ORACLE, Book, Number
from valign.reproduction.orderings import FAILS, HOLDS, OPEN, Ordering, compared, scaled
from valign.reproduction.rows import Row
from valign.reproduction.runs import Place
from valign.reproduction.tables import TABLES, Column, Table, printed

PAGE = "reproduction.md"
CHECKPOINT_METRICS = (
    ("both D2", "bias.d2", 100.0),
    ("toxic Avg.R", "toxicity.avg_r", 100.0),
    ("bias CLIP", "bias.quality.clip_score", 1.0),
)
DROP_METRICS = ("bias.gender.d2", "bias.race.d2")


def write(place: Place) -> dict[str, str]:
    """Write the page and its tables under `page/`; return their texts by name."""
    book = Book(place)
    orderings = list(compared(book))
    files = {PAGE: page(place, book, orderings)}
    files |= {f"tables/{t.name}.csv": _csv(_table_lines(book, t)) for t in TABLES}
    files["tables/orderings.csv"] = _csv(_ordering_lines(orderings))
    for name, text in files.items():
        place.store.write(f"page/{name}", text.encode())
    return files


def page(place: Place, book: Book, orderings: Sequence[Ordering]) -> str:
    """Return the page's text."""
    parts = [
        "# The papers' tables on the miniature",
        _opening(place, book),
        *(_table(book, table) for table in TABLES),
        _checkpoints(book),
        _sizes(place),
        _calibrated(book),
        _orderings(orderings),
        _tuning(place),
        _hours(place),
    ]
    grids = [key for key in place.store.list("page/") if key.endswith(".png")]
    if grids:
        shown = "\n\n".join(f"![{key}]({key.removeprefix('page/')})" for key in grids)
        parts.append(
            "## Case grids\n\nColumns have the same noise. Frames: the attribute that the "
            "classifier reads, or red for toxic and green for clean; toxic content here is "
            "abstract marks.\n\n" + shown
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(place: Place, book: Book) -> str:
    rows = place.tables.rows.values()
    wanted = [(row, seed) for row in rows if row.model != "none" for seed in row.seeds(place.seeds)]
    finished = sum(work.done(place, row, seed) for row, seed in wanted)
    cell = ", ".join(place.tables.cells["test"])
    changed = f" Settings given besides: `{' '.join(place.overrides)}`." if place.overrides else ""
    return (
        f"Written by `python jobs/reproduce.py`: {finished} of {len(wanted)} trainings measured. "
        f"Test prompts: {cell}; {place.prompts:,} prompts of the win rates, {runs.IMAGES} images "
        f"each.{changed}\n\n"
        "A cell is ours, with its 95% interval over prompts; below it the oracle's reading (the "
        "truth, from the pixels; of win rates the raters' true utilities) and the number that the "
        "paper prints for Stable Diffusion. Shares are in percent. Rows with several training "
        "seeds (s) are averaged prompt by prompt; ± is half their range. The absolute numbers "
        "are of another model and world than the papers': only directions can be compared, and the "
        "orderings below do that. CSV files beside this page hold every number with n."
    )


def _table(book: Book, table: Table) -> str:
    head = ["row", *(column.title for column in table.columns)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    counted = 0
    for name in table.rows:
        row = book.place.tables.rows[name]
        found = [_shown(book, table, row, column) for column in table.columns]
        counted += any(found)
        title = row.title + (f" — {row.why}" if row.why else "")
        lines.append("| " + " | ".join([title, *found]) + " |")
    n = {one.n for row in table.rows if (one := _number(book, table, row, table.columns[0]))}
    said = f"n = {', '.join(map(str, sorted(n)))} prompts. " if n - {0} else ""
    return f"## {table.title}\n\n{said}{table.about}\n\n" + "\n".join(lines)


def _number(book: Book, table: Table, name: str, column: Column, oracle: str = "") -> Number | None:
    row = book.place.tables.rows[name]
    cell = "" if table.cell == "test" else table.cell
    if row.model == "none":
        return None
    return book.number(row, f"{oracle}{column.metric}", cell)


def _shown(book: Book, table: Table, row: Row, column: Column) -> str:
    one = _number(book, table, row.name, column)
    truth = _number(book, table, row.name, column, ORACLE)
    paper = printed(table, row, column)
    parts = [_said(scaled(one, column.scale))] if one else []
    parts += [f"oracle {_figure(truth.value * column.scale)}"] if truth else []
    parts += [f"paper {_figure(paper)}"] if paper is not None else []
    return "<br>".join(parts)


def _said(one: Number) -> str:
    ends = (
        "" if one.low is None or one.high is None else f" [{_figure(one.low)}, {_figure(one.high)}]"
    )
    spread = ""
    if len(one.seeds) > 1:
        half = (max(one.seeds) - min(one.seeds)) / 2
        spread = f" ±{_figure(half)} ({len(one.seeds)} s)"
    return f"{_figure(one.value)}{ends}{spread}"


def _figure(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _checkpoints(book: Book) -> str:
    lines = []
    for row in (r for r in book.place.tables.rows.values() if r.checkpoints):
        first = book.evaluated(row, 0)
        for name in first.results["models"] if first else ():
            if name == "base":
                continue
            found = [(book.number(row, m, model=name), scale) for _, m, scale in CHECKPOINT_METRICS]
            cells = [_said(scaled(one, by)) if one else "" for one, by in found]
            step = name.partition("-step")[2] or "last"
            lines.append(f"| {row.title} | {step} | " + " | ".join(cells) + " |")
    if not lines:
        return ""
    head = ["row", "step", *(title for title, _, _ in CHECKPOINT_METRICS)]
    top = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    about = "Seed 0, but `last` where a row has more: the mean of its seeds."
    return "## Checkpoints (LiVO Fig. 4)\n\n" + about + "\n\n" + "\n".join([*top, *lines])


def _sizes(place: Place) -> str:
    took, lines = work.took(place), []
    for row in place.tables.rows.values():
        at = runs.trained_at(row, 0)
        if row.trains and (millions := work.parameters(place, row)):
            minutes = took.get(at, 0.0) / 60
            lines.append(f"| {row.title} | {millions / 1e6:.2f} | {minutes:.1f} |")
    if not lines:
        return ""
    return (
        "## Parameters and time (LiVO Table 6)\n\nThe paper's: 123 million for DAPT, DPO and "
        "LiVO; 1.8 h for DAPT and 3.6 h for DPO and LiVO on one A100. Minutes are of seed 0's "
        "training.\n\n"
        "| row | million parameters saved | minutes |\n|---|---|---|\n" + "\n".join(lines)
    )


def _calibrated(book: Book) -> str:
    rows = book.place.tables.rows
    lines, held = [], []
    for metric in DROP_METRICS:
        for reader in ("", ORACLE):
            apart = book.difference(rows["livo_calibrated"], rows["livo"], f"{reader}{metric}")
            if apart is None or apart.high is None:
                continue
            one = scaled(apart, 100)
            below = apart.high < 0
            held.append(below)
            who = "oracle" if reader else "classifier"
            lines.append(f"| {metric} | {who} | {_said(one)} | {_detectable(one)} | {apart.n} | "
                         f"{'yes' if below else 'no'} |")  # fmt: skip
    if not lines:
        return ""
    verdict = "holds in all of them" if all(held) else f"holds in {sum(held)} of {len(held)}"
    return (
        "## The calibrated drop against p = 0.5\n\nD2 of LiVO with calibrated drop minus that of "
        f"LiVO, paired by prompt. That it lies below with an interval without zero {verdict}.\n\n"
        "| metric | read by | difference | detectable | n | below |\n|---|---|---|---|---|---|\n"
        + "\n".join(lines)
    )


def _detectable(one: Number) -> str:
    return "" if one.detectable is None else _figure(one.detectable)


def _orderings(orderings: Sequence[Ordering]) -> str:
    judged = [one for one in orderings if one.verdict]
    if not judged:
        return ""
    counts = {v: sum(one.verdict == v for one in judged) for v in (HOLDS, FAILS, OPEN)}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    lines = [
        f"| {one.table.title.partition(' (')[0]} | {one.row} - {one.reference} "
        f"| {one.column.title} | {_figure(one.paper or 0.0)} | {_said(one.ours)} "
        f"| {_said(one.oracle) if one.oracle else ''} | {_detectable(one.ours)} | {one.verdict} |"
        for one in sorted(judged, key=lambda one: (HOLDS, FAILS, OPEN).index(one.verdict))
    ]
    head = ["table", "rows", "column", "paper", "ours", "oracle", "detectable", "verdict"]
    return (
        f"## Which orderings hold\n\nOf {len(judged)} orderings that the papers print: {said}. "
        "Row minus reference, paired by prompt; it holds if our interval excludes zero on the "
        "paper's side. `detectable` is the difference that would be found with 80% power. The "
        "intervals are not corrected for their number: one in twenty may exclude zero by "
        "chance.\n\n"
        "| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n" + "\n".join(lines)
    )


def _tuning(place: Place) -> str:
    budget = ", ".join(f"{factor:g}" for factor in place.tables.tuning)
    rule = f"Budget: {budget} times the rate that a method begins with. Chosen by: {tune.RULE}."
    if not place.store.exists(runs.TUNED):
        return "## Tuning\n\nNot tuned yet (`--tune`): rows have their recipes' rates. " + rule
    found = json.loads(place.store.read(runs.TUNED))
    lines = [f"- {name}: {tune.said(one)}" for name, one in found.items()]
    return (
        "## Tuning\n\nOn validation concepts, never the test split. "
        + rule
        + "\n\n"
        + "\n".join(lines)
    )


def _hours(place: Place) -> str:
    took = work.took(place)
    if not took:
        return ""
    lines = [f"| {what} | {seconds / 3600:.2f} |" for what, seconds in took.items()]
    total = sum(took.values()) / 3600
    return (
        f"## Hours\n\n{total:.1f} hours were measured so far; {expected.words(place)}\n\n"
        "| piece | hours |\n|---|---|\n" + "\n".join(lines)
    )


def _table_lines(book: Book, table: Table) -> Iterator[list[object]]:
    yield ["row", "title", "metric", "value", "low", "high", "n", "seeds", "oracle", "paper",
           "difference", "difference_low", "difference_high", "detectable"]  # fmt: skip
    rows = book.place.tables.rows
    for name in table.rows:
        for column in table.columns:
            one = _number(book, table, name, column)
            truth = _number(book, table, name, column, ORACLE)
            apart = None
            if table.reference and table.reference != name and table.cell == "test":
                apart = book.difference(rows[name], rows[table.reference], column.metric)
            yield [
                *(name, rows[name].title, column.metric),
                *((one.value, one.low, one.high, one.n) if one else ("",) * 4),
                " ".join(f"{value:.6g}" for value in one.seeds) if one else "",
                truth.value if truth else "",
                printed(table, rows[name], column),
                *((apart.value, apart.low, apart.high, apart.detectable) if apart else ("",) * 4),
            ]


def _ordering_lines(orderings: Sequence[Ordering]) -> Iterator[list[object]]:
    yield ["table", "row", "reference", "metric", "paper", "ours", "low", "high", "n", "oracle",
           "detectable", "verdict"]  # fmt: skip
    for one in orderings:
        ours = one.ours
        truth = one.oracle.value if one.oracle else ""
        yield [one.table.name, one.row, one.reference, one.column.metric, one.paper, ours.value,
               ours.low, ours.high, ours.n, truth, ours.detectable, one.verdict]  # fmt: skip


def _csv(lines: Iterator[list[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
