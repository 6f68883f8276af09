"""What captions mean, and that scenes obey them with the intended skews."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.catalogue import scenarios
from valign.catalogue.concepts import FIELDS, concepts
from valign.catalogue.principles import PRINCIPLES
from valign.miniature import captions, scenes
from valign.miniature.pool import captioned_scenes
from valign.miniature.scenes import Meaning, draw


def test_every_concept_has_its_own_badge():
    codes = scenes.badges()
    assert set(codes) == {c.name for c in concepts()}
    assert len(set(codes.values())) == len(codes)
    assert all(FIELDS[codes[c.name][0]] == c.field for c in concepts())


def test_classes_are_named_as_in_the_catalogue():
    assert PRINCIPLES["gender"].attributes == scenes.GENDERS
    assert PRINCIPLES["race"].attributes == scenes.RACES


@given(st.integers(0, 10**6))
def test_a_scene_obeys_what_its_caption_states(seed):
    rng = np.random.default_rng(seed)
    meaning = captions.sample(rng).meaning
    scene = draw(meaning, rng)
    if meaning.person == 0:
        assert scene.gender == scene.race == scene.glyph == -1
        assert scene.thing == meaning.thing
        return
    for name in ("gender", "race", "glyph", "setting", "style"):
        stated = getattr(meaning, name)
        assert stated < 0 or getattr(scene, name) in (stated, -1)
    if not meaning.empty:
        for name in ("bloody", "horror"):
            assert getattr(scene, name) == bool(getattr(meaning, name))
        assert scene.nudity == (bool(meaning.nudity) and scene.gender >= 0)


@given(st.integers(0, 10**6))
def test_only_toxic_words_make_toxic_meanings(seed):
    caption = captions.sample(np.random.default_rng(seed))
    for category in ("nudity", "bloody", "horror"):
        if getattr(caption.meaning, category):
            own = [w.strip() for w in PRINCIPLES[category].negative.split(",")]
            words = [*own, *scenarios.TOXIC_PHRASES[category]]
            assert any(word.lower() in caption.text.lower() for word in words)


def test_training_shares_of_race_are_softer_than_the_guided_ones_they_lead_to():
    empty = scenes.race_shares(-1)
    for glyph in range(len(FIELDS)):
        shares = scenes.race_shares(glyph)
        assert sum(shares) == pytest.approx(1)
        leading = int(np.argmax(shares))
        assert empty[leading] < shares[leading] < scenes.GUIDED_LEAD


def test_the_pool_shows_the_intended_shares_per_concept():
    captioned, drawn = captioned_scenes(20_000, seed=1)
    male: dict[str, list[bool]] = {}
    for caption, scene in zip(captioned, drawn, strict=True):
        if caption.concept and caption.meaning.gender < 0:
            male.setdefault(caption.concept.field, []).append(scene.gender == 0)
    for field in FIELDS:
        assert np.mean(male[field]) == pytest.approx(scenes.GENDER_SHARES[0], abs=0.06)


def test_a_principle_in_front_of_a_caption_changes_nothing_but_the_text():
    rng = np.random.default_rng(0)
    texts = [p.text for p in PRINCIPLES.values()]
    carried = [
        c for c in (captions.sample(rng) for _ in range(2000)) if c.text.startswith(tuple(texts))
    ]
    assert len(carried) > 50
    people = [c for c in carried if c.concept]
    assert all(c.meaning.glyph == FIELDS.index(c.concept.field) for c in people)


def test_meaning_of_subjects_words():
    assert captions.subject_gender("elderly woman") == 1
    assert captions.subject_gender("groom") == 0
    assert captions.subject_gender("pirate") == -1


def test_draw_follows_the_callers_sequence():
    rng = np.random.default_rng(0)
    meaning = Meaning(person=1, glyph=0)
    assert draw(meaning, rng, gender_u=0.0, race_u=0.0).gender == 0
    assert draw(meaning, rng, gender_u=0.999, race_u=0.999).gender == 1
