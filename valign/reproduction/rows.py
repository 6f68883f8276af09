"""The rows of the papers' tables as data: what `rows.yaml` says, checked and chosen from.

In: the file that ships. Out: rows, and names of what they need. Nothing is run here.
"""

import fnmatch
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources as package_resources
from typing import Any, Literal

import yaml

HEADLINE_SEEDS = 3
TEST, VALIDATION, PARTI = "test", "validation", "parti"
LISTED = ("set", "also")  # keys of a row that hold several
Kind = Literal["trained", "base", "prompted", "none"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the tables.

    Attributes:
        name: of its folders and on the command line.
        title: on the page.
        model: what is measured: `trained`, the `base`, the base `prompted`, or `none` (the row is
            empty).
        why: why it is empty.
        data: the dataset that it trains on.
        label: labels other than the data's own, by name.
        set: settings that differ from the data's recipe.
        like: the row whose tuned learning rate it takes.
        tuned: whether it is tuned itself.
        headline: whether it has three training seeds.
        model_of: the row whose trained model it measures, in another cell.
        cell: what it is measured on.
        also: further cells.
        checkpoints: whether its training is measured at five steps.
        paper: by paper, what its tables call the row.
    """

    name: str
    title: str
    model: Kind = "trained"
    why: str = ""
    data: str = ""
    label: str = ""
    set: tuple[str, ...] = ()
    like: str = ""
    tuned: bool = False
    headline: bool = False
    model_of: str = ""
    cell: str = TEST
    also: tuple[str, ...] = ()
    checkpoints: bool = False
    paper: Mapping[str, str] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """Whether the row has a training of its own."""
        return self.model == "trained" and not self.model_of

    def seeds(self, headline: int = HEADLINE_SEEDS) -> range:
        """Return its training seeds, from 0."""
        return range(headline if self.headline else 1)


@dataclass(frozen=True)
class Data:
    """A dataset: a recipe with its differences, maybe over a generator that a row trained."""

    recipe: str
    set: tuple[str, ...] = ()
    generator_of: str = ""


@dataclass(frozen=True)
class Tables:
    """All that `rows.yaml` says."""

    rows: Mapping[str, Row]
    data: Mapping[str, Data]
    labels: Mapping[str, tuple[str, ...]]
    cells: Mapping[str, tuple[str, ...]]
    tuning: tuple[float, ...]


@functools.cache
def shipped() -> Tables:
    """Return what ships, its references checked."""
    text = (package_resources.files("valign.reproduction") / "rows.yaml").read_text("utf-8")
    return read(yaml.safe_load(text))


def read(tree: Mapping[str, Any]) -> Tables:
    """Return tables from their tree.

    Raises:
        LookupError: a row names data, labels, a cell or a row that is not there.
    """
    rows = {}
    for name, said in tree["rows"].items():
        stated: dict[str, Any] = {k: tuple(v) if k in LISTED else v for k, v in said.items()}
        rows[name] = Row(name=name, **stated)
    made = Tables(
        rows,
        {n: Data(**{**d, "set": tuple(d.get("set", ()))}) for n, d in tree["data"].items()},
        {name: tuple(settings) for name, settings in tree["labels"].items()},
        {name: tuple(settings) for name, settings in tree["cells"].items()},
        tuple(tree["tuning"]),
    )
    for row in rows.values():
        wanted = [(row.data, made.data), (row.label, made.labels), (row.like, rows)]
        wanted += [(row.model_of, rows), *((cell, made.cells) for cell in (row.cell, *row.also))]
        for name, there in wanted:
            if name and name not in there:
                raise LookupError(f"row {row.name}: there is no {name!r}")
        if row.trains != bool(row.data):
            raise LookupError(f"row {row.name}: what trains needs data, and nothing else does")
    return made


def choose(patterns: Sequence[str], tables: Tables) -> list[Row]:
    """Return the rows that any pattern names, in the tables' order; all without a pattern.

    Args:
        patterns: names or globs, such as `livo*`.
        tables: the rows.

    Raises:
        LookupError: a pattern names no row.
    """
    for pattern in patterns:
        if not fnmatch.filter(tables.rows, pattern):
            raise LookupError(f"no row {pattern!r}; there are {', '.join(tables.rows)}")
    return [
        row
        for name, row in tables.rows.items()
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]


def ordered(rows: Sequence[Row], tables: Tables) -> list[Row]:
    """Return the rows with what each needs before it: a model of another row, or its generator."""
    done: dict[str, Row] = {}

    def add(row: Row) -> None:
        needed = row.model_of or (row.data and tables.data[row.data].generator_of)
        if needed:
            add(tables.rows[needed])
        done.setdefault(row.name, row)

    for row in rows:
        add(row)
    return list(done.values())
