"""A few rows end to end on tiny models: drawn once, resumed, skipped, and shown as measured."""

import dataclasses
import json

import pytest
import yaml

from tests import tiny_run
from valign import config
from valign.reproduction import reproduce, rows, work
from valign.reproduction.numbers import Book
from valign.reproduction.runs import Place
from valign.stages import evaluate_sets
from valign.stages.inline import Inline
from valign.storage import layout
from valign.storage.objects import open_store

CHOSEN = ("sd", "fair_diffusion", "dapt", "livo")


class Watched(Inline):
    """Works in this process and notes which shards and trainings it was given."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def map_shards(self, worker, args, shards, *, prefix, pool):
        shards = list(shards)
        self.seen.append((args[2], prefix, len(shards)))
        yield from super().map_shards(worker, args, shards, prefix=prefix, pool=pool)

    def launch(self, function, args, workers):
        self.seen.append((args[1], "train", 1))
        super().launch(function, args, workers)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduction")
    tree = yaml.safe_load(tiny_run.write_recipe(folder).read_text())
    flat = config.flatten(tree)
    words = tuple(f"{key}={json.dumps(value)}" for key, value in flat.items())
    shipped = rows.shipped()
    few = {name: dataclasses.replace(row, also=()) for name, row in shipped.rows.items()}
    tables = dataclasses.replace(shipped, rows=few)
    seen = []
    made = Place(
        str(folder / "root"),
        tables,
        lambda run: Watched(seen),
        (*words, "evaluate.features=''"),
        prompts=10,
        seeds=1,
    )
    return made, seen


@pytest.mark.slow
def test_rows_are_made_measured_and_shown_and_then_skipped(place, capsys, tmp_path):
    place, seen = place
    chosen = rows.choose(CHOSEN, place.tables)
    first = [row for row in chosen if row.name in ("sd", "dapt")]
    reproduce.reproduce(place, first)
    told = capsys.readouterr().out
    assert "dapt" in told and "expected: " in told and "2 rows" in told

    reproduce.reproduce(place, chosen, out=str(tmp_path / "out"))
    told = capsys.readouterr().out
    assert "DAPT: finished" in told and "LiVO: 0 of 1 seeds finished" in told
    assert "empty: not built" in told

    # the base was drawn once for each cell, the data made once, and each row trained once
    short = [(root.removeprefix(f"{place.root}/").removeprefix("file://"), *rest)
             for root, *rest in seen]  # fmt: skip
    short = [(root.removeprefix(f"{place.root}/"), *rest) for root, *rest in short]
    drew_base = {root for root, prefix, _ in short if prefix == "evaluate/images"}
    assert drew_base == {"evaluations/base"}
    assert len(short) == len({(root, prefix) for root, prefix, _ in short})
    trained = {root for root, prefix, _ in short if prefix == "train"}
    assert trained == {"rows/dapt-s0", "rows/livo-s0"}
    made = {root for root, prefix, _ in short if prefix == "generate"}
    assert made == {"data/values"}

    # nothing is left to do, and nothing is done
    seen.clear()
    reproduce.reproduce(place, chosen)
    assert seen == []

    # what training reads is there, and not the images
    store = open_store(place.root)
    assert not list(store.list("rows/livo-s0/generate/part-"))
    assert list(store.list("rows/livo-s0/encode/part-"))

    # every model was measured on the same prompts and noise
    evaluations = {name: open_store(f"{place.root}/evaluations/{name}") for name in
                   ("base", "dapt-s0", "livo-s0")}  # fmt: skip
    seeds = {
        name: [
            [row.seed for row in one.rows] for one in evaluate_sets.read(at) if one.model == "base"
        ]
        for name, at in evaluations.items()
    }
    assert all(one == seeds["base"] for one in seeds.values())

    # the page's numbers are those of the results
    book = Book(place)
    results = json.loads(evaluations["livo-s0"].read(layout.RESULTS))
    assert set(results["models"]) == {"base", "livo-step2", "livo"}
    livo = place.tables.rows["livo"]
    for metric in ("bias.gender.d1", "toxicity.avg_r", "bias.quality.clip_score"):
        found = book.number(livo, metric)
        one = results["models"]["livo"][metric]
        assert (found.value, found.low, found.high) == (one["value"], one["low"], one["high"])
    for name in ("held_out", "templates", "scenes"):
        found = book.number(livo, f"win.{name}.clip_score")
        won = results["win_rates"]["livo - base"][f"{name}.clip_score"]
        assert found.value == pytest.approx(won["value"]) and found.n == won["n"]
    base = json.loads(evaluations["base"].read(layout.RESULTS))["models"]["base"]
    assert base["bias.gender.d1"] == results["models"]["base"]["bias.gender.d1"]

    page = (tmp_path / "out" / "reproduction.md").read_text()
    shown = f"{100 * results['models']['livo']['bias.gender.d1']['value']:.1f} ["
    assert shown in next(line for line in page.splitlines() if line.startswith("| LiVO | "))
    assert "Fair Diffusion — not built" in page and "| livo-step2" not in page
    assert "| LiVO | 2 |" in page  # the checkpoint
    assert (tmp_path / "out" / "reproduction" / "cases_livo.png").exists()
    assert "](reproduction/cases_livo.png)" in page
    assert (tmp_path / "out" / "reproduction" / "tables" / "livo_bias.csv").exists()
    assert work.parameters(place, livo) > 0
    assert {"data/values", "rows/livo-s0", "evaluations/livo-s0"} <= set(work.took(place))
