"""The hours that rows will take, before they are begun: counted work at a stated rate.

The rate is `stages.estimate`'s, of one core or GPU as measured; what has been measured here since
corrects it, by the ratio of measured to counted seconds of the pieces that are finished.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from valign import config
from valign.reproduction import runs, work
from valign.reproduction.rows import PARTI, TEST, Row
from valign.reproduction.runs import Place
from valign.stages import principles
from valign.stages.estimate import estimate

FEWEST_S = 60.0  # of finished work, below which nothing is corrected
PARTI_PROMPTS = 1_632


@dataclass(frozen=True)
class Piece:
    """A piece of work: where it lies, and the seconds that it is counted at."""

    at: str
    counted_s: float


def pieces(place: Place, rows: Sequence[Row]) -> list[Piece]:
    """Return all work that rows need, each piece once, finished or not."""
    found: dict[str, Piece] = {}

    def add(at: str, counted_s: float) -> None:
        found.setdefault(at, Piece(at, counted_s))

    for row in (row for row in rows if row.model != "none"):
        for cell in (row.cell, *row.also):
            if cell != PARTI or place.parti:
                add(runs.evaluated_at("base", None, cell), _drawing_s(place, None, cell))
        if row.trains:
            name = runs.data_name(row)
            made = _seconds(place, row)
            if row.label:
                add(f"data/{row.data}", made["data"])
            add(f"data/{name}", made["encode"] if row.label else made["data"])
        for seed in row.seeds(place.seeds):
            if row.trains:
                add(runs.trained_at(row, seed), _seconds(place, row)["train"])
            for cell in (row.cell, *row.also):
                if row.model != "base" and (cell != PARTI or place.parti):
                    at = runs.evaluated_at(row.name, seed, cell)
                    several = runs.CHECKPOINTS if row.checkpoints and not seed else 1
                    add(at, several * _drawing_s(place, row, cell))
    return list(found.values())


def hours(place: Place, rows: Sequence[Row]) -> tuple[float, float]:
    """Return the hours of what is not finished, and of everything, at the corrected rate."""
    todo, everything = 0.0, 0.0
    took = work.took(place)
    found = pieces(place, rows)
    factor = _factor(found, took)
    for piece in found:
        everything += piece.counted_s * factor
        stage = {"data": "encode", "rows": "train"}.get(piece.at.partition("/")[0], "evaluate")
        if not work.finished(place, piece.at, stage):
            todo += piece.counted_s * factor
    return todo / 3600, everything / 3600


def words(place: Place) -> str:
    """Return the expectation in words."""
    todo, everything = hours(place, list(place.tables.rows.values()))
    return (
        f"what is left of all rows is expected to take {todo:.1f} of {everything:.1f} hours "
        "(tuning not counted)."
    )


def _factor(found: Sequence[Piece], took: Mapping[str, float]) -> float:
    known = [piece for piece in found if piece.at in took]
    measured = sum(took[piece.at] for piece in known)
    counted = sum(piece.counted_s for piece in known)
    return measured / counted if measured > FEWEST_S and counted else 1.0


def _seconds(place: Place, row: Row) -> dict[str, float]:
    """Return the counted seconds of a row's data, of encoding alone, and of its training."""
    recipe, settings = place.tables.data[row.data].recipe, place.tables.data[row.data].set
    counted = _counted(recipe, (*settings, *place.overrides))
    train = config.load(recipe, [*settings, *row.set, *place.overrides]).train
    return {**counted, "train": counted["pair"] * train.steps * train.global_batch}


@functools.cache
def _counted(recipe: str, settings: tuple[str, ...]) -> dict[str, float]:
    """Return seconds of a dataset, of encoding it, of a pair in training, of a drawn image."""
    run = config.load(recipe, settings)
    lines = {line.stage: line for line in estimate(run).lines}
    wall = {stage: line.hours / line.devices * 3600 for stage, line in lines.items()}
    return {
        "data": sum(wall.get(stage, 0.0) for stage in ("generate", "score", "encode")),
        "encode": wall.get("encode", 0.0),
        "pair": wall["train"] / (run.train.steps * run.train.global_batch),
        "image": wall["evaluate"] / lines["evaluate"].images,
    }


def _drawing_s(place: Place, row: Row | None, cell: str) -> float:
    """Return the counted seconds of drawing and scoring a cell's images for a row, or the base."""
    own_unet = row is None or row.data in ("votes", "values_on_majority")
    own_unet |= row is not None and any("unet" in word for word in row.set)
    each = _counted(place.tables.data["values"].recipe, place.overrides)["image"]
    if cell == PARTI:
        return each * PARTI_PROMPTS * runs.IMAGES * (1.0 if own_unet else 0.1)
    sets = place.prompts * runs.IMAGES if cell == TEST else 0
    of_catalogue = _images((*place.tables.cells[cell], *place.overrides), own_unet)
    return each * (of_catalogue + sets * (1 if own_unet else 0.3))


@functools.cache
def _images(settings: tuple[str, ...], own_unet: bool) -> float:
    """Return how many of a cell's images a model draws: all by another UNet, else with tokens."""
    run = config.load(runs.EVALUATION, settings)
    asked, bias = run.evaluate, principles.chosen(run, "bias")
    toxic = (asked.toxic_prompts or 0) * asked.images_per_toxic_prompt
    faces = (asked.bias_prompts or 0) * asked.images_per_bias_prompt
    with_token = faces * len(bias) * principles.PAPERS_DROP
    shown = toxic if principles.chosen(run, "toxicity") else 0
    return shown + (faces if own_unet else with_token)
