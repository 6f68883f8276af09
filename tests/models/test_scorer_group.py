"""Scorers run together: what is prepared ahead scores the same, and faults stay where they are."""

import numpy as np
import pytest

from valign.models.clip import Clip
from valign.models.clip_reader import ClipReader
from valign.models.score_columns import ColumnInfo, ScoreColumn
from valign.models.scorer_group import ScorerFailedError, ScorerGroup, SharedClip
from valign.models.scorers import ScorerRef, load_scorers
from valign.models.zero_shot import ClipScore

PROMPTS = ["a photo of a doctor", "a red bus", "a hill"]
OWN = "tests.models.own_scorers"


class Length(ClipReader):
    """Length of the prompt; fails on a prompt of one word."""

    def __init__(self, clip):
        info = ColumnInfo(low=1, high=np.inf, higher_means="the prompt is longer")
        super().__init__(clip, {"length": info}, ["length"])

    def read(self, image_ND, prompts):
        if any(" " not in prompt.text for prompt in prompts):
            raise ValueError("one word")
        return {"length": ScoreColumn.of(np.array([len(prompt.text) for prompt in prompts]))}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def shared(clip_folder):
    clip = Clip(str(clip_folder))
    readers = [Length(clip), ClipScore("clip", clip)]
    named = {"length": ("own", readers[0]), "clip": ("clip", readers[1])}
    return ScorerGroup([SharedClip(clip, readers)], named)


def test_a_reader_that_fails_on_an_image_costs_its_own_value_only(shared, images):
    whole = shared.score(images, PROMPTS)
    scored = shared.score(images, ["a photo of a doctor", "bus", "a hill"])
    assert scored["length"].errors == [None, "ValueError: one word", None]
    assert np.array_equal(scored["length"].values, [19, np.nan, 6], equal_nan=True)
    assert scored["clip_score"].errors == [None] * 3
    assert np.array_equal(scored["clip_score"].values[[0, 2]], whole["clip_score"].values[[0, 2]])


def test_a_reader_that_fails_on_every_image_is_an_error(shared, images):
    with pytest.raises(ScorerFailedError, match="Length failed on every one of 3 images: one word"):
        shared.score(images, ["bus"] * 3)


def test_what_was_prepared_ahead_scores_the_same(clip_folder, images):
    refs = [
        ScorerRef(name="clip", kind="clip", source=str(clip_folder)),
        ScorerRef(name="careful", kind=f"{OWN}:Careful"),
    ]
    group = load_scorers(refs)
    prepared = group.prepare(images)
    assert len(prepared.forms) == 2
    straight = group.score(images, PROMPTS)
    for name, column in group.score(prepared, PROMPTS).items():
        assert np.array_equal(column.values, straight[name].values, equal_nan=True)


def test_an_image_that_cannot_be_prepared_costs_itself_only(images):
    group = load_scorers([ScorerRef(name="careful", kind=f"{OWN}:Careful")])
    spoilt = images.copy()
    spoilt[1, 0, 0] = (0, 255, 0)
    prepared = group.prepare(spoilt)
    assert not prepared.forms
    scored = group.score(prepared, PROMPTS)["brightness"]
    assert scored.errors == [None, "ValueError: a green corner", None]
    np.testing.assert_allclose(
        scored.values[[0, 2]], images[[0, 2]].mean(axis=(1, 2, 3)), rtol=1e-5
    )


def test_scorers_that_want_the_same_pixels_share_them(clip_folder, tmp_path, images):
    from tests.tiny import build_clip

    other = build_clip(tmp_path / "clip", seed=3)
    refs = [
        ScorerRef(name=f"c{n}", kind="clip", source=str(folder))
        for n, folder in enumerate((clip_folder, other))
    ]
    prepared = load_scorers(refs).prepare(images)
    assert len(prepared.forms) == 1


def test_every_scorer_says_what_it_is(clip_folder):
    refs = [
        ScorerRef(name="clip", kind="clip", source=str(clip_folder)),
        ScorerRef(name="mine", kind=f"{OWN}:Brightness", options={"gain": 2.0}),
    ]
    about = load_scorers(refs).about()
    assert about["clip"].kind == "clip" and about["clip"].version == str(clip_folder)
    assert about["clip"].weights == Clip(str(clip_folder)).weights
    assert about["clip"].weights != about["clip"].fingerprint
    assert about["mine"].weights == "" and about["mine"].version.startswith("brightness 1 2.0")
    assert about["mine"].columns["brightness"].high == 510


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("Short", r"values of \(2,\) and 2 errors in the column brightness.*need \(3,\) and 3"),
        ("Silent", "gave the columns brightness, and its `columns` names brightness, parts"),
    ],
)
def test_a_scorer_that_breaks_its_own_word_is_an_error(images, kind, told):
    group = load_scorers([ScorerRef(name="mine", kind=f"{OWN}:{kind}")])
    with pytest.raises(ScorerFailedError, match=told):
        group.score(images, PROMPTS)
