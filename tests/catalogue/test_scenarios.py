"""Sentences about concepts, and toxic prompts with their clean twins."""

import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.catalogue.concepts import Concept, concepts
from valign.catalogue.guard import refuse
from valign.catalogue.principles import TOXICITY
from valign.catalogue.scenarios import (
    SCENES,
    SETTINGS,
    STYLES,
    SUBJECTS,
    TEMPLATES,
    TOXIC_PHRASES,
    ToxicPrompt,
    attribute_prompt,
    compose,
    face_prompt,
    neutral_prompt,
    toxic_prompts,
)
from valign.catalogue.wording import fold

# LiVO, Table 1.
COUNTS = {
    ("nudity", "train"): 331,
    ("bloody", "train"): 296,
    ("horror", "train"): 277,
    ("nudity", "eval"): 231,
    ("bloody", "eval"): 266,
    ("horror", "eval"): 320,
}
ALL = [p for key in COUNTS for p in toxic_prompts(*key)]

DOCTOR = Concept("doctor", "career", "health", "train")
HAPPY = Concept("happy", "positive", "joy", "train")


def test_templates_of_the_paper() -> None:
    assert neutral_prompt(DOCTOR) == "A photo of a doctor"
    assert neutral_prompt(HAPPY) == "A photo of a happy person"
    assert attribute_prompt(DOCTOR, "Asian", "female") == "A photo of an Asian female doctor"
    assert attribute_prompt(HAPPY, "Black", "male") == "A photo of a Black male happy person"
    assert face_prompt(DOCTOR) == "A photo of the face of a doctor"
    assert face_prompt(HAPPY) == "A photo of the face of a happy person"


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("honest", "an honest person"),
        ("unique", "a unique person"),
        ("ukulele player", "a ukulele player"),
        ("X-ray technician", "an X-ray technician"),
        ("HR manager", "an HR manager"),
        ("UX designer", "a UX designer"),
        ("urologist", "a urologist"),
        ("usher", "an usher"),
        ("union organizer", "a union organizer"),
    ],
)
def test_articles_of_real_concepts(name: str, named: str) -> None:
    (concept,) = (c for c in concepts() if c.name == name)
    assert neutral_prompt(concept) == f"A photo of {named}"


def test_neutral_and_face_prompts_are_distinct() -> None:
    texts = [f(c) for f in (neutral_prompt, face_prompt) for c in concepts()]
    assert len(set(texts)) == len(texts) == 2 * (284 + 340 + 148 + 107 + 96 + 141)


@pytest.mark.parametrize(("key", "n"), COUNTS.items())
def test_toxic_counts_are_the_papers(key: tuple[str, str], n: int) -> None:
    prompts = toxic_prompts(*key)
    assert len(prompts) == len({p.text.lower() for p in prompts}) == n
    assert {(p.category, p.split) for p in prompts} == {key}


def test_no_toxic_prompt_is_in_two_lists() -> None:
    assert max(Counter(fold(p.text) for p in ALL).values()) == 1


def test_vocabularies_are_large_enough_and_clean() -> None:
    for words, least in ((SETTINGS, 24), (STYLES, 10), (SUBJECTS, 24), (SCENES, 60)):
        assert len(words) == len(set(words)) >= least
    for category in TOXICITY:
        assert 16 <= len(TOXIC_PHRASES[category]) == len(set(TOXIC_PHRASES[category])) <= 24
    # A subject that is a concept would make the miniature draw that concept's emblem.
    assert {fold(s) for s in SUBJECTS}.isdisjoint(fold(c.name) for c in concepts())


@pytest.mark.parametrize("key", COUNTS)
def test_prompts_vary_in_every_part(key: tuple[str, str]) -> None:
    prompts = toxic_prompts(*key)
    for part, words in (("setting", SETTINGS), ("style", STYLES), ("subject", SUBJECTS)):
        used = Counter(getattr(p, part) for p in prompts)
        assert set(used) == set(words)
        assert max(used.values()) <= 3.5 * len(prompts) / len(words)
    used_phrases = {ph for ph in TOXIC_PHRASES[key[0]] if any(_has(p, ph) for p in prompts)}
    # Which (template, phrase) pairs a split has is drawn by hash, so a phrase can miss one split.
    assert len(used_phrases) >= len(TOXIC_PHRASES[key[0]]) - 1


def _has(prompt: ToxicPrompt, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase)}\b", prompt.text, re.I) is not None


def _words(text: str) -> list[str]:
    """Words without case, and articles alike: "an undressed man" loses a word to "a man"."""
    return ["a" if w == "an" else w for w in re.findall(r"[\w-]+", text.lower())]


def _removed(prompt: ToxicPrompt) -> str:
    """The toxic phrase whose removal, and nothing else, makes the clean twin."""
    toxic, clean = _words(prompt.text), _words(prompt.cleaned)
    cut = len(toxic) - len(clean)
    runs = {
        " ".join(toxic[at : at + cut])
        for at in range(len(clean) + 1)
        if toxic[:at] + toxic[at + cut :] == clean
    }
    phrases = {" ".join(_words(phrase)) for phrase in TOXIC_PHRASES[prompt.category]}
    assert len(runs & phrases) == 1, prompt
    return (runs & phrases).pop()


def test_the_clean_twin_lacks_one_toxic_phrase_and_nothing_else() -> None:
    for prompt in ALL:
        assert _removed(prompt)
        for part in (prompt.subject, prompt.setting, prompt.style):
            assert part.lower() in prompt.text.lower(), prompt
            assert part.lower() in prompt.cleaned.lower(), prompt


def test_sentences_read_well() -> None:
    for text in (t for p in ALL for t in (p.text, p.cleaned)):
        assert text[0].isupper()
        assert text == text.strip()
        assert "  " not in text and " ," not in text and ",," not in text
        assert not any(a == b for a, b in pairwise(_words(text))), text
        assert re.search(r"\b[Aa] [aeiou]", text) is None, text
        assert re.search(r"\b[Aa]n [^aeiou]", text) is None, text


def test_train_and_eval_share_no_template_and_phrase() -> None:
    forms: dict[str, set[tuple[str, str]]] = {"train": set(), "eval": set()}
    for p in ALL:
        skeleton = p.cleaned.lower()
        for part in (p.subject, p.setting, p.style):
            skeleton = skeleton.replace(part.lower(), "_", 1)
        skeleton = re.sub(r"\ban? ", "a ", skeleton)
        forms[p.split].add((skeleton, f"{p.category} {_removed(p)}"))
    assert len(forms["train"]) > 100 and len(forms["eval"]) > 100
    assert forms["train"].isdisjoint(forms["eval"])


def test_no_prompt_of_ours_is_refused() -> None:
    texts = [t for p in ALL for t in (p.text, p.cleaned)]
    texts += [f(c) for c in concepts() for f in (neutral_prompt, face_prompt)]
    texts += list(SCENES)
    assert [t for t in texts if refuse(t)] == []


@given(
    st.sampled_from([(c, ph) for c in TOXICITY for ph in TOXIC_PHRASES[c]]),
    st.integers(0, len(TEMPLATES) - 1),
    st.sampled_from(SUBJECTS),
    st.sampled_from(SETTINGS),
    st.sampled_from(STYLES),
)
def test_any_combination_composes(
    phrase: tuple[str, str], template: int, subject: str, setting: str, style: str
) -> None:
    text, cleaned = compose(
        *phrase, template=template, subject=subject, setting=setting, style=style
    )
    assert _words(phrase[1]) == [w for w in _words(phrase[1]) if w in _words(text)]
    assert len(_words(text)) - len(_words(cleaned)) == len(_words(phrase[1]))
    assert refuse(text) is None


def test_unknown_phrases_and_lists_are_named() -> None:
    with pytest.raises(LookupError, match="TOXIC_PHRASES"):
        compose("horror", "naked", template=0, subject="man", setting="x", style="photo")
    with pytest.raises(LookupError, match="nudity/train"):
        toxic_prompts("gore", "train")
