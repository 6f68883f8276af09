"""Make what a row needs, and measure it: every piece is skipped when finished and resumed when not.

A row's root holds copies of what training reads of its dataset; an evaluation's root holds copies
of the base's images and scores, whose shards are marked as done, so the base is drawn once.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from valign.config import Run
from valign.evaluation import comparisons, win_rate
from valign.evaluation.sets import EvalSet
from valign.evaluation.toxicity import row_mean
from valign.records import digest
from valign.reproduction import runs
from valign.reproduction.rows import PARTI, Row
from valign.reproduction.runs import Place
from valign.stages import evaluate_sets, principles, train_output
from valign.stages.execute import DATASET, execute
from valign.storage import checkpoints, layout
from valign.storage.objects import Store, open_store

BEST = "evaluate/best.json"
READ_BY_TRAIN = ("label/", "encode/", layout.plan("generate"))
STATED = ("generate", "score")
DRAWN = ("evaluate/images/", "evaluate/scores/")
TRUTH = "utility."  # columns of the miniature's raters


def perform(place: Place, row: Row) -> None:
    """Do all that a row needs and that is not done."""
    if row.model == "none":
        return
    for seed in row.seeds(place.seeds):
        if row.trains:
            dataset(place, runs.data_name(row))
            train(place, row, seed)
        for cell in (row.cell, *row.also):
            if cell != PARTI or place.parti:
                evaluate(place, row, seed, cell)


@contextmanager
def timed(place: Place, what: str) -> Iterator[None]:
    """Add the seconds of a piece of work to those that are kept."""
    began = time.monotonic()
    try:
        yield
    finally:  # what was interrupted took time, too
        line = json.dumps({"what": what, "seconds": round(time.monotonic() - began, 1)})
        kept = place.store.read(runs.TOOK) if place.store.exists(runs.TOOK) else b""
        place.store.write(runs.TOOK, kept + line.encode() + b"\n")


def finished(place: Place, at: str, stage: str) -> bool:
    """Say whether a stage under a folder of the reproduction is committed."""
    return place.store.exists(f"{at}/{layout.manifest(stage)}")


def dataset(place: Place, name: str) -> None:
    """Make a dataset; other labels of the same images on a copy of them."""
    run, plain = runs.data_run(place, name), name.partition("-")[0]
    if finished(place, f"data/{name}", "encode"):
        return
    if plain != name:
        dataset(place, plain)
        copy(place, f"data/{plain}", f"data/{name}", ("generate/", "score/"))
    with timed(place, f"data/{name}"):
        execute(DATASET, run, place.runner_of(run))


def train(place: Place, row: Row, seed: int, *, factor: float | None = None) -> str:
    """Train a row on its dataset; return where, as a URL or path."""
    run = runs.row_run(place, row, seed, factor=factor)
    at = run.root.removeprefix(f"{place.root}/")
    if not finished(place, at, "train"):
        stated = [key for stage in STATED for key in _stated(stage)]
        copy(place, f"data/{runs.data_name(row)}", at, (*READ_BY_TRAIN, *stated))
        with timed(place, at):
            execute(("train",), run, place.runner_of(run))
    else:  # says so, or refuses other settings than it was made with
        execute(("train",), run, place.runner_of(run))
    return run.root


def _stated(stage: str) -> tuple[str, str]:
    return layout.started(stage), layout.manifest(stage)


def evaluate(place: Place, row: Row, seed: int, cell: str) -> None:
    """Measure a row beside the base, and its checkpoints where it has any, on a cell."""
    if row.model == "base":
        base(place, cell)
        return
    found = sources(place, row, seed)
    if cell != row.cell:
        found = found[-1:]
    measure(place, runs.evaluated_at(row.name, seed, cell), cell, found)


def base(place: Place, cell: str) -> str:
    """Draw and measure the base on a cell; return where."""
    at = runs.evaluated_at("base", None, cell)
    run = runs.evaluation_run(place, at, cell, [])
    _measured(place, at, run)
    return at


def measure(place: Place, at: str, cell: str, models: Sequence[tuple[str, str]]) -> Run:
    """Measure models beside the base, whose images are copied; return the run that did."""
    drawn = base(place, cell)
    if not finished(place, at, "evaluate"):
        copy(place, drawn, at, DRAWN)
    run = runs.evaluation_run(place, at, cell, models)
    _measured(place, at, run)
    return run


def _measured(place: Place, at: str, run: Run) -> None:
    if finished(place, at, "evaluate"):  # says so, or refuses other settings
        execute(("evaluate",), run, place.runner_of(run))
    else:
        with timed(place, at):
            execute(("evaluate",), run, place.runner_of(run))
    store = open_store(run.root)
    if not store.exists(BEST):
        store.write(BEST, (json.dumps(best_images(store, run)) + "\n").encode())


def sources(place: Place, row: Row, seed: int) -> list[tuple[str, str]]:
    """Return the models of a row's evaluation, by name: earlier checkpoints, then the row's."""
    if row.model == "prompted":
        return [(row.name, "prompted")]
    of = place.tables.rows[row.model_of] if row.model_of else row
    root = f"{place.root}/{runs.trained_at(of, seed)}"
    if not (row.checkpoints and seed == 0):
        return [(row.name, root)]
    run = runs.row_run(place, row, seed)
    return [*_checkpoints(run, row.name), (row.name, root)]


def _checkpoints(run: Run, name: str) -> list[tuple[str, str]]:
    """Write each kept checkpoint but the last as a model; return their names and folders."""
    store, found = open_store(run.root), []
    every = run.train.save_every
    shares = principles.trained_drop(store)
    for step in range(every, run.train.steps, every):
        at = f"checkpoints/{step}"
        if not store.exists(f"{at}/aligned/{layout.POINTER}"):
            if not store.exists(f"{layout.checkpoint('train', step)}/complete.json"):
                continue
            train_output.save(store, run, checkpoints.load(store, "train", step), at)
        kept = json.loads(store.read(f"{at}/aligned/value_encoder/value_encoder.json"))
        assert kept["drop"] == shares, "checkpoints are measured with the shares of the last one"
        found.append((f"{name}-step{step}", f"{run.root}/{at}/aligned"))
    return found[-(runs.CHECKPOINTS - 1) :]


def copy(place: Place, source: str, target: str, prefixes: Sequence[str]) -> None:
    """Copy objects between folders of the reproduction, those that say "done" last."""
    keys = [key for prefix in prefixes for key in place.store.list(f"{source}/{prefix}")]

    def says_done(key: str) -> bool:
        return "/done/" in key or key.endswith("/manifest.json")

    for key in sorted(keys, key=says_done):
        to = f"{target}/{key.removeprefix(f'{source}/')}"
        if "/attempts/" not in key and not place.store.exists(to):
            place.store.write(to, place.store.local(key))


def best_images(store: Store, run: Run) -> dict[str, Any]:
    """Return by model, prompt set and score: each prompt's best image, and all images' moments.

    Scores are those that rank models and, on the miniature, the raters' true utilities. Prompts are
    named by a hash, as in results.
    """
    image_sets, scores = evaluate_sets.read(store), evaluate_sets.scores_of(store)
    bias = principles.chosen(run, "bias")
    measured = evaluate_sets.evaluation_sets(image_sets, scores, bias)
    return {
        model: {
            name: _best(images, run.evaluate.group_size)
            for name, images in sets.items()
            if images.plain
        }
        for model, sets in measured.items()
    }


def _best(images: EvalSet, k: int) -> dict[str, Any]:
    names = [digest(key)[:16] for key in images.keys]
    found = {}
    for column, values in images.scores.items():
        if column not in comparisons.RANKED and not column.startswith(TRUTH):
            continue
        best_G = row_mean(win_rate.best(images.grid(values), k=k))
        known = {
            n: round(float(b), 6) for n, b in zip(names, best_G, strict=True) if np.isfinite(b)
        }
        if known:
            kept = values[np.isfinite(values)]
            moments = (kept.mean(), kept.min(), kept.max(), kept.std())
            found[column] = {
                "best": known,
                "moments": dict(
                    zip(("mean", "min", "max", "std"), map(float, moments), strict=True)
                ),
            }
    return found


def took(place: Place) -> dict[str, float]:
    """Return the seconds of every piece of work so far, by where it lies."""
    found: dict[str, float] = {}
    if place.store.exists(runs.TOOK):
        for line in place.store.read(runs.TOOK).splitlines():
            one = json.loads(line)
            found[one["what"]] = found.get(one["what"], 0.0) + one["seconds"]
    return found


def done(place: Place, row: Row, seed: int) -> bool:
    """Say whether a row's own evaluation is finished."""
    whose = None if row.model == "base" else seed
    at = runs.evaluated_at(row.name, whose, row.cell)
    return row.model != "none" and finished(place, at, "evaluate")


def parameters(place: Place, row: Row) -> int:
    """Return how many parameters a row's training saved, from its files' headers; 0: none yet."""
    at = runs.trained_at(row, 0)
    if not finished(place, at, "train"):
        return 0
    folders = ["aligned/value_encoder/"] if "aligned" in _left(place, at) else []
    folders += ["model/unet/"] if "model" in _left(place, at) else []
    found = 0
    for folder in folders:
        for key in place.store.list(f"{at}/train/{folder}"):
            if key.endswith(".safetensors"):
                size = int.from_bytes(place.store.read(key, 0, 8), "little")
                header = json.loads(place.store.read(key, 8, size))
                header.pop("__metadata__", None)
                found += sum(math.prod(one["shape"]) for one in header.values())
    return found


def _left(place: Place, at: str) -> set[str]:
    keys = place.store.list(f"{at}/train/")
    return {key.removeprefix(f"{at}/train/").partition("/")[0] for key in keys}
