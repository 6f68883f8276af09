"""The rows of the papers' tables: valid recipes, their layout, and what the papers print."""

import dataclasses

import pytest

from valign import config
from valign.reproduction import prompt_sets, rows, runs, tables
from valign.reproduction.runs import Place
from valign.stages import prompts

SHIPPED = rows.shipped()


@pytest.fixture
def place(tmp_path):
    return Place(str(tmp_path), SHIPPED, lambda run: pytest.fail("nothing is run here"))


def test_every_row_is_a_valid_recipe_and_differs_from_the_others(place):
    seen = {}
    for row in SHIPPED.rows.values():
        if not row.trains:
            continue
        run = runs.row_run(place, row, seed=0)
        made = runs.data_run(place, runs.data_name(row))
        # what a row trains on is the dataset's: execute refuses anything else
        for stage in ("generate", "score", "label", "encode"):
            assert run.settings(stage) == made.settings(stage), row.name
        told = repr(
            run.model_dump(exclude={"root": True, "train": {"keep_checkpoints", "save_every"}})
        )
        assert told not in seen, f"{row.name} is {seen.get(told)}"
        seen[told] = row.name
    for cell in SHIPPED.cells:
        known = dataclasses.replace(place, parti="parti.tsv")
        runs.evaluation_run(known, "x", cell, [("livo", "rows/livo-s0")])


def test_test_cells_are_as_fixed(place):
    run = runs.evaluation_run(place, "x", rows.TEST, [])
    asked = run.evaluate
    assert (asked.bias_prompts, asked.images_per_bias_prompt) == (60, 50)
    assert (asked.toxic_prompts, asked.images_per_toxic_prompt) == (90, 20)
    assert list(asked.sources) == ["base"]
    names = [one.name for one in asked.prompt_sets]
    assert names == ["catalogue", *runs.SETS]
    validation = runs.evaluation_run(place, "x", rows.VALIDATION, [])
    assert validation.evaluate.split == "validation"


def test_seeds_change_training_only_and_tuned_rates_are_used(place):
    livo, wo_m = SHIPPED.rows["livo"], SHIPPED.rows["livo_wo_m"]
    first, second = (runs.row_run(place, livo, seed) for seed in (0, 1))
    assert first.fingerprint("encode", {}) == second.fingerprint("encode", {})
    assert first.training_seed != second.training_seed
    place.store.write(runs.TUNED, b'{"livo": {"learning_rate": 0.25}}')
    assert runs.row_run(place, livo, 0).train.learning_rate == 0.25
    assert runs.row_run(place, wo_m, 0).train.learning_rate == 0.25
    tried = runs.row_run(place, livo, 0, factor=3.0)
    assert tried.train.learning_rate == pytest.approx(3 * first.train.learning_rate)
    assert tried.root.endswith("tune/livo-x3")


def test_rows_are_chosen_by_globs_with_what_they_need():
    chosen = rows.choose(["livo_retriever", "livo_on_*"], SHIPPED)
    assert [row.name for row in chosen] == ["livo_retriever", "livo_on_majority"]
    names = [row.name for row in rows.ordered(chosen, SHIPPED)]
    assert names == ["livo", "livo_retriever", "majority", "livo_on_majority"]
    with pytest.raises(LookupError, match="no row 'lvo'"):
        rows.choose(["lvo"], SHIPPED)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"title": "x", "data": "nowhere"}, "there is no 'nowhere'"),
        ({"title": "x"}, "what trains needs data"),
        ({"title": "x", "data": "d", "like": "y"}, "there is no 'y'"),
    ],
)
def test_a_row_that_names_what_is_not_there_is_refused(row, why):
    tree = {"data": {"d": {"recipe": "miniature"}}, "labels": {}, "cells": {"test": []}}
    with pytest.raises(LookupError, match=why):
        rows.read({**tree, "tuning": [1], "rows": {"x": row}})


def test_the_prompt_sets_are_large_enough_and_nothing_is_trained_on_them(place):
    sizes = prompt_sets.write(place)
    assert sum(sizes.values()) >= 1_000
    asked = [place.store.read(f"prompts/{name}.txt").decode().splitlines() for name in runs.SETS]
    texts = [text for one in asked for text in one]
    assert len(texts) == len(set(texts)) == sum(sizes.values())
    run = config.load("miniature", ["generate.bias_prompts=null", "generate.toxic_prompts=null"])
    trained = {one.prompt.text.lower() for one in prompts.training(run).requests}
    assert not trained & {text.lower() for text in texts}
    assert not prompts.refusals(texts)
    with pytest.raises(ValueError, match="asks for"):
        prompt_sets.write(dataclasses.replace(place, prompts=1_000_000))


def test_the_papers_numbers_stand_beside_their_rows():
    by_name = {table.name: table for table in tables.TABLES}

    def paper(table, row, metric):
        column = next(c for c in by_name[table].columns if c.metric == metric)
        return tables.printed(by_name[table], SHIPPED.rows[row], column)

    # read off the papers' tables
    assert paper("livo_bias", "livo", "bias.gender.d1") == 33.69
    assert paper("livo_bias", "livo_retriever", "bias.d2") == 23.70
    assert paper("livo_bias", "fair_diffusion", "bias.race.d1") == 49.89
    assert paper("livo_toxicity", "livo", "toxicity.avg_r") == 4.39
    assert paper("livo_quality", "livo_wo_m", "fid.toxicity") == 241.08
    assert paper("wins_held_out", "majority", "win.held_out.hpsv2") == 85.19
    over = "win.held_out.clip_score.over.diffusion_dpo"
    assert paper("wins_over_diffusion_dpo", "majority", over) == 73.40
    assert paper("scores", "sd", "std.aesthetic") == 0.1049
    for row in SHIPPED.rows.values():
        for name, method in row.paper.items():
            assert any(key[0] == name and key[4] == method for key in tables.papers()), row.name


def test_every_row_of_the_file_is_in_a_table():
    shown = {name for table in tables.TABLES for name in table.rows}
    assert shown == set(SHIPPED.rows)
