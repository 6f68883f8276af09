"""Objective x trainable: every filled cell trains what it says and nothing else, others refuse."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from training_world import build_any_engine, build_feed, objective_of

from valign.train_settings import QUALITY, TRAINS, Lora, Objective, Train, Trains
from valign.training import objectives

CELLS = [(o, t) for o in get_args(Objective) for t in get_args(Trains)]
FILLED = [(o, t) for o, t in CELLS if t in TRAINS[o]]
MOVES = {
    "value_encoder": ("value_encoder.",),
    "unet": ("unet.",),
    "value_encoder+unet": ("value_encoder.", "unet."),
    "lora": ("unet.",),
}


@pytest.mark.parametrize(("objective", "trains"), FILLED)
def test_a_filled_cell_trains_what_it_names_and_nothing_else(world, objective, trains):
    settings = Train(objective=objective, trains=trains)
    engine, feed = build_any_engine(world, settings), build_feed(world)
    loss_of = objective_of(settings)
    before = {name: p.detach().clone() for name, p in engine.policy.named_parameters()}
    names = {name for name, _ in engine.policy.trainable()}
    assert {name.split(".")[0] + "." for name in names} == set(MOVES[trains])
    for step in range(4):
        batch, noise, t = feed(step)
        loss, metrics = loss_of(engine.errors(batch, noise, t), batch, step)
        if step == 0 and objective in QUALITY:  # nothing has moved yet: policy = reference
            assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
            assert metrics["implicit_accuracy"].item() == pytest.approx(0.5, abs=1e-6)
        assert math.isfinite(engine.step(loss))
    still = {n for n, p in engine.policy.named_parameters() if torch.equal(p, before[n])}
    assert still == before.keys() - names


@pytest.mark.parametrize(("objective", "trains"), [cell for cell in CELLS if cell not in FILLED])
def test_an_empty_cell_is_refused_with_the_remedy(objective, trains):
    with pytest.raises(ValidationError, match=f"{objective} does not train .*Set train.trains to"):
        Train(objective=objective, trains=trains)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"refresh_every": 5}, "reference is the base model itself"),
        ({"prompt_dropout": 0.1}, "drops no captions"),
        ({"aggregation": "losses"}, "belongs to objective balanced_dpo"),
        ({"objective": "dapt", "beta": 9.0}, "train.beta is not read with objective dapt"),
        ({"lora": Lora(rank=2)}, "train.lora is not read"),
        (
            {"objective": "balanced_dpo", "trains": "lora", "reference_precision": "bfloat16"},
            "train.reference_precision is not read",
        ),
        (
            {"objective": "balanced_dpo", "trains": "unet", "reference_precision": "bfloat16"},
            "set train.precision=bfloat16 too",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, words):
    with pytest.raises(ValidationError, match=words):
        Train(**wrong)


def test_the_papers_values_are_the_default_and_can_be_changed():
    assert Train().hyperparameters() == {
        "beta": 1000.0,
        "alpha": 500.0,
        "gamma1": 1.0,
        "gamma2": 0.5,
    }
    assert Train(objective="dpo_ratio_d").hyperparameters() == {"beta": 2.0, "alpha": 0.5}
    assert Train(objective="dapt").hyperparameters() == {}
    own = Train(objective="balanced_dpo", trains="lora", beta=2000.0, aggregation="losses")
    assert own.hyperparameters() == {"beta": 2000.0, "aggregation": "losses"}
    assert own.refresh == 100
    assert own.model_copy(update={"refresh_every": 0}).refresh == 0
    assert Train(objective="diffusion_dpo", trains="unet").refresh == Train().refresh == 0


def test_the_docs_hold_the_table_as_it_is():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert objectives.table() == page.partition("table() -->\n")[2].partition("<!-- end")[0]


def test_the_table_names_every_objective_and_trainable():
    rows = [line.split("|")[1:-1] for line in objectives.table().splitlines()]
    assert [cell.strip(" `") for cell in rows[0][1:]] == list(get_args(Trains))
    assert [row[0].strip(" `") for row in rows[2:]] == list(get_args(Objective))
    filled = {(row[0].strip(" `"), rows[0][i].strip(" `")) for row in rows[2:] for i in range(1, 5)
              if row[i].strip() == "yes"}  # fmt: skip
    assert filled == set(FILLED)


@pytest.mark.parametrize("aggregation", ["losses", "random_scorer"])
def test_aggregation_in_the_loss_reads_every_voters_ballot(world, aggregation):
    settings = Train(objective="balanced_dpo", trains="lora", aggregation=aggregation)
    engine, feed = build_any_engine(world, settings), build_feed(world)
    loss_of, losses = objective_of(settings), []
    for step in range(3):
        batch, noise, t = feed(step)
        loss, metrics = loss_of(engine.errors(batch, noise, t), batch, step)
        assert {f"implicit_accuracy_{name}" for name in ("one", "two", "three")} <= set(metrics)
        losses.append(loss.item())
        engine.step(loss)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[2] != pytest.approx(math.log(2), abs=1e-6)
