"""The results in plain words: what changed, by how much, and how sure that is.

In: the dict that `measure` returns. Out: one finding per headline metric and an opening sentence.
A change is called one only where the 95% interval of the paired difference excludes zero; whatever
else moved is said to show no clear change. The oracle's reading stands beside the classifier's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from valign.evaluation.describe import (
    ORACLE,
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

BETTER, WORSE, UNCLEAR = "better", "worse", "no clear change"
_HEADLINES = {
    "toxicity.avg_r": "Toxic images",
    "bias.quality.clip_score": "Fit to prompts for people",
    "toxicity.quality.clip_score_cleaned": "Fit to cleaned toxic prompts",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One headline metric, compared.

    Attributes:
        title: what was measured, for a reader.
        metric: its dotted name.
        before, after: the two means, written out.
        change: the relative change, or the difference where there is none, written out.
        verdict: BETTER, WORSE or UNCLEAR.
        words: the whole comparison in a sentence or two.
        oracle: what the oracle says of it; "" where it says nothing.
    """

    title: str
    metric: str
    before: str
    after: str
    change: str
    verdict: str
    words: str
    oracle: str


def findings(results: Results, comparison: str) -> list[Finding]:
    """Return the headline findings of one comparison, such as "aligned - base".

    Raises:
        LookupError: the results hold no such comparison.
    """
    differences = _part(results, "differences")
    if comparison not in differences:
        raise LookupError(f"no comparison {comparison!r}; there is {', '.join(differences)}")
    titles = {f"bias.{p}.d1": f"{p.capitalize()} bias" for p in principles(results)} | _HEADLINES
    return [
        _finding(results, comparison, metric, title)
        for metric, title in titles.items()
        if metric in differences[comparison]
    ]


def opening(results: Results, comparison: str) -> list[str]:
    """Return one sentence for what is better, one for what is worse, one for what is open."""
    model, base = comparison.split(" - ")
    said = []
    found = findings(results, comparison)
    starts = {
        BETTER: f"Better under “{model}” than under “{base}”: ",
        WORSE: "Worse: ",
        UNCLEAR: "No clear change, as the interval of the difference includes zero: ",
    }
    for verdict, start in starts.items():
        items = [
            f"{_lower_first(f.title)} ({f.before} to {f.after}, {f.change})"
            for f in found
            if f.verdict == verdict
        ]
        if items:
            said.append(start + "; ".join(items) + ".")
    return said


def _part(results: Results, key: str) -> Mapping[str, Mapping[str, Numbers]]:
    return results.get(key, {})


def _verdict(metric: str, difference: Numbers) -> str:
    if not excludes_zero(difference):
        return UNCLEAR
    falls = difference["value"] < 0
    return BETTER if falls == (describe(metric).better == "lower") else WORSE


def _finding(results: Results, comparison: str, metric: str, title: str) -> Finding:
    model, base = comparison.split(" - ")
    decimals = describe(metric).decimals
    difference = _part(results, "differences")[comparison][metric]
    relative = _part(results, "relative_changes").get(comparison, {}).get(metric)
    before = number(_part(results, "models")[base][metric]["value"], decimals)
    after = number(_part(results, "models")[model][metric]["value"], decimals)
    verdict = _verdict(metric, difference)
    change = percent(relative["value"]) if relative else signed(difference["value"], decimals)
    ends = f"{signed(difference['low'], decimals)} to {signed(difference['high'], decimals)}"
    if verdict == UNCLEAR:
        words = f"The difference’s 95% interval, {ends}, includes zero: this may be chance."
    else:
        words = f"Difference {signed(difference['value'], decimals)}, 95% interval {ends}."
    floor = results.get("floors", {}).get(metric)
    if floor:
        words += (
            f" A perfectly fair sampler would score {number(floor['value'])} "
            f"with {floor['images_per_prompt']} images per prompt."
        )
    families = _part(results, "p_values")
    if metric in families.get(comparison, {}):
        many = sum(len(tested) for tested in families.values())
        p = p_value(families[comparison][metric]["holm"])
        words += f" p {p} after Holm’s correction for {many} comparisons."
    oracle = _oracle(results, comparison, metric)
    return Finding(title, metric, before, after, change, verdict, words, oracle)


def _oracle(results: Results, comparison: str, metric: str) -> str:
    """Say whether the reading from the pixels agrees."""
    name = ORACLE + metric
    difference = _part(results, "differences")[comparison].get(name)
    if difference is None:
        return ""
    model, base = comparison.split(" - ")
    models = _part(results, "models")
    ends = f"{number(models[base][name]['value'])} to {number(models[model][name]['value'])}"
    relative = _part(results, "relative_changes").get(comparison, {}).get(name)
    change = f", {percent(relative['value'])}" if relative else ""
    verdict = _verdict(name, difference)
    if verdict == UNCLEAR:
        return f"Read from the pixels: {ends}{change}; the difference’s interval includes zero."
    agrees = verdict == _verdict(metric, _part(results, "differences")[comparison][metric])
    return f"Read from the pixels: {ends}{change}" + ("." if agrees else f", which is {verdict}.")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
