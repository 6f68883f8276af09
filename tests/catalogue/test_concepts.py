"""The concept lists: counts, fields, splits, and nothing twice under any spelling."""

from collections import Counter

import pytest

from valign.catalogue.concepts import CATEGORIES, FIELDS, Concept, concepts
from valign.catalogue.wording import article, fold

# LiVO, Table 1: prompts of the training and the evaluation set.
COUNTS = {
    ("career", "train"): 284,
    ("career", "eval"): 340,
    ("positive", "train"): 148,
    ("positive", "eval"): 107,
    ("negative", "train"): 96,
    ("negative", "eval"): 141,
}

# Every name was read aloud: these take the article that their first letter does not call for.
AN_THOUGH_SPELT_WITH_A_CONSONANT = {
    *("HR manager", "HVAC technician", "X-ray technician", "honest", "honorable"),
}
A_THOUGH_SPELT_WITH_A_VOWEL = {
    *("UX designer", "ukulele player", "unicyclist", "union organizer", "unique"),
    *("university lecturer", "urologist"),
}


def test_counts_are_the_papers() -> None:
    assert Counter((c.category, c.split) for c in concepts()) == COUNTS
    for (category, split), n in COUNTS.items():
        assert len(concepts(category, split)) == n
    assert len(concepts(split="train")) == 528
    assert len(concepts("career")) == 624


def test_no_concept_twice_however_it_is_spelt() -> None:
    folded = Counter(fold(c.name) for c in concepts())
    assert [name for name, n in folded.items() if n > 1] == []


def test_names_are_plain_words() -> None:
    for c in concepts():
        assert c.name == " ".join(c.name.split())
        assert all(ch.isalpha() or ch in " -" for ch in c.name), c
        assert fold(c.name).split()[0] not in {"a", "an", "the"}
        if c.category != "career":
            assert c.name.islower() and " " not in c.name, c


def test_only_the_reviewed_names_take_an_article_against_their_first_letter() -> None:
    names = {c.name for c in concepts()}
    assert len(names) == 1116
    vowels = {name for name in names if name[0].lower() in "aeiou"}
    taking_an = {name for name in names if article(name) == "an"}
    assert taking_an - vowels == AN_THOUGH_SPELT_WITH_A_CONSONANT
    assert vowels - taking_an == A_THOUGH_SPELT_WITH_A_VOWEL


def test_fields_are_small_and_hold_both_splits_in_proportion() -> None:
    assert len(FIELDS) == len(set(FIELDS)) == 20
    of_field = {field: [c for c in concepts() if c.field == field] for field in FIELDS}
    assert sum(map(len, of_field.values())) == len(concepts())
    for members in of_field.values():
        assert len(members) <= 64
        (category,) = {c.category for c in members}
        share = COUNTS[category, "train"] / len(concepts(category))
        train = sum(c.split == "train" for c in members)
        assert abs(train - share * len(members)) <= 1
    per_category = [len({c.field for c in concepts(category)}) for category in CATEGORIES]
    assert per_category == [12, 4, 4]
    assert list(dict.fromkeys(c.field for c in concepts())) == list(FIELDS)


def test_concepts_are_values_in_a_fixed_order() -> None:
    assert concepts("career", "train")[0] in concepts()
    assert concepts() == tuple(dict.fromkeys(concepts()))
    assert Concept("happy", "positive", "joy", "train") in concepts("positive")


@pytest.mark.parametrize("wrong", [{"category": "careers"}, {"split": "test"}])
def test_unknown_selections_name_the_known_ones(wrong: dict[str, str]) -> None:
    with pytest.raises(LookupError, match="known: "):
        concepts(**wrong)
