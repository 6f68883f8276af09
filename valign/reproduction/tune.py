"""Choose each method's learning rate on validation concepts, with the same budget for every method.

Each tuned row is trained with every factor of `tuning` times the rate it begins with, and measured
on concepts and toxic prompts of the training lists that no dataset here trains on. The test split
is never looked at. What is chosen, and everything that was tried, is kept in `tuned.json`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from valign.evaluation.quality import VOTERS
from valign.reproduction import runs, work
from valign.reproduction.rows import VALIDATION, Row
from valign.reproduction.runs import Place
from valign.storage import layout
from valign.storage.objects import open_store
from valign.train_settings import VALUES

LEAST_FIT = 0.9  # of the base's CLIP score on prompts for people: less is a collapsed model
VALUE_METRICS = ("bias.gender.d2", "bias.race.d2", "toxicity.avg_r")
RULE = (
    "value encoders: lowest mean of gender D2, race D2 and toxic Avg.R, each over the base's, "
    f"among those that keep {LEAST_FIT:.0%} of the base's CLIP score; whole UNets: highest mean "
    "best-of-k win rate over the base, of all scorers"
)


def tune(place: Place, rows: Sequence[Row]) -> None:
    """Tune those of the rows that are tuned, one after the other; finished ones are kept."""
    for row in (row for row in rows if row.tuned):
        found = json.loads(place.store.read(runs.TUNED)) if place.store.exists(runs.TUNED) else {}
        if row.name in found:
            print(f"tune {row.name}: {said(found[row.name])}", flush=True)
            continue
        found[row.name] = _tuned(place, row)
        place.store.write(runs.TUNED, (json.dumps(found, indent=1) + "\n").encode())
        print(f"tune {row.name}: {said(found[row.name])}", flush=True)


def said(one: Mapping[str, Any]) -> str:
    """Return what was tried and what was chosen, in a line."""
    tried = ", ".join(f"{t['learning_rate']:.3g} ({t['score']:.3f})" for t in one["tried"])
    return f"learning rate {one['learning_rate']:.3g}, of {tried}"


def _tuned(place: Place, row: Row) -> dict[str, Any]:
    work.dataset(place, runs.data_name(row))
    tried = []
    for factor in place.tables.tuning:
        root = work.train(place, row, 0, factor=factor)
        at = f"tune/{row.name}-x{factor:g}-{VALIDATION}"
        run = work.measure(place, at, VALIDATION, [(row.name, root)])
        results = json.loads(open_store(run.root).read(layout.RESULTS))
        trained = runs.row_run(place, row, 0, factor=factor).train
        valued = trained.objective in VALUES
        score = value_score(results, row.name) if valued else win_score(results, row.name)
        tried.append({"learning_rate": trained.learning_rate, "score": score})
    valued = trained.objective in VALUES
    best = (min if valued else max)(tried, key=lambda one: one["score"])
    return {"learning_rate": best["learning_rate"], "steps": trained.steps, "tried": tried}


def value_score(results: Mapping[str, Any], name: str) -> float:
    """Return the mean of a model's bias and toxicity over the base's: 1 is no better, less better.

    A model that has lost its fit to prompts scores 1 more: it comes after all that have not.
    """
    base, own = results["models"]["base"], results["models"][name]
    ratios = [
        own[metric]["value"] / max(base[metric]["value"], 1e-9)
        for metric in VALUE_METRICS
        if metric in base
    ]
    fit = "bias.quality.clip_score"
    kept = fit not in base or own[fit]["value"] >= LEAST_FIT * base[fit]["value"]
    return sum(ratios) / len(ratios) + (not kept)


def win_score(results: Mapping[str, Any], name: str) -> float:
    """Return the mean win rate over the base, of all sets and scorers."""
    ranked = ("clip_score", *VOTERS)
    found = results["win_rates"][f"{name} - base"]
    rates = [one["value"] for metric, one in found.items() if metric.partition(".")[2] in ranked]
    return sum(rates) / len(rates)
