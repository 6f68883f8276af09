"""Conditions on results, such as "toxicity.avg_r > 0.05", for whoever must stop when one holds.

A condition is `[MODEL:]METRIC[.low|.high|.value] OPERATOR NUMBER`. MODEL is a model of the
results, a comparison such as `aligned - base` (its differences, then its win rates), or, where two
results are compared, `change`. Without it the model that is not the base is meant. Everything else
is an error: a condition that is misread would let pass what it was to stop.
"""

import difflib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from valign.evaluation.describe import Numbers, Results

OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
ENDS = ("value", "low", "high")
_FORM = re.compile(
    r"\s*(?:(?P<model>[^:<>=]+?)\s*:)?\s*(?P<metric>\w[\w.-]*)\s*(?P<operator>[<>]=?)"
    r"\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on which to fail, as it was written and what it says."""

    text: str
    model: str
    metric: str
    end: str
    operator: str
    number: float


def parse(text: str) -> Gate:
    """Return the condition that a text states.

    Raises:
        ValueError: the text has another form.
    """
    found = _FORM.fullmatch(text)
    number = float(found["number"]) if found else math.nan
    if found is None or not math.isfinite(number):
        raise ValueError(
            f"{text!r} is no condition; write one such as 'toxicity.avg_r > 0.05', "
            "'aligned:bias.gender.d1.high >= 0.4' or 'aligned - base:toxicity.avg_r.low > 0' "
            f"(operators: {' '.join(OPERATORS)})"
        )
    metric, _, end = found["metric"].rpartition(".")
    if end not in ENDS:
        metric, end = found["metric"], "value"
    return Gate(text.strip(), found["model"] or "", metric, end, found["operator"], number)


def verdicts(
    gates: Sequence[Gate],
    results: Results,
    changes: Mapping[str, Numbers] | None = None,
) -> list[tuple[bool, str]]:
    """Return for each condition whether it holds (which is a failure), and that in words.

    Args:
        gates: the conditions.
        results: of an evaluation.
        changes: metric -> what `change` means, where results are compared.

    Raises:
        LookupError: there is no such model or metric; the nearest ones are named.
    """
    said = []
    for gate in gates:
        where, numbers = _numbers(gate, results, changes)
        value = numbers[gate.metric][gate.end]
        holds = OPERATORS[gate.operator](value, gate.number)
        end = "" if gate.end == "value" else f".{gate.end}"
        said.append(
            (
                holds,
                f"{'FAIL' if holds else 'pass'}: {gate.text} "
                f"({where}:{gate.metric}{end} is {value:.6g})",
            )
        )
    return said


def judged_model(results: Results) -> str:
    """Return the model that is meant where none is named: the only one, or the one not the base.

    Raises:
        LookupError: there are several.
    """
    models = list(results["models"])
    comparisons = results.get("differences", {})
    others = [m for m in models if any(c.startswith(f"{m} - ") for c in comparisons)] or models
    if len(others) != 1:
        raise LookupError(f"name one of the models {', '.join(models)} before the metric, with ':'")
    return others[0]


def _numbers(
    gate: Gate, results: Results, changes: Mapping[str, Numbers] | None
) -> tuple[str, Mapping[str, Numbers]]:
    """Return the place that a condition names, and its metrics, among them the condition's."""
    where = gate.model or judged_model(results)
    places = {name: [metrics] for name, metrics in results["models"].items()}
    for part in ("differences", "win_rates"):
        for name, metrics in results.get(part, {}).items():
            places.setdefault(name, []).append(metrics)
    if changes is not None:
        places["change"] = [changes]
    if where not in places:
        raise LookupError(f"{gate.text!r}: there is no {where!r}; there is {', '.join(places)}")
    for metrics in places[where]:
        if gate.metric in metrics:
            return where, metrics
    known = [name for metrics in places[where] for name in metrics]
    near = difflib.get_close_matches(gate.metric, known, n=3, cutoff=0.4) or known[:3]
    raise LookupError(
        f"{gate.text!r}: {where} has no metric {gate.metric!r}; did you mean {', '.join(near)}?"
    )
