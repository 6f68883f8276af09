"""Which drawings a report has, section by section, with what to know to read them.

In: results, training curves, scores of images. Out: panels, each with its drawing as SVG. How a
drawing is drawn is left to `figures`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from valign.evaluation import figures
from valign.evaluation.describe import ORACLE, Results, describe, principles
from valign.evaluation.tables import part, slug

MANY = 3  # models from which on they are also shown all against all
Series = Mapping[str, NDArray[np.float64]]
Curves = Mapping[str, Sequence[tuple[float, float]]]

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
    note: str = ""

    @property
    def file(self) -> str:
        """Name of its file, without ending."""
        return slug(self.title)


def panels(
    results: Results, curves: Curves | None = None, scores: Mapping[str, Series] | None = None
) -> dict[str, list[Panel]]:
    """Return section -> its drawings; a section without any is empty.

    Args:
        results: what `measure` returned.
        curves: training curves, label -> (step, value) points.
        scores: what a score is of -> model -> its images' scores.
    """
    return {
        "bars": list(_bars(results)),
        "attributes": list(_attributes(results)),
        "scores": list(_histograms(scores or {})),
        "trade_offs": list(_trade_offs(results)),
        "win_rates": list(_win_rates(results)),
        "training": list(_curves(curves or {})),
    }


def svg_files(found: Mapping[str, Sequence[Panel]]) -> dict[str, str]:
    """Return every drawing as a file of its own: name -> text; on white, as it stands alone."""
    return {
        panel.file: figures.standalone(panel.svg) for drawn in found.values() for panel in drawn
    }


def _group(results: Results, name: str, label: str) -> figures.Group | None:
    models, floors = part(results, "models"), results.get("floors", {})
    found = {model: metrics[name] for model, metrics in models.items() if name in metrics}
    floor = floors.get(name)
    return figures.Group(label, found, floor["value"] if floor else None) if found else None


def _bars(results: Results) -> Iterator[Panel]:
    k = results.get("provenance", {}).get("measurement", {}).get("k", "k")
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
    asked = results.get("provenance", {}).get("prompt_sets", {})
    own = {f"prompts.{name}.clip_score": name for name in asked}
    wanted.append(("CLIP score, by prompt set", note, own, 1))
    for index, (heading, note, labels, decimals) in enumerate(wanted):
        groups = [g for n, label in labels.items() if (g := _group(results, n, label))]
        if groups:
            models = list(part(results, "models"))
            svg = figures.bars(groups, models, name=f"bars-{index}", decimals=decimals)
            yield Panel(heading, svg, note)


def _attributes(results: Results) -> Iterator[Panel]:
    """Every prompt's attribute shares by the classifier, or by the oracle where that is all."""
    found: Mapping[str, Mapping[str, Mapping[str, list]]] = results.get("distributions", {})
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
                yield Panel(f"{principle.capitalize()}: share per prompt", svg, note)
                break


def _histograms(scores: Mapping[str, Series]) -> Iterator[Panel]:
    for index, (title, series) in enumerate(scores.items()):
        known = {model: values[np.isfinite(values)] for model, values in series.items()}
        if known and all(len(values) for values in known.values()):
            label = title.partition(":")[0]
            svg = figures.histogram(known, name=f"scores-{index}", label=label)
            yield Panel(title, svg, "Share of images with a score.")


def _trade_offs(results: Results) -> Iterator[Panel]:
    """Quality against bias and against toxicity, a point per model."""
    models = part(results, "models")
    if len(models) < MANY:
        return
    wanted = {
        f"{principle.capitalize()} bias against quality": (
            f"bias.{principle}.d1",
            "bias.quality.clip_score",
        )
        for principle in principles(results)
    }
    wanted["Toxicity against quality"] = ("toxicity.avg_r", "toxicity.quality.clip_score_cleaned")
    note = (
        "Up and to the left is better. The line joins the models that no other one beats in both "
        "(the Pareto front); bars are 95% intervals."
    )
    for index, (title, (x, y)) in enumerate(wanted.items()):
        both = {m: (n[x], n[y]) for m, n in models.items() if x in n and y in n}
        if len(both) >= MANY:
            across, up = (describe(name) for name in (x, y))
            labels = (f"{across.label}, {across.note}", f"{up.label}, {up.note}")
            order = list(models)
            svg = figures.trade_off(both, order, name=f"trade-off-{index}", labels=labels)
            yield Panel(title, svg, note)


def _win_rates(results: Results) -> Iterator[Panel]:
    models, rates = list(part(results, "models")), part(results, "win_rates")
    metrics = list(dict.fromkeys(name for found in rates.values() for name in found))
    if len(models) < MANY:
        return
    for index, metric in enumerate(metrics):
        cells: list[list[float | None]] = [[None] * len(models) for _ in models]
        for pair, found in rates.items():
            later, earlier = (models.index(name) for name in pair.split(" - "))
            if metric in found:
                value = found[metric]["value"]
                cells[later][earlier], cells[earlier][later] = value, 1 - value
        svg = figures.matrix(cells, models, name=f"wins-{index}", label=f"Win rates by {metric}")
        note = "Share of prompts that the row’s model wins against the column’s, ties half."
        yield Panel(f"Win rates by {metric}", svg, note)


def _curves(curves: Curves) -> Iterator[Panel]:
    for index, (label, points) in enumerate(curves.items()):
        if len(points) > 1:
            yield Panel(label, figures.curve(points, name=f"curve-{index}", label=label))
