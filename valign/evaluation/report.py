"""Results and pictures in, one self-contained HTML page out.

The page loads nothing: style, drawings and pictures are inside it, it runs no script (filters and
veils are style alone), and it says so to the browser. Left out: measuring (`measure`), what is
drawn (`panels`), choosing pictures, writing files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from valign.evaluation import results_file
from valign.evaluation.describe import (
    DETAILS,
    Numbers,
    Results,
    excludes_zero,
    number,
    p_value,
    percent,
    signed,
)
from valign.evaluation.findings import findings, opening
from valign.evaluation.panels import MANY, Panel, panels
from valign.evaluation.pictures import Grid, embed
from valign.evaluation.tables import part, tables

MANY_PAIRS = 3  # tables of pairs of models are folded from here on


def render(
    results: Results,
    pictures: Sequence[Grid] = (),
    settings: Mapping[str, object] | None = None,
    *,
    title: str = "Before and after alignment",
    drawings: Mapping[str, Sequence[Panel]] | None = None,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> str:
    """Return the page.

    Args:
        results: what `measure` returned, or the same read back from JSON.
        pictures: grids of the same noise under each model.
        settings: the settings of the run, shown as they are; nested mappings are flattened.
        title: the page's heading.
        drawings: what `panels` made of these results; default: it is made here.
        curves: training curves, label -> (step, value) points; where drawings are not given.

    Raises:
        ValueError: the results have another schema version, or a picture cannot be read.
    """
    results_file.check(results, "these results")
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
    comparisons = list(part(results, "differences"))
    models = list(part(results, "models"))
    return environment.get_template("report.html.j2").render(
        title=title,
        models=models,
        many=len(models) >= MANY,
        many_pairs=MANY_PAIRS,
        counts=results.get("counts", {}),
        comparisons=[(c, opening(results, c), findings(results, c)) for c in comparisons],
        tables=tables(results),
        folded=DETAILS,
        win_rates=_pairs(results, "win_rates"),
        pairwise=_pairs(results, "pairwise"),
        distances=part(results, "distances"),
        inception_scores=part(results, "inception_scores"),
        confusion=results.get("confusion", {}),
        drawn=drawings or panels(results, curves),
        groups=list(dict.fromkeys(grid.group for grid in pictures)),
        categories=list(dict.fromkeys(grid.category for grid in pictures if grid.category)),
        grids=pictures,
        provenance=list(_flat(part(results, "provenance"))),
        settings=list(_flat(settings or {})),
        measurement=part(results, "provenance").get("measurement", {}),
    )


def _pairs(results: Results, key: str) -> dict[str, dict[str, Numbers]]:
    """Return each pair of models as words, with its metrics; pairs without any are left out."""
    found = {pair: metrics for pair, metrics in part(results, key).items() if metrics}
    return {pair.replace(" - ", " against "): dict(metrics) for pair, metrics in found.items()}


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
