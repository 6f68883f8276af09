"""From finished evaluations to numbers: a row's metric with its interval, and pairs of rows.

A metric is one of `results.json`, or made of its values per prompt:

- `bias.d1`, `bias.d2`: the mean of gender and race, prompt by prompt (LiVO Table 11)
- `toxicity.KIND.avg_s`, `.max`, `.prob`: over one kind's prompts (LiVO Table 7)
- `fid.bias`, `kid.bias`, `fid.toxicity`, `kid.toxicity`: distances, of bias the mean of its sets
- `win.SET.SCORE`: best-of-5 win rate over the base; `win.SET.SCORE.over.ROW`: over another row
- `mean.SCORE`, `min.`, `max.`, `std.`: of all images of the prompt sets

`oracle.` before a metric reads the miniature's truth: its marks, or its raters' utilities. Several
training seeds are averaged prompt by prompt. Numbers are as in results, 0..1 where they are shares.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from valign.evaluation import intervals
from valign.reproduction import runs, work
from valign.reproduction.rows import PARTI, TEST, Row
from valign.reproduction.runs import Place
from valign.storage import layout

ORACLE = "oracle."
STATISTICS = ("avg_s", "max", "prob")
TRUE = {"clip_score": "utility.clip"}
TRUE |= {name: f"utility.{name}" for name in ("hpsv2", "pickscore", "aesthetic")}
MOMENTS = ("mean", "min", "max", "std")
Z, POWER_Z = 1.96, 2.80  # of a 95% interval; of 80% power at that level
PerPrompt = dict[str, float]


@dataclass(frozen=True)
class Number:
    """A number with its interval, if it has one, and the values of each seed."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: tuple[float, ...] = ()

    @property
    def detectable(self) -> float | None:
        """The smallest true value that would be told from 0 with 80% power, for a difference."""
        if self.low is None or self.high is None:
            return None
        return POWER_Z * (self.high - self.low) / (2 * Z)


@dataclass
class Evaluated:
    """One model of one evaluation."""

    model: str
    results: Mapping[str, Any]
    best: Mapping[str, Any]
    _kept: dict[str, PerPrompt | None] = field(default_factory=dict)

    def per_prompt(self, metric: str) -> PerPrompt | None:
        """Return a metric's value of each prompt; None where it has none."""
        if metric not in self._kept:
            self._kept[metric] = self._per_prompt(metric)
        return self._kept[metric]

    def _per_prompt(self, metric: str) -> PerPrompt | None:
        kept = self.results["per_prompt"]
        values = kept["values"].get(self.model, {})
        oracle = ORACLE if metric.startswith(ORACLE) else ""
        parts = metric.removeprefix(ORACLE).split(".")
        if metric in values:
            return _known(kept["prompts"], values[metric])
        if parts[0] == "bias" and len(parts) == 2:
            sides = [
                _known(kept["prompts"], values[name])
                for key in ("gender", "race")
                if (name := f"{oracle}bias.{key}.{parts[1]}") in values
            ]
            return _mean(sides) if sides else None
        if parts[0] == "toxicity" and len(parts) == 3 and parts[2] in STATISTICS:
            whole, mine = f"{oracle}toxicity.{parts[2]}", f"{oracle}toxicity.{parts[1]}.avg_r"
            if whole in values and mine in values:
                of = _known(kept["prompts"], values[mine])
                everything = _known(kept["prompts"], values[whole])
                return {key: v for key, v in everything.items() if key in of}
        return None

    def distance(self, metric: str) -> Number | None:
        """Return `fid.SET` or `kid.SET`, of bias the mean over its sets."""
        name, _, which = metric.partition(".")
        found = self.results["distances"].get(f"{self.model} - base", {})
        sets = ("gender", "race") if which == "bias" else (which,)
        ones = [found[f"{s}.{name}"] for s in sets if f"{s}.{name}" in found]
        if not ones:
            return None
        if len(ones) == 1:
            return Number(ones[0]["value"], ones[0]["low"], ones[0]["high"], ones[0]["n"])
        return Number(float(np.mean([one["value"] for one in ones])), n=ones[0]["n"])

    def best_of(self, prompts: str, score: str) -> PerPrompt:
        """Return each prompt's best score; of all sets together where `prompts` is `all`."""
        sets = self.best.get(self.model, {})
        wanted = [name for name in sets if prompts in (name, "all")]
        found: PerPrompt = {}
        for name in wanted:
            found |= {
                f"{name}/{k}": v for k, v in sets[name].get(score, {"best": {}})["best"].items()
            }
        return found

    def moment(self, which: str, score: str) -> float | None:
        """Return a moment of a score over all images of the prompt sets."""
        sets = [
            one[score]["moments"] for one in self.best.get(self.model, {}).values() if score in one
        ]
        if not sets:
            return None
        values = [one[which] for one in sets]
        if which in ("min", "max"):
            return min(values) if which == "min" else max(values)
        return sum(values) / len(values)


class Book:
    """All evaluations that are finished, read as they are asked for."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._read: dict[tuple[str, str], Evaluated | None] = {}

    def evaluated(self, row: Row, seed: int, cell: str = "", model: str = "") -> Evaluated | None:
        """Return a row's evaluation, of its own cell by default; None if it is not finished."""
        whose = None if row.model == "base" else seed
        at = runs.evaluated_at(row.name, whose, cell or row.cell)
        name = model or ("base" if row.model == "base" else row.name)
        if (at, name) not in self._read:
            self._read[at, name] = self._open(at, name)
        return self._read[at, name]

    def _open(self, at: str, name: str) -> Evaluated | None:
        store = self.place.store
        if not work.finished(self.place, at, "evaluate") or not store.exists(f"{at}/{work.BEST}"):
            return None
        results = json.loads(store.read(f"{at}/{layout.RESULTS}"))
        if name not in results["models"]:
            return None
        return Evaluated(name, results, json.loads(store.read(f"{at}/{work.BEST}")))

    def seeds(self, row: Row, cell: str = "", model: str = "") -> list[Evaluated]:
        """Return a row's evaluations, one for each finished seed."""
        found = (self.evaluated(row, s, cell, model) for s in row.seeds(self.place.seeds))
        return [one for one in found if one is not None]

    def number(self, row: Row, metric: str, cell: str = "", model: str = "") -> Number | None:
        """Return a row's metric; None where it has none, or is not finished."""
        found = self.seeds(row, cell, model)
        if not found:
            return None
        plain = metric.removeprefix(ORACLE).split(".")[0]
        if plain in ("fid", "kid"):
            ones = [one for one in (e.distance(metric) for e in found) if one]
            return _averaged(ones)
        if plain in MOMENTS:
            score = metric.removeprefix(ORACLE).partition(".")[2]
            column = TRUE[score] if metric.startswith(ORACLE) else score
            values = [v for v in (e.moment(plain, column) for e in found) if v is not None]
            return _averaged([Number(v) for v in values])
        if (
            plain != "win"
            and len(found) == 1
            and metric in found[0].results["models"][found[0].model]
        ):
            one = found[0].results["models"][found[0].model][metric]
            return Number(one["value"], one["low"], one["high"], one["n"], (one["value"],))
        return _number(self.values(row, metric, cell, model))

    def values(self, row: Row, metric: str, cell: str = "", model: str = "") -> list[PerPrompt]:
        """Return a metric's value of each prompt, for each finished seed."""
        found = self.seeds(row, cell, model)
        if metric.removeprefix(ORACLE).startswith("win."):
            return self._wins(row, found, metric, cell or row.cell)
        made = (one.per_prompt(metric) for one in found)
        return [one for one in made if one]

    def _wins(
        self, row: Row, found: Sequence[Evaluated], metric: str, cell: str
    ) -> list[PerPrompt]:
        _, prompts, score, *over = metric.removeprefix(ORACLE).split(".")
        if metric.startswith(ORACLE) and score not in TRUE:
            return []
        column = TRUE[score] if metric.startswith(ORACLE) else score
        made = []
        for seed, one in enumerate(found):
            other: Evaluated | None = Evaluated("base", one.results, one.best)
            if over:
                rival = self.place.tables.rows[over[1]]
                other = self.evaluated(rival, seed if rival.headline else 0, cell)
            if other is None:
                continue
            mine, theirs = one.best_of(prompts, column), other.best_of(prompts, column)
            both = mine.keys() & theirs.keys()
            made.append({key: 0.5 + 0.5 * float(np.sign(mine[key] - theirs[key])) for key in both})
        return [one for one in made if one]

    def difference(self, row: Row, other: Row, metric: str) -> Number | None:
        """Return row minus other, paired by prompt, seeds averaged first; None without both."""
        one, two = self.values(row, metric), self.values(other, metric)
        if not one or not two:
            return None
        first, second = _mean(one), _mean(two)
        both = sorted(first.keys() & second.keys())
        if len(both) < 2:
            return None
        found = intervals.paired_difference(
            [first[key] for key in both], [second[key] for key in both], seed=0
        )
        return Number(found.value, found.low, found.high, found.n)


def _known(keys: Sequence[str], values: Sequence[float | None]) -> PerPrompt:
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


def _mean(sides: Sequence[PerPrompt]) -> PerPrompt:
    """Return each prompt's mean over the sides that have it."""
    keys = dict.fromkeys(key for side in sides for key in side)
    return {key: float(np.mean([side[key] for side in sides if key in side])) for key in keys}


def _number(seeds: Sequence[PerPrompt]) -> Number | None:
    if not seeds:
        return None
    together = _mean(seeds)
    if len(together) < 2:
        return None
    found = intervals.mean_interval([together[key] for key in sorted(together)], seed=0)
    each = tuple(float(np.mean(list(one.values()))) for one in seeds)
    return Number(found.value, found.low, found.high, found.n, each)


def _averaged(ones: Sequence[Number]) -> Number | None:
    if not ones:
        return None
    if len(ones) == 1:
        return Number(ones[0].value, ones[0].low, ones[0].high, ones[0].n, (ones[0].value,))
    each = tuple(one.value for one in ones)
    return Number(float(np.mean(each)), n=ones[0].n, seeds=each)


def cells_of(row: Row) -> tuple[str, ...]:
    """Return the cells with prompt sets that a row is measured on."""
    return tuple(cell for cell in (row.cell, *row.also) if cell in (TEST, PARTI))
