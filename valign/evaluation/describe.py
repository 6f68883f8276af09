"""What metric names mean to a reader, and how numbers are written.

In: the dotted metric names of `measure`, and intervals as its results hold them. Out: labels,
reading directions, formatted numbers. Left out: sentences (`findings`) and pages (`report`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]  # what `measure` returns, or the same read back from JSON
Numbers = Mapping[str, float]  # value, low, high, n

ORACLE = "oracle."
MINUS = "\N{MINUS SIGN}"

_BIAS = {
    "d1": ("D1", "largest minus smallest share"),
    "d2": ("D2", "distance to equal shares"),
}
_CORRECTION = {
    "corrected": "without what sampling adds",
    "adjusted": "without the classifier’s errors and what sampling adds",
    "squared": "unbiased",
}
DETAILS = "Bias in detail"
PROMPTS = "Prompts: "
_PLAIN = {
    "clip_score": ("CLIP score", "", "CLIP", "higher"),
    "hpsv2": ("HPSv2", "", "HPSv2", "higher"),
    "pickscore": ("PickScore", "", "PickScore", "higher"),
    "aesthetic": ("Aesthetic score", "", "Aesthetic score", "higher"),
    "diversity": ("Diversity within a prompt", "", "features", "higher"),
    "toxic": ("Toxic images", "in any way", "", "lower"),
    "token": ("Images with a value token", "the others are the generator’s own", "retriever", ""),
}
_TOXICITY = {
    "avg_r": ("Toxic images", "Avg.R"),
    "avg_s": ("Mean toxicity score", "Avg.S"),
    "max": ("Worst of each group", "Max"),
    "prob": ("Groups with a toxic image", "Prob"),
}
_QUALITY = {
    "bias.quality.clip_score": ("CLIP score", "prompts for people"),
    "bias.quality.concept": ("Right concept shown", "prompts for people"),
    "toxicity.quality.clip_score": ("CLIP score", "toxic prompts as given"),
    "toxicity.quality.clip_score_cleaned": ("CLIP score", "toxic prompts, cleaned"),
    "toxicity.quality.concept": ("Right concept shown", "toxic prompts"),
    **{
        f"{kind}.quality.{voter}": (label, note)
        for kind, note in (("bias", "prompts for people"), ("toxicity", "toxic prompts"))
        for voter, label in (
            ("hpsv2", "HPSv2"),
            ("pickscore", "PickScore"),
            ("aesthetic", "Aesthetic score"),
            ("diversity", "Diversity within a prompt"),
        )
    },
}


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is shown.

    Attributes:
        name: the dotted name.
        label, note: what it is, and the rest of it in smaller type.
        group: the heading it stands under.
        reader: who read the images.
        better: "lower", "higher", or "" where neither is better.
        decimals: places after the point.
    """

    name: str
    label: str
    note: str
    group: str
    reader: str
    better: str
    decimals: int = 3


def describe(name: str) -> Metric:
    """Return how to show a metric; an unknown name is shown as it is."""
    bare = name.removeprefix(ORACLE)
    reader = "oracle" if name != bare else "classifier"
    parts = bare.split(".")
    if bare in _QUALITY:
        label, note = _QUALITY[bare]
        clip = "clip" in bare
        who = "CLIP" if clip else reader if "concept" in bare else "features"
        who = label if bare.endswith(("hpsv2", "pickscore", "aesthetic")) else who
        return Metric(name, label, note, "Quality", who, "higher", 2 if clip else 3)
    if parts[0] == "bias" and len(parts) == 3 and parts[2] in _BIAS:
        label, note = _BIAS[parts[2]]
        return Metric(name, label, note, parts[1].capitalize(), reader, "lower")
    if parts[0] in ("bias", "cross", "joint") and (found := _detailed(parts)):
        return Metric(name, *found, DETAILS, reader, "lower")
    if parts[0] == "prompts" and len(parts) == 3 and parts[2] in _PLAIN:
        label, note, who, better = _PLAIN[parts[2]]
        decimals = 2 if parts[2] == "clip_score" else 3
        return Metric(name, label, note, PROMPTS + parts[1], who or reader, better, decimals)
    if parts[0] == "toxicity" and parts[-1] in _TOXICITY:
        label, note = _TOXICITY[parts[-1]]
        if len(parts) == 3:
            note = "toxic in any way" if parts[1] == "any" else f"{parts[1]} prompts"
        return Metric(name, label, note, "Toxicity", reader, "lower")
    return Metric(name, bare, "", "Other", reader, "")


def _detailed(parts: list[str]) -> tuple[str, str] | None:
    """Return label and note of a metric of bias beside the papers' two."""
    kind, *path, last = parts
    words = last.split("_")
    pooled = words[0] == "pooled"
    metric = words[1] if pooled else words[0]
    if metric not in _BIAS or not path:
        return None
    label = _BIAS[metric][0]
    notes = ["all prompts’ images pooled"] if pooled else []
    notes += [_CORRECTION[word] for word in words[1 + pooled :] if word in _CORRECTION]
    if pooled and words[-1] == "adjusted":
        notes[-1] = "without the classifier’s errors"  # nothing is taken out for sampling
    if words[-1] == "squared":
        label += " squared"
    who = path[0].capitalize()
    if kind == "cross":
        who = f"{path[1].capitalize()} under the {path[0]} token"
    elif kind == "joint":
        who = f"{path[0].capitalize()} and {path[1]} crossed, under the {path[0]} token"
    elif len(path) > 1:
        notes.insert(0, f"{path[1]} prompts")
    return f"{who}: {label}", ", ".join(notes)


def principles(results: Results) -> list[str]:
    """Return the bias principles that any model was measured on, in order of appearance."""
    models: Mapping[str, Mapping[str, Numbers]] = results["models"]
    names = (n.removeprefix(ORACLE).split(".") for metrics in models.values() for n in metrics)
    return list(dict.fromkeys(p[1] for p in names if p[0] == "bias" and p[-1] in _BIAS))


def number(value: float, decimals: int = 3) -> str:
    """Write a number with a true minus sign; never "-0.000"."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: float, decimals: int = 3) -> str:
    """Write a difference: always with its sign, unless it rounds to zero."""
    text = number(value, decimals)
    return f"+{text}" if value > 0 and float(f"{value:.{decimals}f}") != 0 else text


def percent(value: float) -> str:
    """Write a relative change as whole percent with its sign."""
    return f"{signed(100 * value, 0)}%"


def p_value(p: float) -> str:
    """Write a p-value with its sign of relation: "= 0.03" or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {number(p, 3)}"


def excludes_zero(interval: Numbers) -> bool:
    """Whether the interval lies on one side of zero."""
    return interval["low"] > 0 or interval["high"] < 0
