"""From rows to runs: which recipe with which settings makes a dataset, trains a row, measures it.

The layout, under the reproduction's root:

    prompts/SET.txt                       the prompt sets of the win rates
    data/DATA/, data/DATA-LABEL/          generate to encode, once each
    rows/ROW-sSEED/                       a training, with copies of what it reads
    evaluations/base[-CELL]/              the base's images and scores, once for each cell
    evaluations/ROW-sSEED[-CELL]/         a row's, beside the base's
    tune/ROW-xFACTOR/, tune/ROW-xFACTOR-validation/, tuned.json
    took.jsonl                            seconds of every piece of work
    page/                                 the page, its tables as CSV, its pictures

Settings are given in this order, later ones win: recipe, data, labels, row, tuned, the command
line's.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from valign import config
from valign.config import Run
from valign.reproduction.rows import PARTI, TEST, Row, Tables
from valign.stages.work import Runner
from valign.storage import layout
from valign.storage.objects import Store, open_store

EVALUATION = "miniature_vote"  # whose scorers read all that any table needs
IMAGES = 5  # per prompt of the win rates
TUNED, TOOK = "tuned.json", "took.jsonl"
SETS = ("held_out", "templates", "scenes")
CHECKPOINTS = 5
Settings = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a reproduction lies, and what all its runs share.

    Attributes:
        root: a folder's absolute path, or a URL.
        tables: the rows.
        runner_of: who carries a run's work.
        overrides: `key=value` of the command line, for every run.
        prompts: of the three prompt sets together.
        parti: file of PartiPrompts, "" for none.
        seeds: training seeds of headline rows.
    """

    root: str
    tables: Tables
    runner_of: Callable[[Run], Runner]
    overrides: Settings = ()
    prompts: int = 1_040
    parti: str = ""
    seeds: int = 3
    store: Store = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if "://" not in self.root:
            object.__setattr__(self, "root", os.path.abspath(os.path.expanduser(self.root)))
        object.__setattr__(self, "store", open_store(self.root))

    def tuned(self) -> dict[str, float]:
        """Return the learning rates that `--tune` chose so far, by row."""
        if not self.store.exists(TUNED):
            return {}
        found = json.loads(self.store.read(TUNED))
        return {name: one["learning_rate"] for name, one in found.items()}


def data_name(row: Row) -> str:
    """Return the name of the dataset that a row trains on, its labels said."""
    return f"{row.data}-{row.label}" if row.label else row.data


def data_settings(place: Place, name: str) -> tuple[str, Settings]:
    """Return recipe and settings of a dataset, `DATA` or `DATA-LABEL`."""
    plain, _, label = name.partition("-")
    data = place.tables.data[plain]
    settings = data.set
    if data.generator_of:
        made = f"{place.root}/{trained_at(place.tables.rows[data.generator_of], 0)}"
        settings += (f"generator={made}/{layout.MODEL}",)
    return data.recipe, settings + (place.tables.labels[label] if label else ())


def data_run(place: Place, name: str) -> Run:
    """Return the run that makes a dataset."""
    recipe, settings = data_settings(place, name)
    return config.load(recipe, [f"root={place.root}/data/{name}", *settings, *place.overrides])


def trained_at(row: Row, seed: int) -> str:
    """Return where a row is trained."""
    return f"rows/{row.name}-s{seed}"


def row_run(place: Place, row: Row, seed: int, *, factor: float | None = None) -> Run:
    """Return the run that trains a row.

    Args:
        place: the reproduction.
        row: one that trains.
        seed: of its training.
        factor: for tuning, times the learning rate it begins with; none: the tuned one.
    """
    recipe, settings = data_settings(place, data_name(row))
    at = trained_at(row, seed) if factor is None else f"tune/{row.name}-x{factor:g}"
    words = [f"root={place.root}/{at}", *settings, *row.set, f"train.seed={seed}"]
    if row.checkpoints:
        words.append(f"train.keep_checkpoints={CHECKPOINTS}")
    first = config.load(recipe, [*words, *place.overrides])
    if row.checkpoints:
        every = max(1, first.train.steps // CHECKPOINTS)
        words.append(f"train.save_every={every}")
    if factor is not None:
        words.append(f"train.learning_rate={first.train.learning_rate * factor}")
    elif rate := place.tuned().get(row.like or (row.name if row.tuned else "")):
        words.append(f"train.learning_rate={rate}")
    kept = [word for word in place.overrides if not word.startswith("train.learning_rate=")]
    return config.load(recipe, [*words, *(kept if factor is not None else place.overrides)])


def evaluated_at(name: str, seed: int | None, cell: str) -> str:
    """Return where a row, or the base without a seed, is measured."""
    whose = "base" if seed is None else f"{name}-s{seed}"
    return f"evaluations/{whose}" + ("" if cell == TEST else f"-{cell}")


def evaluation_run(place: Place, at: str, cell: str, models: Sequence[tuple[str, str]]) -> Run:
    """Return the run that measures models beside the base.

    Args:
        place: the reproduction.
        at: where.
        cell: on what.
        models: names and sources; none: the base alone.
    """
    named = ", ".join(f"{name}: {json.dumps(source)}" for name, source in models)
    known = "package:valign.miniature/weights/clip"
    words = [
        f"root={place.root}/{at}",
        "label.rule=livo",  # nothing is voted on here: scorers need not be voters
        f"evaluate.features={known}",
        "evaluate.report_worst=0",
        f"evaluate.keep_images={'false' if models else 'true'}",
        *place.tables.cells[cell],
        f"evaluate.prompt_sets={_sets(place, cell)}",
        *place.overrides,
        f"evaluate.models={{aligned: null{', ' + named if named else ''}}}",
    ]
    return config.load(EVALUATION, words)


def _sets(place: Place, cell: str) -> str:
    if cell == PARTI:
        return json.dumps([{"source": place.parti, "name": PARTI, "images": IMAGES}])
    if cell != TEST:
        return "[catalogue]"
    files = [{"source": f"{place.root}/prompts/{name}.txt", "images": IMAGES} for name in SETS]
    return json.dumps(["catalogue", *files])
