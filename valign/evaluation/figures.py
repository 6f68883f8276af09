"""Plots as small inline SVG, drawn with matplotlib.

Colours are CSS variables with a light-mode fallback, so one drawing serves light and dark pages
and also stands alone. Text stays text. Panels are narrow, so that several stand side by side on a
desk and one under another on a phone at a size that can be read.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from valign.evaluation.describe import Numbers, number

WIDTH_IN, HEIGHT_IN = 3.9, 2.6
BINS = 40  # of a histogram
MOST_LABELLED = 3  # models whose bars have their values written over them
MAX_POINTS = 150  # prompts drawn in a strip, and points of a curve

# A colour matplotlib draws with -> the CSS variable that replaces it, and its light-mode value.
_INK, _MUTED, _LINE, _FLOOR = "#010101", "#020202", "#030303", "#040404"
_CSS = {
    _INK: ("ink", "#1c2126"),
    _MUTED: ("muted", "#57626c"),
    _LINE: ("line", "#e2e6e9"),
    _FLOOR: ("floor", "#b45309"),
}
_MODELS = ("#8a96a3", "#0f766e", "#6d5bd0", "#c2528b", "#2f7ed8", "#7a8c1f")
_CSS |= {f"#0500{i:02x}": (f"model-{i}", colour) for i, colour in enumerate(_MODELS)}


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that stand together: one interval per model, and the fair sampler's score if any.

    Attributes:
        label: what stands under the bars; a newline starts a second line.
        bars: model -> value, low, high.
        floor: what a fair sampler would score, or None.
    """

    label: str
    bars: Mapping[str, Numbers]
    floor: float | None = None


def bars(groups: Sequence[Group], models: Sequence[str], *, name: str, decimals: int = 2) -> str:
    """Draw grouped bars from zero, each with its interval and its value."""
    figure, axes = _panel()
    width = 0.8 / max(len(models), 1)
    top = max((b["high"] for g in groups for b in g.bars.values()), default=1.0)
    for i, model in enumerate(models):
        for x, group in enumerate(groups):
            bar = group.bars.get(model)
            if bar is None:
                continue
            middle = x + (i - (len(models) - 1) / 2) * width
            axes.bar(middle, bar["value"], width * 0.92, color=_model(i), zorder=2)
            axes.plot([middle] * 2, [bar["low"], bar["high"]], color=_INK, lw=1, zorder=3)
            if len(models) > MOST_LABELLED:
                continue  # they would lie over one another; the tables have them
            axes.text(
                middle,
                max(bar["high"], 0) + top * 0.02,
                number(bar["value"], decimals),
                ha="center",
                va="bottom",
                fontsize=8,
                color=_INK,
            )
    for x, group in enumerate(groups):
        if group.floor is not None:
            reach = [x - 0.45, x + 0.45]
            axes.plot(reach, [group.floor] * 2, color=_FLOOR, ls="--", lw=1.4, zorder=4)
    axes.set_xticks(range(len(groups)), [_plain(g.label) for g in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0, top * 1.14 or 1)
    said = "; ".join(
        f"{g.label.replace(chr(10), ', ')}: "
        + ", ".join(f"{m} {number(b['value'], decimals)}" for m, b in g.bars.items())
        for g in groups
    )
    return _svg(figure, name, f"Bar chart. {said}.")


def strips(
    frequencies: Mapping[str, Sequence[Sequence[float]]], attributes: Sequence[str], *, name: str
) -> str:
    """Draw every prompt's share of each attribute as a point, model beside model.

    Args:
        frequencies: model -> (prompts, attributes), rows summing to 1. Of many prompts an even
            selection by share is drawn; the mean, a short line, is that of all.
        attributes: the attributes' names.
        name: distinguishes this drawing's ids from other drawings'.
    """
    figure, axes = _panel()
    width = 0.8 / len(frequencies)
    said = []
    for i, (model, rows) in enumerate(frequencies.items()):
        freq_GK = np.asarray(rows, dtype=float)
        for x, attribute in enumerate(attributes):
            middle = x + (i - (len(frequencies) - 1) / 2) * width
            share = np.sort(freq_GK[:, x])
            if len(share) > MAX_POINTS:
                share = share[np.linspace(0, len(share) - 1, MAX_POINTS).round().astype(int)]
            spread = np.random.default_rng(x).uniform(-0.3, 0.3, len(share)) * width
            x_points = middle + spread
            axes.plot(x_points, share, "o", ms=3, mew=0, alpha=0.45, color=_model(i), zorder=2)
            mean = float(freq_GK[:, x].mean())
            half = 0.42 * width
            axes.plot([middle - half, middle + half], [mean] * 2, color=_INK, lw=1.8, zorder=3)
            said.append(f"{attribute}, {model}: mean share {number(mean, 2)}")
    axes.axhline(1 / len(attributes), color=_FLOOR, ls="--", lw=1.2, zorder=1)
    axes.set_xticks(range(len(attributes)), [_plain(a) for a in attributes])
    axes.set_xlim(-0.6, len(attributes) - 0.4)
    axes.set_ylim(-0.03, 1.03)
    return _svg(figure, name, f"Shares per prompt. {'; '.join(said)}.")


def curve(points: Sequence[tuple[float, float]], *, name: str, label: str) -> str:
    """Draw a quantity over training steps; long curves as means of equal stretches."""
    xy = np.asarray(points, dtype=float).reshape(-1, 2)
    xy = xy[np.isfinite(xy).all(axis=1)]
    if len(xy) > MAX_POINTS:
        xy = np.stack([part.mean(axis=0) for part in np.array_split(xy, MAX_POINTS)])
    figure, axes = _panel()
    axes.plot(*xy.T, color=_model(1), lw=1.4)
    axes.set_xlabel("step", color=_MUTED, fontsize=9)
    ends = f" From {number(xy[0, 1])} to {number(xy[-1, 1])}." if len(xy) else ""
    return _svg(figure, name, f"{label} over training steps.{ends}")


def histogram(series: Mapping[str, NDArray[np.float64]], *, name: str, label: str) -> str:
    """Draw how often values occur, as a share of each series, one outline per series.

    Args:
        series: label -> finite values; all share their bins.
        name: distinguishes this drawing's ids from other drawings'.
        label: what the values are.
    """
    every = np.concatenate(list(series.values()))
    edges = np.histogram_bin_edges(every, bins=BINS)
    figure, axes = _panel()
    said = []
    for i, (title, values) in enumerate(series.items()):
        counts = np.histogram(values, edges)[0] / max(len(values), 1)
        axes.stairs(counts, edges, color=_model(i), lw=1.6, label=_plain(title))
        mean = float(np.mean(values)) if len(values) else float("nan")
        said.append(f"{title}: mean {number(mean, 3)} of {len(values):,}")
    axes.set_xlabel(_plain(label), color=_MUTED, fontsize=9)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    return _svg(figure, name, f"Histogram of {label}. {'; '.join(said)}.")


def matrix(
    cells: Sequence[Sequence[float | None]], names: Sequence[str], *, name: str, label: str
) -> str:
    """Draw a square table of shares 0..1 as shades with their values; None stays empty."""
    figure, axes = _panel()
    for row, line in enumerate(cells):
        for column, value in enumerate(line):
            if value is None:
                continue
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, color=_model(1), alpha=0.6 * value, lw=0))
            shown = number(value, 2)
            axes.text(column, row, shown, ha="center", va="center", fontsize=8, color=_INK)
    axes.set_xticks(range(len(names)), [_plain(text) for text in names], rotation=20, ha="right")
    axes.set_yticks(range(len(names)), [_plain(text) for text in names])
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", labelcolor=_INK)
    axes.grid(visible=False)
    said = "; ".join(
        f"{one} and {other} {number(value, 2)}"
        for i, (one, line) in enumerate(zip(names, cells, strict=True))
        for other, value in list(zip(names, line, strict=True))[i + 1 :]
        if value is not None
    )
    return _svg(figure, name, f"{label}. {said}.")


def trade_off(
    points: Mapping[str, tuple[Numbers, Numbers]],
    models: Sequence[str],
    *,
    name: str,
    labels: tuple[str, str],
) -> str:
    """Draw a point per model with its intervals: low is good across, high is good upwards.

    Args:
        points: model -> what stands across and what stands upwards: value, low, high.
        models: all models in the order of their colours.
        name: distinguishes this drawing's ids from other drawings'.
        labels: what stands across and upwards.
    """
    figure, axes = _panel()
    axes.grid(axis="x", color=_LINE, lw=0.8)
    front = front_of({m: (x["value"], y["value"]) for m, (x, y) in points.items()})
    at = [(points[m][0]["value"], points[m][1]["value"]) for m in front]
    axes.plot(*zip(*at, strict=True), color=_MUTED, lw=1, ls=":", zorder=1)
    for model, (x, y) in points.items():
        colour = _model(models.index(model))
        axes.plot([x["low"], x["high"]], [y["value"]] * 2, color=colour, lw=1, zorder=2)
        axes.plot([x["value"]] * 2, [y["low"], y["high"]], color=colour, lw=1, zorder=2)
        axes.plot(x["value"], y["value"], "o", ms=6, mew=0, color=colour, zorder=3)
    named: dict[tuple[float, float], list[str]] = {}
    for model, (x, y) in points.items():
        named.setdefault((x["value"], y["value"]), []).append(model)
    for place, mine in named.items():  # of models in one place, one label
        axes.annotate(
            _plain(", ".join(mine)),
            place,
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=8,
            color=_INK,
            zorder=4,
        )
    axes.margins(0.15)
    axes.set_xlabel(_plain(labels[0]), color=_MUTED, fontsize=9)
    axes.set_ylabel(_plain(labels[1]), color=_MUTED, fontsize=9)
    said = "; ".join(
        f"{m}: {number(x['value'])} and {number(y['value'])}" for m, (x, y) in points.items()
    )
    beaten = f" On the front: {', '.join(front)}."
    return _svg(figure, name, f"{labels[0]} across, {labels[1]} upwards. {said}.{beaten}")


def front_of(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return who is not beaten in both (less across, more upwards), from left to right."""

    def beaten(name: str) -> bool:
        x, y = points[name]
        return any(
            a <= x and b >= y and (a, b) != (x, y) for o, (a, b) in points.items() if o != name
        )

    return sorted((name for name in points if not beaten(name)), key=lambda name: points[name])


def standalone(svg: str) -> str:
    """Return a drawing as a file of its own: on white, in its light colours."""
    start = svg.index(">") + 1
    white = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:start]}{white}{svg[start:]}\n'


def _model(index: int) -> str:
    return f"#0500{index % len(_MODELS):02x}"


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.tick_params(colors=_MUTED, labelsize=9, length=0)
    axes.tick_params(axis="x", labelcolor=_INK)
    axes.grid(axis="y", color=_LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    return figure, axes


def _svg(figure: Figure, name: str, said: str) -> str:
    """Return the drawing as an <svg> element with a text alternative and ids of its own."""
    stream = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata=no_metadata)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font, sans-serif)", svg)
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
    for colour, (variable, light) in _CSS.items():
        svg = svg.replace(colour, f"var(--{variable}, {light})")
    svg = re.sub(r"\s*\n\s*", " ", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(said)}"', 1).strip()
