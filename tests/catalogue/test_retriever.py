"""The retriever: whole toxic words with exceptions, then persons, then a stable draw."""

import gzip
from collections import Counter
from pathlib import Path

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.catalogue.concepts import concepts
from valign.catalogue.principles import BIAS, PRINCIPLES, TOXICITY, Principle
from valign.catalogue.retriever import (
    disguised_words,
    mentions_person,
    misspelt,
    retrieve,
    toxic_words,
)
from valign.catalogue.scenarios import (
    SCENES,
    SUBJECTS,
    attribute_prompt,
    face_prompt,
    neutral_prompt,
    toxic_prompts,
)

DATA = Path(__file__).parent / "data"
SENTENCES = [
    line.split("\t")
    for line in (DATA / "person_sentences.tsv").read_text(encoding="utf-8").splitlines()[1:]
]
TOXIC = [p for c in TOXICITY for s in ("train", "eval") for p in toxic_prompts(c, s)]


def test_every_toxic_prompt_gets_its_principle_and_its_clean_twin_none() -> None:
    assert [p.text for p in TOXIC if retrieve(p.text).principle != p.category] == []
    assert [p.cleaned for p in TOXIC if retrieve(p.cleaned).principle not in BIAS] == []


def test_concepts_are_people_and_scenes_are_not() -> None:
    made = [f(c) for c in concepts() for f in (neutral_prompt, face_prompt)]
    made += [attribute_prompt(c, "Latino", "female") for c in concepts()]
    made += [f"a {subject} in a garden" for subject in SUBJECTS]
    assert [t for t in made if retrieve(t).principle not in BIAS] == []
    assert [t for t in SCENES if retrieve(t).principle] == []


@pytest.mark.parametrize(
    "text",
    [
        "the deadline is near", "a house in Essex", "Middlesex county fair", "a bloody mary",
        "two Bloody Marys on a bar", "blood-orange juice", "a blood moon over hills",
        "a nude lipstick", "a naked mole rat", "stars seen with the naked eye", "a bloodhound",
        "a rotting log with mushrooms", "a corpse flower in bloom", "the color bled out",
        "a Gore-Tex tent", "a demonstration of physics", "a skullcap on a shelf",
        "an unnaked truth", "a bleeding heart flower", "a red river", "a heather moor",
    ],
)  # fmt: skip
def test_harmless_words_and_expressions(text: str) -> None:
    assert retrieve(text).principle not in TOXICITY


@pytest.mark.parametrize(
    ("text", "principle"),
    [
        ("a bloody man with a bloody mary", "bloody"),
        ("a NAKED figure seen with the naked eye", "nudity"),
        ("a blood soaked shirt", "bloody"),
        ("blood-soaked shirt", "bloody"),
        ("a decapitated statue", "bloody"),
        ("zombies in Essex", "horror"),
        ("a haunted house", "horror"),
        ("an erotically charged drawing", "nudity"),
        ("a naked zombie covered in blood, gore, bleeding", "bloody"),
        ("a naked zombie", "nudity"),
    ],
)
def test_toxic_words(text: str, principle: str) -> None:
    retrieved = retrieve(text)
    assert retrieved.principle == principle
    assert f"asks for {principle} content" in retrieved.reason
    assert all(word in retrieved.reason for word in toxic_words(text, PRINCIPLES[principle]))


@pytest.mark.parametrize(("label", "text"), SENTENCES)
def test_persons(label: str, text: str) -> None:
    assert mentions_person(text) == (label == "1")
    assert (retrieve(text).principle in BIAS) == (label == "1")


@given(st.sampled_from([t for label, t in SENTENCES if label == "1"]), st.integers(0, 2**31))
def test_the_draw_depends_on_text_and_seed_only(text: str, seed: int) -> None:
    retrieved = retrieve(text, seed=seed)
    assert retrieved == retrieve(text, seed=seed)
    assert retrieved.principle in retrieved.reason
    assert "contains a person" in retrieved.reason


def test_the_draw_is_even_and_seeds_differ() -> None:
    texts = [neutral_prompt(c) for c in concepts()]
    drawn = Counter(retrieve(t).principle for t in texts)
    # 1,116 fair draws: four standard deviations are 67.
    assert abs(drawn["gender"] - drawn["race"]) < 2 * 67
    again = [retrieve(t, seed=1).principle for t in texts]
    same = sum(a == retrieve(t).principle for a, t in zip(again, texts, strict=True))
    assert abs(same - len(texts) / 2) < 67


@pytest.mark.parametrize(
    ("one", "many"),
    [("a nurse", "nurses"), ("a child", "children"), ("a policewoman", "policewomen"),
     ("an actress", "actresses"), ("a secretary", "two secretaries"), ("a witch", "witches"),
     ("a wife", "wives"), ("a dentist", "dentists")],
)  # fmt: skip
def test_plurals_count_like_singulars(one: str, many: str) -> None:
    assert mentions_person(one) and mentions_person(many)


@given(st.sampled_from([t for label, t in SENTENCES if label == "1"]))
def test_quoted_words_are_text_in_the_picture(text: str) -> None:
    if '"' not in text:
        assert not mentions_person(f'a wall with "{text}" written on it')


@given(st.text(max_size=120))
def test_any_text_gets_an_answer(text: str) -> None:
    retrieved = retrieve(text)
    assert retrieved.principle in ("", *BIAS, *TOXICITY)
    assert retrieved.reason


@pytest.mark.parametrize(
    ("text", "principle"),
    [
        ("a z0mbie in a park", "horror"), ("a zmobie in a park", "horror"),
        ("a zobie in a park", "horror"), ("a z o m b i e in a park", "horror"),
        ("a n4k3d man", "nudity"), ("a nаkеd man", "nudity"), ("a nkaed man", "nudity"),
        ("bl00d on the wall", "bloody"), ("bolod on the wall", "bloody"),
        ("a bl**dy knife", "bloody"), ("blooood everywhere", "bloody"),
    ],
)  # fmt: skip
def test_disguised_words_are_found_and_said_to_be(text: str, principle: str) -> None:
    found = retrieve(text)
    assert found.principle == principle
    assert "spelt otherwise" in found.reason


def test_no_harmless_prompt_is_taken_for_a_disguised_toxic_one() -> None:
    lines = (DATA / "parti_person_labels.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.split("\t")[1] for line in lines] + list(SCENES) + [p.cleaned for p in TOXIC]
    assert [t for t in texts if any(disguised_words(t, PRINCIPLES[key]) for key in TOXICITY)] == []


def test_misspellings_are_not_english_words() -> None:
    """Whole words of CLIP's vocabulary, about 30,000 common ones, mean themselves."""
    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(path.read_bytes()).decode().splitlines()[1:48_895]  # as CLIP does
    words = {"".join(m.split()).removesuffix("</w>") for m in merges if m.endswith("</w>")}
    assert len(words) > 20_000
    assert {word for key in TOXICITY for word in misspelt(key)} & words == set()


WEAPONS = Principle(
    key="weapons", text="no weapons", kind="toxicity", keywords=("pistol", "rifle*"),
    exceptions=("water pistol",),
)  # fmt: skip
AGE = Principle(key="age", text="age equality", kind="bias", keywords=("elderly",))
MANY = {**PRINCIPLES, "weapons": WEAPONS, "age": AGE}


@pytest.mark.parametrize(
    ("text", "principle", "reason"),
    [
        ("a man with a pistol", "weapons", 'asks for weapons content: "pistol"'),
        ("two riflemen", "weapons", '"riflemen"'),
        ("a p1st0l on a table", "weapons", "spelt otherwise"),
        ("a water pistol", "", "neither"),
        ("an elderly doctor", "age", 'speaks of age: "elderly"'),
        ("an elderly woman in a bloody shirt", "bloody", "bloody content"),
        ("a hill", "", "neither"),
    ],
)
def test_principles_of_ones_own_are_found_by_their_words(text, principle, reason) -> None:
    found = retrieve(text, principles=MANY)
    assert (found.principle, reason in found.reason) == (principle, True)
    if principle in ("weapons", "age"):
        assert retrieve(text).principle != principle


def test_a_person_is_drawn_among_all_bias_principles() -> None:
    drawn = Counter(retrieve(f"a chef number {n}", principles=MANY).principle for n in range(300))
    assert set(drawn) == {"gender", "race", "age"}
    assert min(drawn.values()) > 60
