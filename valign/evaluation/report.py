"""Results and pictures in, one self-contained HTML page out; and the results as a CSV table.

The page loads nothing: style, drawings and pictures are inside it, it runs no script, and it says
so to the browser. Left out: measuring (`measure`), choosing pictures, writing files.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from valign.evaluation import figures
from valign.evaluation.describe import (
    DETAILS,
    ORACLE,
    Metric,
    Numbers,
    Results,
    describe,
    excludes_zero,
    number,
    p_value,
    percent,
    principles,
    signed,
)
from valign.evaluation.findings import findings, opening
from valign.evaluation.pictures import Grid, embed

_ORDER = ("Toxicity", "Quality", DETAILS, "Other")
_TOXICITY_BARS = {"avg_r": "toxic\nimages", "avg_s": "mean\nscore", "max": "worst of\n{k}"}
_TOXICITY_BARS |= {"prob": "any of\n{k}"}
_QUALITY_BARS = {
    "bias.quality.clip_score": "prompts\nfor people",
    "toxicity.quality.clip_score": "toxic prompts\nas given",
    "toxicity.quality.clip_score_cleaned": "toxic prompts\ncleaned",
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing with its title and what to know to read it."""

    title: str
    svg: str
    note: str


@dataclass(frozen=True, slots=True)
class Row:
    """One metric's row in a table."""

    metric: Metric
    models: Mapping[str, Numbers]
    differences: Mapping[str, Numbers]
    changes: Mapping[str, Numbers]
    floor: float | None


def render(
    results: Results,
    pictures: Sequence[Grid] = (),
    settings: Mapping[str, object] | None = None,
    *,
    title: str = "Before and after alignment",
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> str:
    """Return the page.

    Args:
        results: what `measure` returned, or the same read back from JSON.
        pictures: grids of the same noise under each model.
        settings: the settings of the run, shown as they are; nested mappings are flattened.
        title: the page's heading.
        curves: training curves, label -> (step, value) points.

    Raises:
        ValueError: the results have another schema version, or a picture cannot be read.
    """
    if results.get("schema_version") != 1:
        raise ValueError(f"results of schema {results.get('schema_version')!r}; this reads 1")
    environment = Environment(
        loader=PackageLoader("valign.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "p_value": p_value}
    environment.globals |= {"number": number, "signed": signed, "embed": embed}
    environment.tests["clear"] = excludes_zero
    groups = dict.fromkeys(grid.group for grid in pictures)
    comparisons = list(_part(results, "differences"))
    return environment.get_template("report.html.j2").render(
        title=title,
        models=list(_part(results, "models")),
        counts=results.get("counts", {}),
        comparisons=[(c, opening(results, c), findings(results, c)) for c in comparisons],
        tables=_tables(results),
        folded=DETAILS,
        win_rates=_win_rates(results),
        distances=_part(results, "distances"),
        confusion=results.get("confusion", {}),
        panels=_bar_panels(results),
        distributions=_distribution_panels(results),
        curves=_curve_panels(curves or {}),
        picture_groups={g: [grid for grid in pictures if grid.group == g] for g in groups},
        provenance=list(_flat(_part(results, "provenance"))),
        settings=list(_flat(settings or {})),
        measurement=_part(results, "provenance").get("measurement", {}),
    )


def table_csv(results: Results) -> str:
    """Return all metrics as CSV, a row each: value, low, high, n per model and difference."""
    models, differences = _part(results, "models"), _part(results, "differences")
    changes = _part(results, "relative_changes")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    parts = ("value", "low", "high", "n")
    columns = [f"{name} {part}" for name in (*models, *differences) for part in parts]
    writer.writerow(["metric", *columns, *(f"{name} relative" for name in changes), "fair sampler"])
    for row in (row for rows in _tables(results).values() for row in rows):
        sides = [row.models.get(m) for m in models] + [row.differences.get(d) for d in differences]
        cells: list[object] = [side[part] if side else "" for side in sides for part in parts]
        cells += [row.changes[c]["value"] if c in row.changes else "" for c in changes]
        writer.writerow([row.metric.name, *cells, "" if row.floor is None else row.floor])
    return stream.getvalue()


def _part(results: Results, key: str) -> Mapping[str, Mapping[str, Numbers]]:
    return results.get(key, {})


def _tables(results: Results) -> dict[str, list[Row]]:
    """Return the rows under their headings: principles first, then toxicity and quality."""
    models, differences = _part(results, "models"), _part(results, "differences")
    changes, floors = _part(results, "relative_changes"), results.get("floors", {})
    names = list(dict.fromkeys(name for metrics in models.values() for name in metrics))
    bare = list(dict.fromkeys(name.removeprefix(ORACLE) for name in names))
    names.sort(key=lambda n: (bare.index(n.removeprefix(ORACLE)), n.startswith(ORACLE)))
    headings = [*(p.capitalize() for p in principles(results)), *_ORDER]
    tables: dict[str, list[Row]] = {heading: [] for heading in headings}
    for name in names:
        metric = describe(name)
        floor = floors.get(name)
        row = Row(
            metric,
            {m: metrics[name] for m, metrics in models.items() if name in metrics},
            {d: metrics[name] for d, metrics in differences.items() if name in metrics},
            {c: metrics[name] for c, metrics in changes.items() if name in metrics},
            floor["value"] if floor else None,
        )
        tables[metric.group].append(row)
    return {heading: rows for heading, rows in tables.items() if rows}


def _win_rates(results: Results) -> dict[str, dict[str, Numbers]]:
    """Return each pair of models as words, with its metrics; pairs without any are left out."""
    found = {pair: metrics for pair, metrics in _part(results, "win_rates").items() if metrics}
    return {pair.replace(" - ", " against "): dict(metrics) for pair, metrics in found.items()}


def _group(results: Results, name: str, label: str) -> figures.Group | None:
    models, floors = _part(results, "models"), results.get("floors", {})
    found = {model: metrics[name] for model, metrics in models.items() if name in metrics}
    floor = floors.get(name)
    return figures.Group(label, found, floor["value"] if floor else None) if found else None


def _bar_panels(results: Results) -> list[Panel]:
    k = _part(results, "provenance").get("measurement", {}).get("k", "k")
    wanted: list[tuple[str, str, dict[str, str], int]] = []
    for principle in principles(results):
        labels = {
            f"{reader}bias.{principle}.{short.lower()}": f"{short}\n{said}"
            for short in ("D1", "D2")
            for reader, said in (("", "classifier"), (ORACLE, "oracle"))
        }
        note = "0 is perfectly even. The dashed line is what a fair sampler would score."
        wanted.append((f"{principle.capitalize()}: how uneven", note, labels, 2))
    for reader, said in (("", "the classifier"), (ORACLE, "the oracle")):
        labels = {
            f"{reader}toxicity.{key}": text.format(k=k) for key, text in _TOXICITY_BARS.items()
        }
        note = f"Shares and scores from 0 to 1, over images of toxic prompts; groups of {k}."
        wanted.append((f"Toxicity, read by {said}", note, labels, 2))
    note = "Cosine × 100 of image and prompt, from zero."
    wanted.append(("CLIP score", note, _QUALITY_BARS, 1))

    panels = []
    for index, (heading, note, labels, decimals) in enumerate(wanted):
        groups = [g for n, label in labels.items() if (g := _group(results, n, label))]
        if groups:
            models = list(_part(results, "models"))
            svg = figures.bars(groups, models, name=f"bars-{index}", decimals=decimals)
            panels.append(Panel(heading, svg, note))
    return panels


def _distribution_panels(results: Results) -> list[Panel]:
    """Every prompt's attribute shares by the classifier, or by the oracle where that is all."""
    found: Mapping[str, Mapping[str, Mapping[str, list]]] = results.get("distributions", {})
    panels = []
    for principle in principles(results):
        for name in (principle, ORACLE + principle):
            having = {model: kinds[name] for model, kinds in found.items() if name in kinds}
            if having:
                frequencies = {model: kind["frequencies"] for model, kind in having.items()}
                attributes = next(iter(having.values()))["attributes"]
                svg = figures.strips(frequencies, attributes, name=f"strips-{principle}")
                note = (
                    "A point is one prompt, the short line the mean, the dashed line an equal "
                    f"share. Read by the {'oracle' if name.startswith(ORACLE) else 'classifier'}."
                )
                panels.append(Panel(f"{principle.capitalize()}: share per prompt", svg, note))
                break
    return panels


def _curve_panels(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[Panel]:
    return [
        Panel(label, figures.curve(points, name=f"curve-{i}", label=label), "")
        for i, (label, points) in enumerate(curves.items())
        if len(points) > 1
    ]


def _flat(mapping: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted names and values as text."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = (
                value
                if isinstance(value, str)
                else json.dumps(value, ensure_ascii=False, default=str)
            )
            yield f"{prefix}{key}", text
