"""The tables of a report: rows under headings, best and second best, and all of it as CSV.

In: results. Out: rows for the page, and texts of CSV files.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from valign.evaluation.describe import (
    DETAILS,
    ORACLE,
    PROMPTS,
    Metric,
    Numbers,
    Results,
    describe,
    principles,
)

_LAST = (DETAILS, "Other")
PARTS = ("value", "low", "high", "n")


@dataclass(frozen=True, slots=True)
class Row:
    """One metric's row in a table.

    Attributes:
        places: model -> 1 for the best value, 2 for the second; values that are shown equal share
            a place. Empty where neither direction is better or there is one model.
    """

    metric: Metric
    models: Mapping[str, Numbers]
    differences: Mapping[str, Numbers]
    changes: Mapping[str, Numbers]
    floor: float | None
    places: Mapping[str, int]


def part(results: Results, key: str) -> Mapping[str, Mapping[str, Numbers]]:
    """Return a part of results that holds metrics by name; empty where there is none."""
    return results.get(key, {})


def tables(results: Results) -> dict[str, list[Row]]:
    """Return the rows under their headings: principles first, then toxicity, quality, prompts."""
    models, differences = part(results, "models"), part(results, "differences")
    changes, floors = part(results, "relative_changes"), results.get("floors", {})
    names = list(dict.fromkeys(name for metrics in models.values() for name in metrics))
    bare = list(dict.fromkeys(name.removeprefix(ORACLE) for name in names))
    names.sort(key=lambda n: (bare.index(n.removeprefix(ORACLE)), n.startswith(ORACLE)))
    described = {name: describe(name) for name in names}
    sets = [m.group for m in described.values() if m.group.startswith(PROMPTS)]
    headings = [*(p.capitalize() for p in principles(results)), "Toxicity", "Quality", *sets]
    found: dict[str, list[Row]] = {heading: [] for heading in (*headings, *_LAST)}
    for name, metric in described.items():
        floor = floors.get(name)
        values = {m: metrics[name] for m, metrics in models.items() if name in metrics}
        row = Row(
            metric,
            values,
            {d: metrics[name] for d, metrics in differences.items() if name in metrics},
            {c: metrics[name] for c, metrics in changes.items() if name in metrics},
            floor["value"] if floor else None,
            ranked(
                {m: round(one["value"], metric.decimals) for m, one in values.items()},
                metric.better,
            ),
        )
        found[metric.group].append(row)
    return {heading: rows for heading, rows in found.items() if rows}


def ranked(values: Mapping[str, float], better: str) -> dict[str, int]:
    """Return who is best (1) and, of three and more, second (2).

    Equal values share a place and leave out the next; nobody is marked where all are equal.
    """
    if not better or len(set(values.values())) < 2:
        return {}
    sign = -1 if better == "higher" else 1
    ahead = {n: sum(sign * o < sign * v for o in values.values()) for n, v in values.items()}
    last = 2 if len(values) > 2 else 1
    return {name: many + 1 for name, many in ahead.items() if many < last}


def table_csv(results: Results, rows: Iterable[Row] | None = None) -> str:
    """Return metrics as CSV, a row each: value, low, high, n per model and difference.

    Args:
        results: the results.
        rows: which rows; default: all.
    """
    models, differences = part(results, "models"), part(results, "differences")
    changes = part(results, "relative_changes")
    columns = [f"{name} {each}" for name in (*models, *differences) for each in PARTS]
    head = ["metric", *columns, *(f"{name} relative" for name in changes), "fair sampler"]
    chosen = (row for found in tables(results).values() for row in found)
    lines = []
    for row in chosen if rows is None else rows:
        sides = [row.models.get(m) for m in models] + [row.differences.get(d) for d in differences]
        cells: list[object] = [side[each] if side else "" for side in sides for each in PARTS]
        cells += [row.changes[c]["value"] if c in row.changes else "" for c in changes]
        lines.append([row.metric.name, *cells, "" if row.floor is None else row.floor])
    return _csv(head, lines)


def csv_files(results: Results) -> dict[str, str]:
    """Return every table of the report as a CSV file: name -> text."""
    files = {slug(heading): table_csv(results, rows) for heading, rows in tables(results).items()}
    tested = (*PARTS, "p", "holm")
    for name, columns in (
        ("win_rates", tested),
        ("pairwise", tested),
        ("distances", (*PARTS, "images", "dimensions", "reliable")),
        ("inception_scores", (*PARTS, "images")),
    ):
        found = part(results, name)
        lines = [
            [pair, metric, *(one.get(each, "") for each in columns)]
            for pair, metrics in found.items()
            for metric, one in metrics.items()
        ]
        if lines:
            who = "model" if name == "inception_scores" else "comparison"
            files[name] = _csv([who, "metric", *columns], lines)
    counts = [
        [model, name, *(one[key] for key in ("prompts", "images_per_prompt", "images", "missing"))]
        for model, found in results.get("counts", {}).items()
        for name, one in found.items()
    ]
    head = ["model", "set", "prompts", "images per prompt", "images", "missing"]
    return {**files, "counts": _csv(head, counts)}


def slug(text: str) -> str:
    """Return a text as the name of a file: small letters, digits and _."""
    return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _csv(head: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return stream.getvalue()
