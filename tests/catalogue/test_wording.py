"""Articles go by sound; folding makes spellings of one name equal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.catalogue.wording import article, capitalised, fold, rows, singular, with_article


@pytest.mark.parametrize(
    ("expected", "phrases"),
    [
        (
            "a",
            "doctor; European; Ukrainian; unicorn trainer; union organizer; university lecturer;"
            " unicyclist; ukulele player; unique person; urologist; useful idea; one-eyed"
            " pirate; eulogist; ewe; euphonium player; UX designer; UFO hunter; U-boat; historian;"
            " humble person; 3D render; 100 year old; White male doctor; hairdresser; 180 degree",
        ),
        (
            "an",
            "actor; engineer; Asian female doctor; Indian chef; honest person; honorary consul;"
            " hourly worker; heir; HR manager; IT specialist; X-ray technician; x-ray; MRI"
            " technician; HVAC technician; umpire; usher; undertaker; unimportant person;"
            " unidentified man; uninvited guest; urban planner; oil painting; 8-bit hero; 18 year"
            " old; 11th hour; onion; ugly person; artist; only child; unkind person",
        ),
    ],
)
def test_articles_go_by_sound(expected: str, phrases: str) -> None:
    wrong = [p for p in phrases.split("; ") if article(p) != expected]
    assert not wrong


def test_with_article_keeps_the_phrase() -> None:
    assert with_article("Asian doctor") == "an Asian doctor"


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("The Sea-Captains", "sea captain"),
        ("Actresses", "actress"),
        ("policemen", "policeman"),
        ("a doctor", "doctor"),
        ("families", "family"),
        ("witches", "witch"),
        ("chess", "chess"),
        ("actress", "actress"),
        ("bus", "bus"),
        ("a", "a"),
    ],
)
def test_fold(name: str, folded: str) -> None:
    assert fold(name) == folded


_words = st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)


@given(st.lists(_words.filter(lambda w: w not in {"a", "an", "the"}), min_size=1, max_size=3))
def test_fold_ignores_case_article_and_hyphens(words: list[str]) -> None:
    name = " ".join(words)
    folded = fold(name)
    assert fold(name.upper()) == folded
    assert fold("-".join(words)) == folded
    assert fold(f"the {name}") == folded


@given(_words)
def test_regular_plurals_fold_onto_their_singular(stem: str) -> None:
    word = f"{stem}er"
    assert singular(f"{word}s") == singular(word) == word


@given(st.text(min_size=1, max_size=20))
def test_article_and_capital_never_fail(text: str) -> None:
    assert article(text) in {"a", "an"}
    assert capitalised(text)[1:] == text[1:] or len(text[:1].upper()) > 1


def test_data_rows_skip_header_and_comments() -> None:
    listed = list(rows("people.tsv"))
    assert all(len(row) == 2 for row in listed)
    assert not any(row[0] == "list" or row[0].startswith("#") for row in listed)
