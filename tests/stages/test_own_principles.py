"""Principles that a recipe describes: the guide's own example, from prompts to metrics."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny_run
from valign import config
from valign.catalogue.principles import PRINCIPLES
from valign.stages import import_rows, principles, prompts, sample
from valign.stages.execute import execute
from valign.stages.images import planned_row
from valign.stages.inline import Inline
from valign.stages.retrieve import Retriever
from valign.stages.scores import read_scores
from valign.storage import layout, tables
from valign.storage.objects import open_store

GUIDE = Path(__file__).parents[2] / "docs" / "principles.md"
AGE = "{kind: bias, text: age equality, attributes: [young, old]%s}"


@pytest.fixture(scope="module")
def guide(recipe, tmp_path_factory):
    """The folder of the guide's files, on top of the tiny recipe in place of the miniature."""
    folder = tmp_path_factory.mktemp("guide")
    files = re.findall(r"^```\w+ (\S+)\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)
    assert [name for name, _ in files] == ["mine.yaml", "weapons_train.csv", "weapons_eval.csv"]
    for name, text in files:
        (folder / name).write_text(text.replace("base: miniature", f"base: {recipe}"))
    return folder


@pytest.fixture(scope="module")
def done(guide):
    """The finished run of the guide's recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(guide)
        run = tiny_run.load(guide / "mine.yaml", guide / "root")
        clip = run.score.scorers[0].source
        run = tiny_run.load(guide / "mine.yaml", guide / "root", f"evaluate.features={clip}")
        execute(config.STAGES, run, Inline())
        yield run


def test_the_guides_principles_get_pairs(done):
    store = open_store(done.root)
    scores = read_scores(store)
    row_of = {image: row for row, image in enumerate(scores["image_id"])}
    pairs = tables.read(store, layout.pairs(), tables.PAIRS).to_pylist()
    assert {pair["principle"] for pair in pairs} == {"gender", "age", "weapons"}
    shown = scores.classified("age")
    for pair in pairs:
        winner, loser = row_of[pair["winner"]], row_of[pair["loser"]]
        if pair["principle"] == "weapons":
            roles = (scores["role"][winner], scores["role"][loser])
            assert roles == ("cleaned", "toxic")
            assert pair["text"] == scores["text"][loser] != scores["text"][winner]
        elif pair["principle"] == "age":
            neutral = scores.equals("role", "neutral") & scores.equals("text", pair["text"])
            share = np.bincount(shown[neutral], minlength=2) / neutral.sum()
            young, old = scores["attributes"][winner], scores["attributes"][loser]
            classes = [f"age={name}" for name in ("young", "old")]
            assert share[classes.index(young)] < 0.5 <= share[classes.index(old)]
            assert pair["text"] == scores["scene"][winner] == scores["scene"][loser]


def test_their_images_are_kept_and_shown_like_others(done):
    store = open_store(done.root)
    apart = [
        planned_row(row).prompt
        for key in store.list("generate/toxic/part-")
        for row in tables.read(store, key, tables.IMAGES).to_pylist()
    ]
    assert {(prompt.role, prompt.principle) for prompt in apart} == {("toxic", "weapons")}
    plan = tables.read(store, layout.plan("generate"), tables.PLAN).to_pylist()
    cleaned = {row["negative"] for row in plan if row["role"] == "cleaned"}
    assert cleaned == {"weapon, gun, rifle, knife, sword"}
    assert len({row["image_id"] for row in plan}) == len(plan)
    neutral = [row for row in plan if row["role"] == "neutral"]  # one set serves gender and age
    assert len(neutral) == 2 * done.generate.neutral_images
    card = store.read(layout.DATASET_CARD).decode()
    assert re.search(r"\| age \| young [\d.]+%, old [\d.]+% \|", card)
    assert "](toxic/samples-weapons.png)" in card
    assert "![weapons]" not in card


def test_their_metrics_are_in_the_results(done):
    results = json.loads(open_store(done.root).read(layout.RESULTS))
    names = {"bias.gender.d1", "bias.age.d1", "bias.age.d2", "toxicity.weapons.avg_r"}
    for metrics in (*results["models"].values(), results["differences"]["aligned - base"]):
        assert names <= set(metrics)
    assert results["provenance"]["principles"] == {
        "gender": "gender equality",
        "age": "age equality",
        "weapons": "weapons are considered inappropriate",
    }
    shares = results["distributions"]["base"]["age"]
    assert shares["attributes"] == ["young", "old"]
    assert "Age" in open_store(done.root).read(layout.REPORT).decode()


def test_features_are_taken_if_asked_for(done):
    """Of two prompts a distance has no interval, and is not told; diversity is."""
    store = open_store(done.root)
    results = json.loads(store.read(layout.RESULTS))
    varied = results["models"]["aligned"]["bias.quality.diversity"]
    assert 0 < varied["value"] < 2
    assert results["distances"] == {}
    retriever = Retriever(done, store)
    asked = prompts.evaluation(done)["toxicity"]
    hits = [retriever(prompt.text).principle == prompt.principle for prompt in asked]
    recall = results["retriever"]["weapons.recall"]
    assert (recall["value"], recall["n"]) == (np.mean(hits), len(asked))
    assert results["retriever"]["benign_as_toxic"]["n"] == len(asked)
    assert "features" in results["provenance"]["scorer_fingerprints"]
    scored = read_scores(store, "evaluate/images", "evaluate/scores")
    np.testing.assert_allclose(np.linalg.norm(scored.values("features"), axis=1), 1, rtol=1e-4)
    assert "features" not in read_scores(store).scored


def test_the_trained_model_knows_them(done):
    folder = sample.aligned_folder(done.root)
    kept = principles.of_model(folder)
    assert kept == principles.chosen(done)
    assert kept["weapons"].keywords == ("gun*", "pistol", "rifle", "armed with")
    drawn = sample.draw("an elderly judge", model=done.root, principle="auto", images=1, seed=0)
    assert 'speaks of age: "elderly"' in drawn.reason


def test_the_retriever_of_the_run_knows_them(done):
    retriever = Retriever(done, open_store(done.root))
    assert retriever("a man with a pistol").principle == "weapons"
    assert retriever("a boy with a water pistol").principle != "weapons"
    assert retriever("an elderly judge").principle == "age"
    assert retriever("a hill").principle == ""


def test_a_users_prompt_that_goes_against_one_is_kept_apart(done, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("a man with a pistol\na hill\n")
    run = done.model_copy(update={"prompts": str(mine)})
    found = {r.prompt.text: r.prompt.category for r in prompts.training(run).requests}
    assert found == {"a man with a pistol": "weapons", "a hill": "user"}


def test_an_imported_picture_that_goes_against_one_is_kept_apart(done, tmp_path):
    for name, caption in (("armed", "a man with a pistol"), ("calm", "a man with a hat")):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(caption)
    offered = import_rows.read(tmp_path, principles=principles.known(done))
    assert [row.prompt.category for row in offered.rows] == ["weapons", "user"]


def test_whoever_samples_against_one_is_asked_first(done):
    assert '"pistol"' in sample.toxic("a man with a pistol", "auto", model=done.root)
    assert "weapons" in sample.toxic("a hill", "weapons", model=done.root)
    assert not sample.toxic("an elderly judge", "auto", model=done.root)


def test_nouns_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.txt").write_text("welder\nolive farmer\n")
    own = AGE % ", train: jobs.txt, eval: jobs.txt"
    given = [f"principles.age={own}", "generate.principles=[age]"]
    run = config.load("miniature", [*given, "generate.images_per_attribute_pair=4"])
    requests = prompts.training(run).requests
    assert {(r.prompt.text, r.images) for r in requests} == {
        ("A photo of a welder", 12),
        ("A photo of a young welder", 10),
        ("A photo of an old welder", 10),
        ("A photo of an olive farmer", 12),
        ("A photo of a young olive farmer", 10),
        ("A photo of an old olive farmer", 10),
    }
    asked = prompts.evaluation(run)
    assert {name: sorted(p.text for p in found) for name, found in asked.items()} == {
        "age": ["A photo of the face of a welder", "A photo of the face of an olive farmer"]
    }


def test_a_prompt_without_its_clean_twin_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("a gun\n")
    own = "{kind: toxicity, text: no weapons, train: bad.txt, eval: bad.txt}"
    run = config.load("miniature", [f"principles.w={own}", "generate.principles=[w]"])
    with pytest.raises(ValueError, match=r"principles\.w\.train: 1 prompts .*'a gun'.*`cleaned`"):
        prompts.training(run)


def test_a_classifier_is_a_scorer_and_stays_one():
    own = AGE % ", classifier: {kind: zero_shot, source: x}"
    run = config.load("miniature", [f"principles.age={own}", "generate.principles=[age]"])
    scorer = run.score.scorers[-1]
    assert (scorer.name, scorer.kind, scorer.classes) == ("age", "zero_shot", ("young", "old"))
    assert run.settings("label")["principles.age.attributes"] == ["young", "old"]
    unused = config.load("miniature", [f"principles.age={own}"])
    assert unused.score == config.load("miniature").score
    assert principles.chosen(unused) == dict(PRINCIPLES)


def test_the_resolved_recipe_gives_the_same_run(tmp_path):
    own = AGE % ", classifier: {kind: zero_shot, source: x}"
    run = config.load("miniature", [f"principles.age={own}", "generate.principles=[age, race]"])
    path = tmp_path / "recipe.yaml"
    path.write_text(config.dump(run))
    assert config.load(str(path)) == run


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["principles.gender=" + AGE % ""], "choose another name"),
        (["principles.Age=" + AGE % ""], "small letters"),
        (["principles.toxicity=" + AGE % ""], "choose another name"),
        (["generate.principles=[age]"], "age not known.*Describe others under principles"),
        (["principles.age={kind: bias, text: x, attributes: [old]}"], "two different attributes"),
        (["principles.age={kind: bias, text: x, attributes: [a, b=c]}"], "without ; and ="),
        (["principles.age=" + AGE % ", question: old"], "for kind toxicity"),
        (["principles.w={kind: toxicity, text: x}"], "set train and eval"),
        (
            [
                "principles.age=" + AGE % "",
                "score.scorers=[{name: age, kind: zero_shot, classes: [old, young]}]",
            ],
            "must list the classes",
        ),
    ],
)
def test_a_description_that_does_not_work_is_refused_with_the_recipe(overrides, message):
    with pytest.raises(ValueError, match=message):
        config.load("miniature", overrides)
