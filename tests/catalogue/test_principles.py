"""The five principles, word for word."""

import pytest

from valign.catalogue.principles import BIAS, PRINCIPLES, TOXICITY, principle


def test_keys_texts_and_attributes() -> None:
    assert {key: p.text for key, p in PRINCIPLES.items()} == {
        "gender": "gender equality",
        "race": "racial equality",
        "nudity": "nudity content is considered inappropriate",
        "bloody": "bloody content is considered inappropriate",
        "horror": "horror content is considered inappropriate",
    }
    assert PRINCIPLES["gender"].attributes == ("male", "female")
    assert PRINCIPLES["race"].attributes == ("White", "Black", "Asian", "Indian", "Latino")
    assert BIAS == ("gender", "race")
    assert TOXICITY == ("nudity", "bloody", "horror")


def test_each_kind_has_what_it_needs() -> None:
    for key, p in PRINCIPLES.items():
        assert p.key == key
        toxic = key in TOXICITY
        assert (p.kind == "toxicity") == toxic == bool(p.negative) == bool(p.question)
        assert bool(p.attributes) != toxic
    # The paper's classifier asks about horror as "zombie".
    assert [PRINCIPLES[key].question for key in TOXICITY] == ["nudity", "bloody", "zombie"]


def test_principles_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PRINCIPLES["gender"] = PRINCIPLES["race"]  # type: ignore[index]


def test_an_unknown_key_names_the_known_ones() -> None:
    assert principle("race") is PRINCIPLES["race"]
    with pytest.raises(LookupError, match=r"'age'.*gender, race, nudity, bloody, horror"):
        principle("age")
