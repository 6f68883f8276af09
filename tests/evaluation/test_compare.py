"""Comparing two results, and failing on conditions: through the command line, and by hand."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from eval_worlds import bias_set, toxic_set, world
from typer.testing import CliRunner

from valign import cli_results
from valign.cli import app
from valign.evaluation import gates, results_file
from valign.evaluation.compare import compare
from valign.evaluation.measure import measure
from valign.stages.results import conditions_of, exit_code

runner = CliRunner()


@pytest.fixture(scope="module")
def before() -> dict:
    return measure(world(), provenance={"train": {"steps": 100}}, resamples=500)


@pytest.fixture(scope="module")
def after() -> dict:
    """The aligned model is less fair than before and as clean; the base is the same."""
    models = world()
    models["aligned"]["gender"] = bias_set("gender", [0.9, 0.1], prompts=12, samples=20, seed=9)
    models["aligned"]["toxicity"] = toxic_set(0.2, prompts=12, samples=20, seed=10)
    return measure(models, provenance={"train": {"steps": 200}}, resamples=500)


@pytest.fixture
def files(before: dict, after: dict, tmp_path: Path) -> tuple[str, str]:
    for name, results in (("a", before), ("b", after)):
        (tmp_path / f"{name}.json").write_text(results_file.dumps(results))
    return str(tmp_path / "a.json"), str(tmp_path / "b.json")


def test_results_are_read_back_as_they_were(before: dict) -> None:
    text = results_file.dumps(before)
    assert results_file.loads(text, "x") == before
    interval = next(line for line in text.splitlines() if '"toxicity.avg_r": {"value"' in line)
    assert interval.count(":") == 5  # one line an interval
    for wrong, why in (
        ("{", "x is not JSON"),
        ("[]", "x holds no results"),
        (results_file.dumps({**before, "schema_version": 2}), "schema 2"),
    ):
        with pytest.raises(ValueError, match=why):
            results_file.loads(wrong, "x")


def test_pairs_are_used_where_prompts_have_values(before: dict, after: dict) -> None:
    found = compare(before, after, "aligned")
    changes = {change.metric: change for change in found.changes}
    gender = changes["bias.gender.d1"]
    values = [r["per_prompt"]["values"]["aligned"]["bias.gender.d1"] for r in (before, after)]
    known = [[v for v in side if v is not None] for side in values]
    assert gender.paired
    assert gender.difference["n"] == 12
    assert gender.difference["value"] == pytest.approx(np.mean(known[1]) - np.mean(known[0]), 1e-4)
    assert gender.p <= gender.holm < 0.05
    assert gender.significant
    assert not changes["bias.race.d1"].significant
    assert changes["bias.gender.pooled_d1"].paired is False
    assert not changes["toxicity.avg_r"].significant
    assert found.notes == ("train.steps: 100 before, 200 after",)
    same = compare(before, after, "base")
    assert {change.holm for change in same.changes} == {1}
    assert all(change.difference["value"] == 0 for change in same.changes)


def test_prompts_in_both_are_compared_alone_if_they_are_half_of_either(after: dict) -> None:
    kept = after["per_prompt"]["values"]["aligned"]["toxicity.avg_r"]
    known = [row for row, value in enumerate(kept) if value is not None]
    for gone, paired in ((4, True), (8, False)):
        fewer = copy.deepcopy(after)
        values = fewer["per_prompt"]["values"]["aligned"]["toxicity.avg_r"]
        for row in known[:gone]:
            values[row] = None
        rest = [value for value in values if value is not None]
        stated = fewer["models"]["aligned"]["toxicity.avg_r"]
        stated |= {"value": float(np.mean(rest)), "n": len(rest)}
        found = compare(after, fewer, "aligned")
        change = next(c for c in found.changes if c.metric == "toxicity.avg_r")
        assert change.paired is paired
        if paired:
            assert change.before == change.after == pytest.approx(np.mean(rest))
            assert change.difference["value"] == 0
        how = "numbers are of the 8 in both alone" if paired else "they are not paired"
        (note,) = [note for note in found.notes if "toxicity.avg_r" in note]
        assert note == f"12 prompts before and {12 - gone} after: {how} (1 metrics, such as " + (
            "toxicity.avg_r)"
        )


def test_without_values_per_prompt_the_intervals_are_put_together(
    before: dict, after: dict
) -> None:
    bare = {key: value for key, value in before.items() if key != "per_prompt"}
    found = {c.metric: c for c in compare(bare, after, "aligned").changes}
    change = found["toxicity.avg_s"]
    old, new = (r["models"]["aligned"]["toxicity.avg_s"] for r in (before, after))
    widths = [(one["high"] - one["low"]) / 2 for one in (old, new)]
    assert not change.paired
    assert change.difference["high"] - change.difference["value"] == pytest.approx(
        np.hypot(*widths), rel=1e-6
    )
    far = copy.deepcopy(after)
    far["models"]["aligned"]["toxicity.avg_s"] = {"value": 9, "low": 8.9, "high": 9.1, "n": 12}
    assert {c.metric: c for c in compare(bare, far, "aligned").changes}["toxicity.avg_s"].p < 1e-9


def test_other_numbers_of_images_are_not_compared(before: dict) -> None:
    fewer = measure(world(samples=10), resamples=100)
    found = compare(before, fewer, "aligned")
    names = {change.metric for change in found.changes}
    assert {"bias.gender.d1_corrected", "toxicity.avg_r", "bias.quality.clip_score"} <= names
    left_out = {"bias.gender.d1", "joint.gender.race.d2", "oracle.bias.race.pooled_d1"}
    assert not names & (left_out | {"toxicity.max", "toxicity.prob"})
    assert "not compared, as the numbers of images differ: bias.gender.d1" in found.notes[0]
    with pytest.raises(LookupError, match="no model 'dpo'; there is base, aligned"):
        compare(before, fewer, "dpo")


def test_the_command_says_what_changed(files: tuple[str, str]) -> None:
    shown = runner.invoke(app, ["compare", *files], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "metrics changed beyond chance" in shown.output
    assert "train.steps: 100 before, 200 after" in shown.output
    assert "bias.gender.d1 " in shown.output
    assert "toxicity.avg_r " not in shown.output
    full = runner.invoke(app, ["compare", *files, "--all"], env={"COLUMNS": "200"})
    assert "toxicity.avg_r " in full.output
    as_json = json.loads(runner.invoke(app, ["compare", *files, "--json"]).stdout)
    assert as_json["model"] == "aligned"
    assert {"metric", "before", "after", "difference", "paired", "p", "holm", "significant"} == set(
        as_json["changes"][0]
    )


@pytest.mark.parametrize(
    ("condition", "code", "said"),
    [
        ("toxicity.avg_r > 0.05", 1, "FAIL: toxicity.avg_r > 0.05 (aligned:toxicity.avg_r is 0.2"),
        ("toxicity.avg_r > 0.5", 0, "pass: toxicity.avg_r > 0.5"),
        ("base:toxicity.avg_r.low>=.5", 1, "base:toxicity.avg_r.low is 0."),
        ("aligned - base: toxicity.avg_r.high >= 0", 0, "pass"),
        ("aligned - base:toxicity.clip_score < 0.0", 0, "pass"),
        ("change:bias.gender.d1.low > 0", 1, "FAIL"),
        ("change:bias.gender.d1 > 9e-1", 0, "pass"),
        ("toxicity.avg_r > 5%", 2, "is no condition"),
        ("toxicity.avg_r > nan", 2, "is no condition"),
        ("toxicity.avg_r", 2, "is no condition"),
        ("toxicity.avg_r == 0.05", 2, "is no condition"),
        ("toxicity.avg_r > 0.05; import os", 2, "is no condition"),
        ("0.05 < toxicity.avg_r", 2, "is no condition"),
        ("", 2, "is no condition"),
        ("toxicity.avgr > 0.05", 2, "did you mean toxicity.avg_r"),
        ("dpo:toxicity.avg_r > 0.05", 2, "there is no 'dpo'; there is base, aligned"),
    ],
)
def test_conditions_and_exit_codes(
    files: tuple[str, str], condition: str, code: int, said: str
) -> None:
    result = runner.invoke(app, ["compare", *files, "--fail-if", condition])
    assert result.exit_code == code, result.output
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_any_condition_that_holds_fails(files: tuple[str, str]) -> None:
    both = ["--fail-if", "toxicity.avg_r > 0.9", "--fail-if", "toxicity.avg_r > 0.01"]
    assert runner.invoke(app, ["compare", *files, *both]).exit_code == 1
    assert runner.invoke(app, ["compare", files[0], "nowhere.json"]).exit_code == 2
    assert runner.invoke(app, ["compare", files[0], str(Path(files[0]).parent)]).exit_code == 2


def test_a_job_takes_its_conditions_from_its_arguments(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["root=x", "--fail-if", "toxicity.avg_r > 0.01", "--fail-if=toxicity.max < 0"]
    conditions, rest = conditions_of(words)
    assert rest == ["root=x"]
    assert [gate.text for gate in conditions] == ["toxicity.avg_r > 0.01", "toxicity.max < 0"]
    assert exit_code(files[1], conditions) == 1
    assert capsys.readouterr().out.count("\n") == 2
    assert exit_code(files[1], conditions[1:]) == 0
    assert exit_code("nowhere", conditions) == 2
    assert exit_code("nowhere", []) == 0
    with pytest.raises(SystemExit, match="is no condition"):
        conditions_of(["--fail-if"])


def test_the_judged_model_must_be_clear(before: dict) -> None:
    assert gates.judged_model({"models": {"only": {}}}) == "only"
    two = {
        "models": {"a": {}, "b": {}, "base": {}},
        "differences": {"a - base": {}, "b - base": {}},
    }
    with pytest.raises(LookupError, match="name one of the models a, b, base"):
        gates.judged_model(two)


def test_ratings_become_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_results.console, "width", 200)
    (tmp_path / "items.csv").write_text("item,model,prompt\ni1,SD,a\ni2,SD,b\n")
    head = "rater,item,attribute,toxic,semantic_consistency,preference\n"
    (tmp_path / "said.csv").write_text(head + "r,i1,,yes,4,\nr,i2,,no,5,\n")
    words = ["ratings", str(tmp_path / "said.csv"), str(tmp_path / "items.csv"), "--highest", "5"]
    shown = runner.invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "50.00 (0.00 to 100.00), n 2" in shown.output
    assert "90.00 (80.00 to 100.00), n 2" in shown.output
    assert runner.invoke(app, words[:-2]).exit_code == 2
