"""Labelling by value, by vote and by both, over scores that the test chooses."""

import itertools

import numpy as np
import pytest

from tests import tiny_run
from tests.stages import scored_root
from valign import config
from valign.records import Prompt
from valign.stages import dataset_samples, execute, label, pair_arrays
from valign.stages.inline import Inline
from valign.storage import layout, manifests, tables
from valign.storage.objects import open_store
from valign.train_settings import Train

NAN = float("nan")
HILL, LAKE = (Prompt(text=text, scene=text) for text in ("a hill", "a lake"))
TOXIC = Prompt(
    text="a bloody hill", scene="a bloody hill", role="toxic", category="bloody",
    principle="bloody", cleaned="a hill",
)  # fmt: skip
CLEANED = Prompt(
    text="a hill", scene="a bloody hill", role="cleaned", category="bloody",
    principle="bloody", cleaned="a hill",
)  # fmt: skip
VOTE = ("prompts=mine.txt", "label.rule=vote", "label.vote.voters=[hps, clip]")


def by_image(work, rows):
    """Scores by image id, from what was written."""
    part = tables.read_scores(work.store, layout.part("score", 0)).to_pylist()
    return {row["image_id"]: row for row in part}


def test_the_images_of_a_users_prompt_are_voted_on(tmp_path):
    work = scored_root.work(tmp_path, *VOTE, "label.vote.human=human")
    scores = {
        "hps": [3, 2, 1, 1, 5],
        "clip": [0.5, 0.4, NAN, 0.1, 0.1],
        "human": [0, 1, 0, 1, 1],
    }
    scored_root.fill(work, [(HILL, 3), (LAKE, 2)], scores)
    made = label.perform(work)
    pairs = scored_root.pairs(work)
    known = by_image(work, pairs)
    assert made["pairs"] == len(pairs) == 4  # 3 of the hill, 1 of the lake, none across
    for pair in pairs:
        one, other = known[pair["winner"]], known[pair["loser"]]
        assert (pair["verdict"], pair["decided_by"], pair["principle"]) == (1, "vote", "")
        assert pair["voters"] == ["hps", "clip"]
        for voter, ballot, difference in zip(
            pair["voters"], pair["ballots"], pair["differences"], strict=True
        ):
            expected = one[voter][0] - other[voter][0]
            np.testing.assert_equal(difference, np.float32(expected))
            assert ballot == (0 if np.isnan(expected) else np.sign(expected))
        assert pair["human"] == np.sign(one["human"][0] - other["human"][0])
        assert pair["margin"] == sum(pair["ballots"]) > 0
    assert {pair["text"] for pair in pairs} == {"a hill", "a lake"}
    votes = made["votes"][""]
    assert votes["candidates"] == 4
    assert votes["voters"]["hps"]["cast"] == 1.0
    assert votes["voters"]["clip"]["cast"] == 0.25
    assert votes["voters"]["hps"]["with_person"] == 0.5  # wrong on 1-0, right on lake, 1 tie


def test_ties_are_kept_but_not_counted_as_pairs(tmp_path):
    work = scored_root.work(tmp_path, *VOTE)
    scored_root.fill(work, [(HILL, 2), (LAKE, 2)], {"hps": [1, 0, 1, 0], "clip": [0, 1, 1, 0]})
    made = label.perform(work)
    assert (made["pairs"], made["undecided"]) == (1, 1)
    assert made["votes"][""]["tie_share"] == 0.5
    tie, decided = sorted(scored_root.pairs(work), key=lambda pair: pair["verdict"])
    assert (tie["tied"], tie["decided_by"], tie["margin"]) == (True, "", 0)
    assert sorted(tie["ballots"]) == [-1, 1]
    assert not decided["tied"]


def test_a_persons_label_breaks_the_tie_of_an_imported_pair(tmp_path):
    work = scored_root.work(tmp_path, *VOTE, "label.vote.ties=label")
    prompts = [(HILL, 3)]
    scored_root.fill(work, prompts, {"hps": [1, 0, 5], "clip": [0, 1, 5]})
    ids = [row.image_id for row in scored_root.planned(work.run, prompts)]
    named = {
        "first": [ids[0], ids[2], ids[0], ids[1]],
        "second": [ids[1], ids[0], "gone", ids[0]],
        "human": [-1, None, 1, 1],
    }
    tables.write(work.store, layout.candidates(), named, tables.CANDIDATES)
    made = label.perform(work)
    first, second = scored_root.pairs(work)  # only the pairs that came with the images
    assert (first["winner"], first["decided_by"], first["human"]) == (ids[1], "label", 1)
    assert (second["winner"], second["decided_by"], second["human"]) == (ids[2], "vote", None)
    assert made["votes"][""]["missing"] == 2  # one image is gone, one pair came twice


def test_a_label_that_nobody_gave_is_an_error_that_says_so(tmp_path):
    work = scored_root.work(tmp_path, *VOTE, "label.vote.ties=label")
    scored_root.fill(work, [(HILL, 2)], {"hps": [1, 0], "clip": [0, 1]})
    with pytest.raises(ValueError, match=r"label\.vote\.human"):
        label.perform(work)


def test_users_prompts_need_a_vote(tmp_path):
    work = scored_root.work(tmp_path, "prompts=mine.txt")
    with pytest.raises(ValueError, match=r"Set label\.rule=vote"):
        label.perform(work)


def test_a_score_per_class_cannot_vote(tmp_path):
    work = scored_root.work(tmp_path, *VOTE)
    scored_root.fill(work, [(HILL, 2)], {"hps": [1, 0], "clip": [[0, 1], [1, 0]]})
    with pytest.raises(ValueError, match="clip has 2 values per image"):
        label.perform(work)


@pytest.mark.parametrize(("values", "left"), [("voter", 3), ("veto", 2)])
def test_values_vote_along_or_have_a_veto(tmp_path, values, left):
    """Three pairs: the voters are for the clean image, split, and both against it."""
    work = scored_root.work(
        tmp_path, "generate.principles=[bloody]", "label.rule=joint", f"label.vote.values={values}",
        "label.vote.voters=[hps, clip]", "label.verify_toxic=none",
    )  # fmt: skip
    scores = {"hps": [0, 0, 1, 1, 1, 0], "clip": [0, 1, 1, 1, 0, 0], "bloody": [1, 1, 1, 0, 0, 0]}
    scored_root.fill(work, [(TOXIC, 3), (CLEANED, 3)], scores)
    made = label.perform(work)
    plan = tables.read(work.store, layout.plan("generate"), tables.PLAN).to_pylist()
    role = {row["image_id"]: (row["role"], row["sample"]) for row in plan}
    pairs = {role[pair["winner"]][1]: pair for pair in scored_root.pairs(work)}
    assert len(pairs) == left
    assert role[pairs[0]["winner"]][0] == "cleaned"
    assert {pair["text"] for pair in pairs.values()} == {"a bloody hill"}
    assert {pair["principle"] for pair in pairs.values()} == {"bloody"}
    if values == "voter":
        assert pairs[0]["voters"] == ["hps", "clip", "values"]
        assert pairs[0]["ballots"] == [1, 1, 1]
        assert (role[pairs[1]["winner"]][0], pairs[1]["ballots"][2]) == ("cleaned", 1)
        # Two voters against the values: the toxic image wins, and the row says who was outvoted.
        assert (role[pairs[2]["winner"]][0], pairs[2]["ballots"]) == ("toxic", [1, 1, -1])
    else:
        assert made["votes"]["bloody"]["dropped"] == {"won by the image that conforms less": 1}
        assert (pairs[1]["verdict"], pairs[1]["tied"]) == (0, True)
        assert len(pair_arrays.pairs_for(work.store, Train())["pair_id"]) == 1


def bias_world(work, bloody=0.0):
    """Ten neutral images, four in five male; one image of each gender, classified the other way."""
    scene = "a photo of a doctor"
    neutral = Prompt(text=scene, scene=scene, role="neutral", category="career", concept="doctor")
    variants = [
        Prompt(
            text=f"a photo of a {gender} doctor", scene=scene, role="attribute", category="career",
            concept="doctor", attributes=(("gender", gender), ("race", "Asian")),
        )
        for gender in ("male", "female")
    ]  # fmt: skip
    gender = [[1, 0]] * 8 + [[0, 1]] * 2 + [[0, 1], [1, 0]]
    scores = {"gender": gender, "bloody": [0.0] * 11 + [bloody]}
    scored_root.fill(work, [(neutral, 10), *((v, 1) for v in variants)], scores)
    return {row.prompt.attributes[0][1]: row.image_id
            for row in scored_root.planned(work.run, [(v, 1) for v in variants])}  # fmt: skip


@pytest.mark.parametrize(("attribute", "winner"), [("prompted", "female"), ("classified", "male")])
def test_a_bias_image_is_labelled_by_the_attribute_asked_for_or_seen(tmp_path, attribute, winner):
    work = scored_root.work(
        tmp_path, "generate.principles=[gender]", f"label.attribute={attribute}"
    )
    ids = bias_world(work)
    made = label.perform(work)
    (pair,) = scored_root.pairs(work)
    assert pair["winner"] == ids[winner]
    assert (pair["decided_by"], pair["ballots"], pair["human"]) == ("livo", [], None)
    assert made["accounts"]["gender"]["career"]["pairs"] == 1
    card = work.store.read(layout.DATASET_CARD).decode()
    assert "male 80.0%, female 20.0%" in card
    assert "| career | 1 | 2 | 10 | 1 | 284 | 56,100 | 32,310 |" in card


def test_the_share_that_verification_drops_is_told(tmp_path):
    work = scored_root.work(tmp_path, "generate.principles=[bloody]")
    scores = {"bloody": [0.9, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]}
    scored_root.fill(work, [(TOXIC, 4), (CLEANED, 4)], scores)
    made = label.perform(work)
    (line,) = [line for line in label.details(made) if "bloody, bloody" in line]
    assert "1 (12.5%) asked for as toxic, but the classifier finds nothing toxic" in line
    assert made["pairs"] == 4


def test_the_card_keeps_toxic_pictures_behind_a_link(tmp_path):
    overrides = ("generate.principles=[bloody]", "label.rule=joint", "label.vote.voters=[hps]")
    written = []
    for name in "ab":
        work = scored_root.work(tmp_path / name, *overrides)
        scores = {"hps": [0, 0, 1, 1], "bloody": [1, 1, 0, 0]}
        scored_root.fill(work, [(TOXIC, 2), (CLEANED, 2)], scores)
        label.perform(work)
        written.append({key: work.store.read(key) for key in work.store.list("label/")})
    assert written[0] == written[1]
    card = written[0][layout.DATASET_CARD].decode()
    assert "label/toxic/samples-bloody.png" in written[0]
    assert "](toxic/samples-bloody.png)" in card
    assert "![" not in card.replace("![scores-", "").replace("![agreement-", "")
    for file in card.split("](")[1:]:
        assert f"label/{file.partition(')')[0]}" in written[0]
    assert written[0]["label/scores-bloody.svg"].startswith(b"<svg")
    assert b"toxic prompts: mean 1.000 of 2" in written[0]["label/scores-bloody.svg"]


@pytest.mark.parametrize(("bloody", "shown"), [(0.5, True), (0.6, False), (NAN, False)])
def test_an_open_grid_shows_no_image_that_may_be_toxic(tmp_path, bloody, shown):
    work = scored_root.work(tmp_path, "generate.principles=[gender]")
    bias_world(work, bloody)
    label.perform(work)
    assert work.store.exists("label/samples-gender-career.png") == shown
    assert len(scored_root.pairs(work)) == 1  # it is in the data all the same


def test_a_grid_shows_many_prompts_before_another_pair_of_one():
    texts = [f"prompt {row % 4}" for row in range(20)]
    rows = dataset_samples.of_many_prompts(list(range(20)), texts)
    assert len(rows) == len(set(rows)) == dataset_samples.PAIRS_PER_GRID
    assert {texts[row] for row in rows[:4]} == set(texts)


def test_the_best_meets_the_worst_and_a_cap_holds(tmp_path):
    everything = {"hps": range(8), "clip": range(8)}
    prompts = [(HILL, 4), (LAKE, 4)]
    found = {}
    for name, override in {
        "all": "seed=0",
        "best_worst": "label.vote.candidates=best_worst",
        "adjacent": "label.vote.candidates=adjacent",
        "cap": "label.max_pairs_per_principle=5",
    }.items():
        work = scored_root.work(tmp_path / name, *VOTE, override)
        scored_root.fill(work, prompts, everything)
        label.perform(work)
        known = by_image(work, None)
        found[name] = {
            (known[pair["winner"]]["hps"][0], known[pair["loser"]]["hps"][0])
            for pair in scored_root.pairs(work)
        }
    of_all = [*itertools.combinations(range(4), 2), *itertools.combinations(range(4, 8), 2)]
    assert found["all"] == {(b, a) for a, b in of_all}
    assert found["best_worst"] == {(3, 0), (7, 4)}
    assert found["adjacent"] == {(1, 0), (2, 1), (3, 2), (5, 4), (6, 5), (7, 6)}
    assert found["cap"] < found["all"]
    assert len(found["cap"]) == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["label.rule=vote"], "needs voters"),
        (["label.vote.voters=[a, a]"], "one score twice"),
        (["label.vote.mode=single", "label.vote.voters=[a]"], "must be one of the voters"),
        (["label.rule=vote", "label.vote.voters=[a]", "label.vote.quorum=2"], "more than"),
        (["label.vote.voters=[{name: a, weight: 0}]"], "must not be 0"),
        (
            ["label.rule=joint", "label.vote.voters=[a]", "label.vote.ties=label"],
            "label.vote.human",
        ),
    ],
)
def test_a_vote_that_cannot_be_held_is_refused_with_the_recipe(overrides, message):
    with pytest.raises(ValueError, match=message):
        config.load("miniature", overrides)


def test_own_prompts_become_a_dataset_by_vote(recipe, tmp_path):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a hill\na lake\n")
    run = tiny_run.load(
        recipe, tmp_path / "root", f"prompts={prompts}", "label.rule=vote",
        "generate.images_per_user_prompt=3", "label.vote.voters=[clip_score, nudity, bloody]",
    )  # fmt: skip
    assert execute.dataset(run) == execute.DATASET
    made = execute.execute(execute.DATASET, run, Inline())
    assert made["label"].counts["pairs"] + made["label"].counts["undecided"] == 6
    store = open_store(run.root)
    score = manifests.get(store, "score")
    (clip, *heads) = made["label"].counts["voters"]
    assert clip["scorer"] == "clip"
    assert clip["fingerprint"] == score.upstream["the weights of scorer clip"]
    assert [(v["name"], v["scorer"]) for v in heads] == [
        ("nudity", "toxicity"),
        ("bloody", "toxicity"),
    ]
    texts = tables.read(store, layout.part("encode/texts", 1), tables.TEXTS).to_pylist()
    assert [text["value_ids"] for text in texts] == [[], []]
    with pytest.raises(ValueError, match="no value can be learnt"):
        execute.execute(("train",), run, Inline())
    unknown = tiny_run.load(
        recipe, tmp_path / "other", f"prompts={prompts}", "label.rule=vote",
        "label.vote.voters=[hps]",
    )  # fmt: skip
    with pytest.raises(ValueError, match="no scorer of the recipe gives hps"):
        execute.execute(("generate", "score"), unknown, Inline())
