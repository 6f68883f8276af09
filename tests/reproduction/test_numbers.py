"""Numbers and verdicts from evaluations whose values are known."""

import json

import pytest

from valign.reproduction import orderings, page, rows, runs, tune, work
from valign.reproduction.numbers import Book, Number
from valign.reproduction.runs import Place
from valign.storage import layout

TABLES = rows.shipped()
PROMPTS = [f"p{number:02}" for number in range(40)]


def results(model, values, *, distances=None):
    """Return the part of `results.json` that is read: values are per prompt, by metric."""
    kept = {
        m: {"value": sum(v) / len(v), "low": min(v), "high": max(v), "n": len(v)}
        for m, all_ in values.items()
        for v in [[one for one in all_ if one is not None]]
    }
    return {
        "models": {"base": {}, model: kept},
        "per_prompt": {"prompts": PROMPTS, "values": {"base": {}, model: values}},
        "distances": {f"{model} - base": distances or {}},
    }


def put(place, row, seed, found, best=None):
    at = runs.evaluated_at(row, seed, "test")
    place.store.write(f"{at}/{layout.RESULTS}", json.dumps(found).encode())
    place.store.write(f"{at}/{work.BEST}", json.dumps(best or {}).encode())
    place.store.write(f"{at}/{layout.manifest('evaluate')}", b"{}")


def halves(first, second):
    """Values that are one number on half of the prompts and another on the rest."""
    return [first] * 20 + [second] * 20


@pytest.fixture
def place(tmp_path):
    return Place(str(tmp_path), TABLES, lambda run: pytest.fail("nothing is run here"))


@pytest.fixture
def book(place):
    nudity = [0.5] * 20 + [None] * 20
    dapt = {
        "bias.gender.d2": halves(0.4, 0.6),
        "bias.race.d2": halves(0.2, 0.2),
        "oracle.bias.gender.d2": halves(0.3, 0.7),
        "toxicity.avg_s": halves(0.1, 0.9),
        "toxicity.nudity.avg_r": nudity,
    }
    fid = {"value": 4.0, "low": 3.0, "high": 5.0, "n": 40}
    distances = {"gender.fid": fid, "race.fid": {**fid, "value": 6.0}, "toxicity.fid": fid}
    put(place, "dapt", 0, results("dapt", dapt, distances=distances))
    put(place, "dapt", 1, results("dapt", {"bias.gender.d2": halves(0.5, 0.7)}))
    livo = {"bias.gender.d2": halves(0.3, 0.45), "bias.race.d2": halves(0.3, 0.3)}
    put(place, "livo", 0, results("livo", livo))
    return Book(place)


def test_a_row_of_one_seed_has_the_numbers_of_its_results(book, place):
    said = json.loads(place.store.read(f"evaluations/livo-s0/{layout.RESULTS}"))
    for metric, one in said["models"]["livo"].items():
        found = book.number(TABLES.rows["livo"], metric)
        assert (found.value, found.low, found.high, found.n) == tuple(one.values())


def test_seeds_are_averaged_prompt_by_prompt(book):
    found = book.number(TABLES.rows["dapt"], "bias.gender.d2")
    assert found.value == pytest.approx(0.55)
    assert found.seeds == pytest.approx((0.5, 0.6))
    assert found.low < 0.55 < found.high and found.n == 40


def test_metrics_that_are_made_of_others(book):
    dapt = TABLES.rows["dapt"]
    # of the first seed: mean of gender and race; the second has gender alone
    assert book.values(dapt, "bias.d2")[0]["p00"] == pytest.approx(0.3)
    assert book.number(dapt, "toxicity.nudity.avg_s").value == pytest.approx(0.1)
    assert book.number(dapt, "toxicity.nudity.avg_s").n == 20
    assert book.number(dapt, "fid.bias").value == 5.0
    assert book.number(dapt, "fid.toxicity").low == 3.0
    assert book.number(dapt, "toxicity.avg_r") is None
    assert book.number(TABLES.rows["dpo"], "bias.d2") is None


def test_differences_are_paired_and_the_detectable_one_is_stated(book):
    rows_ = TABLES.rows
    apart = book.difference(rows_["livo"], rows_["dapt"], "bias.gender.d2")
    assert apart.value == pytest.approx(0.375 - 0.55)
    assert -0.2 < apart.low < apart.value < apart.high < -0.15  # what the halves differ by
    assert apart.n == 40
    assert Number(0.0, -0.196, 0.196, 9).detectable == pytest.approx(0.28)


def test_verdicts_are_computed_from_the_papers_sign_and_our_interval(book):
    found = {(one.row, one.column.metric): one for one in orderings.compared(book)}
    gender = found["dapt", "bias.gender.d2"]
    assert gender.paper == pytest.approx(26.56 - 23.82)
    assert gender.verdict == orderings.HOLDS
    race = found["dapt", "bias.race.d2"]  # the paper's DAPT is worse, ours better
    assert race.ours.value == pytest.approx(-10) and race.verdict == orderings.FAILS
    open_ = orderings.Ordering(
        gender.table, "dapt", "livo", gender.column, 2.0, Number(1.0, -1.0, 3.0, 9), None
    )
    assert open_.verdict == orderings.OPEN


def test_win_rates_are_over_the_base_or_another_row(place):
    def best(**scores):
        return {
            m: {"held_out": {"clip_score": {"best": s, "moments": {}}}} for m, s in scores.items()
        }

    put(place, "majority", 0, results("majority", {}),
        best(base={"a": 1, "b": 2, "c": 3}, majority={"a": 2, "b": 2, "c": 1}))  # fmt: skip
    put(place, "diffusion_dpo", 0, results("diffusion_dpo", {}),
        best(base={"a": 1, "b": 2, "c": 3}, diffusion_dpo={"a": 1, "b": 1, "c": 0}))  # fmt: skip
    book, row = Book(place), TABLES.rows["majority"]
    assert book.number(row, "win.held_out.clip_score").value == pytest.approx(0.5)
    assert book.number(row, "win.held_out.clip_score.over.diffusion_dpo").value == 1.0
    assert book.number(row, "win.all.clip_score").n == 3


def test_the_page_holds_what_is_finished_and_keeps_empty_rows(book, place):
    files = page.write(place)
    text = files[page.PAGE]
    for name in ("Fair Diffusion — not built", "UCE — not built", "SDXL (Table II) — needs a GPU"):
        assert name in text
    assert "paper 33.7" in text  # LiVO's gender D1, though ours is not measured here
    lines = files["tables/livo_bias.csv"].splitlines()
    livo = next(line for line in lines if line.startswith("livo,LiVO,bias.gender.d2")).split(",")
    assert float(livo[3]) == pytest.approx(0.375) and float(livo[9]) == 23.82
    assert "holds" in files["tables/orderings.csv"]
    assert place.store.read(f"page/{page.PAGE}").decode() == text


def test_tuning_prefers_less_bias_and_toxicity_but_no_collapse():
    def one(bias, fit):
        metrics = {"bias.gender.d2": bias, "toxicity.avg_r": bias, "bias.quality.clip_score": fit}
        return {name: {"value": value} for name, value in metrics.items()}

    found = {"models": {"base": one(0.5, 70.0), "good": one(0.25, 69.0), "gone": one(0.0, 30.0)}}
    assert tune.value_score(found, "good") == pytest.approx(0.5)
    assert tune.value_score(found, "gone") == pytest.approx(1.0)
    rates = {"x - base": {"gender.clip_score": {"value": 0.6}, "gender.clip_score_cleaned":
             {"value": 0.0}, "race.hpsv2": {"value": 0.8}}}  # fmt: skip
    assert tune.win_score({"win_rates": rates}, "x") == pytest.approx(0.7)
