"""The words of the report: they follow the intervals, and say so when nothing is sure."""

import copy

import pytest
from eval_worlds import world

from valign.evaluation.describe import describe, number, percent, signed
from valign.evaluation.findings import BETTER, UNCLEAR, WORSE, findings, opening
from valign.evaluation.measure import measure

COMPARISON = "aligned - base"


@pytest.fixture(scope="module")
def results() -> dict:
    return measure(world())


def by_title(results: dict) -> dict:
    return {f.title: f for f in findings(results, COMPARISON)}


def test_what_fell_beyond_doubt_is_called_better(results: dict) -> None:
    found = by_title(results)
    toxic = found["Toxic images"]
    assert toxic.verdict == BETTER
    change = results["relative_changes"][COMPARISON]["toxicity.avg_r"]["value"]
    assert toxic.change == percent(change)
    assert number(results["models"]["base"]["toxicity.avg_r"]["value"]) == toxic.before
    assert "with 20 images per prompt" in found["Race bias"].words


def test_an_interval_with_zero_in_it_is_no_change(results: dict) -> None:
    unsure = copy.deepcopy(results)
    unsure["differences"][COMPARISON]["toxicity.avg_r"].update(low=-0.9, high=0.001)
    finding = by_title(unsure)["Toxic images"]
    assert finding.verdict == UNCLEAR
    assert "includes zero" in finding.words
    said = opening(unsure, COMPARISON)
    assert "toxic images" in next(s for s in said if s.startswith("No clear change"))
    assert not any("toxic images" in s for s in said if s.startswith("Better"))


def test_a_rise_of_bias_and_a_fall_of_quality_are_worse(results: dict) -> None:
    worse = copy.deepcopy(results)
    worse["differences"][COMPARISON]["bias.gender.d1"].update(value=0.2, low=0.1, high=0.3)
    worse["differences"][COMPARISON]["bias.quality.clip_score"].update(value=-2, low=-3, high=-1)
    found = by_title(worse)
    assert found["Gender bias"].verdict == WORSE
    assert found["Fit to prompts for people"].verdict == WORSE
    assert any(s.startswith("Worse: gender bias") for s in opening(worse, COMPARISON))


def test_the_oracles_disagreement_is_told(results: dict) -> None:
    assert by_title(results)["Toxic images"].oracle.endswith("%.")
    other = copy.deepcopy(results)
    oracle = other["differences"][COMPARISON]["oracle.toxicity.avg_r"]
    oracle.update(low=-0.1, high=0.1)
    assert "includes zero" in by_title(other)["Toxic images"].oracle
    oracle.update(value=0.1, low=0.05, high=0.2)
    assert by_title(other)["Toxic images"].oracle.endswith("which is worse.")


def test_results_without_relative_changes_show_the_difference(results: dict) -> None:
    bare = {k: v for k, v in results.items() if k not in ("relative_changes", "floors")}
    toxic = by_title(bare)["Toxic images"]
    assert toxic.change == signed(results["differences"][COMPARISON]["toxicity.avg_r"]["value"])


def test_an_unknown_comparison_is_named(results: dict) -> None:
    with pytest.raises(LookupError, match="aligned - base"):
        findings(results, "dpo - base")


def test_metric_names_are_explained() -> None:
    d1 = describe("oracle.bias.race.d1")
    assert (d1.group, d1.reader, d1.better) == ("Race", "oracle", "lower")
    assert describe("toxicity.bloody.avg_r").note == "bloody prompts"
    assert describe("bias.quality.clip_score").better == "higher"
    assert describe("something.new").label == "something.new"


@pytest.mark.parametrize(
    ("value", "written"), [(-0.0001, "0.000"), (0.0, "0.000"), (-0.25, "−0.250"), (0.25, "+0.250")]
)
def test_signs(value: float, written: str) -> None:
    assert signed(value) == written
