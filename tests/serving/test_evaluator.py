"""The evaluator: scores as offline, bad pictures apart, and votes as in the datasets."""

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.stages.hostile_pictures import HOSTILE, RGB, encoded, picture
from valign.models.scorers import ScorerRef, load_scorers
from valign.preferences.votes import Rule, Voter, vote
from valign.serving.evaluator import Evaluator, compare
from valign.serving.wire import Picture

VOTERS = (Voter("clip_score"), Voter("nudity", -1.0), Voter("horror", -1.0))


@pytest.fixture(scope="module")
def scorers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers")
    clip = str(tiny.build_clip(folder / "clip"))
    return load_scorers(
        [
            ScorerRef(name="clip", kind="clip", source=clip),
            ScorerRef(
                name="gender",
                kind="zero_shot",
                source=clip,
                options={"classes": ["male", "female"]},
            ),
            ScorerRef(
                name="toxicity",
                kind="toxicity_head",
                source=str(tiny.build_toxicity_head(folder / "head")),
                options={"clip": clip},
            ),
        ]
    )


@pytest.fixture(scope="module")
def evaluator(scorers):
    return Evaluator(scorers, VOTERS, toxic=("nudity", "bloody", "horror"), max_pixels=10_000)


def sent(image, prompt="a hill", form="PNG") -> Picture:
    return Picture(data=encoded(image, form), prompt=prompt)


def test_scores_are_those_of_the_scorers(evaluator, scorers):
    turned = picture().rotate(180)
    answers = evaluator.score([sent(picture()), sent(turned, "a doctor", "WEBP")])
    pixels = np.stack([RGB])
    offline = scorers.score(pixels, ["a hill"])
    found = answers[0]
    assert found.scores["clip_score"] == pytest.approx(
        float(offline["clip_score"].values[0]), abs=1e-4
    )
    assert found.scores["clip_score_cleaned"] is None
    assert sum(found.scores["gender"].values()) == pytest.approx(1, abs=1e-5)
    assert found.attributes == {
        "gender": max(found.scores["gender"], key=found.scores["gender"].get)
    }
    assert set(found.toxic) == {"nudity", "bloody", "horror"}
    assert found.toxic["nudity"] == (found.scores["nudity"] > 0.5)
    assert not found.errors


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("none", "wrong ending")])
def test_a_hostile_picture_is_refused_and_the_others_are_scored(evaluator, name):
    data, _, _ = HOSTILE[name]
    bad, good = evaluator.score([Picture(data=data, prompt="a hill"), sent(picture())])
    assert bad.fault
    assert not bad.scores
    assert good.scores["clip_score"] is not None


@pytest.mark.parametrize("size", [(1, 9_000), (9_000, 1), (17, 1)])
def test_strips_are_refused_before_a_model_enlarges_them(evaluator, size):
    strip = encoded(Image.effect_noise(size, 50).convert("RGB"))
    bad, good = evaluator.score([Picture(data=strip, prompt="a hill"), sent(picture())])
    assert bad.fault == "one side is more than 16 times the other"
    assert good.scores["clip_score"] is not None


@pytest.mark.parametrize("form", ["TIFF", "BMP", "GIF"])
def test_only_the_usual_formats_are_read(evaluator, form):
    image = picture("P") if form == "GIF" else picture()
    assert "no PNG, JPEG, WEBP picture" in evaluator.score([sent(image, form=form)])[0].fault


def compared_by(evaluator, pictures):
    return compare(evaluator.score(pictures), evaluator.voters)


def test_a_comparison_is_the_vote_of_its_voters(evaluator):
    images = [picture(), picture().rotate(90, expand=True), picture().rotate(180)]
    compared = compared_by(evaluator, [sent(image, "a red bus") for image in images])
    values = np.array([[one.scores[v.name] for v in VOTERS] for one in compared.scored])
    expected = vote(
        values[[0, 0, 1]],
        values[[1, 2, 2]],
        [("0", "1"), ("0", "2"), ("1", "2")],
        voters=VOTERS,
        rule=Rule(),
    )
    assert [(pair.first, pair.second) for pair in compared.pairs] == [(0, 1), (0, 2), (1, 2)]
    assert [pair.verdict for pair in compared.pairs] == expected.verdict_P.tolist()
    assert [pair.margin for pair in compared.pairs] == expected.margin_P.tolist()
    assert [list(pair.ballots.values()) for pair in compared.pairs] == expected.ballots_PK.tolist()
    won = [0, 0, 0]
    for pair in compared.pairs:
        if pair.verdict:
            won[pair.first if pair.verdict > 0 else pair.second] += 1
    assert list(compared.wins) == won


def test_swapping_pictures_negates_the_verdict(evaluator):
    pictures = [sent(picture()), sent(picture().rotate(180))]
    there = compared_by(evaluator, pictures).pairs[0]
    back = compared_by(evaluator, pictures[::-1]).pairs[0]
    assert there.verdict == -back.verdict
    assert there.ballots == {name: -ballot for name, ballot in back.ballots.items()}


def test_a_faulty_picture_gets_no_votes_and_says_why(evaluator):
    compared = compared_by(
        evaluator, [sent(picture()), Picture(data=b"", prompt="a", fault="empty")]
    )
    assert compared.scored[1].fault == "empty"
    assert compared.pairs[0].verdict == 0
    assert compared.best is None


def test_a_voter_must_be_a_column_of_one_value(scorers):
    with pytest.raises(ValueError, match="voter gender .* there are clip_score"):
        Evaluator(scorers, [Voter("gender")], max_pixels=1)
