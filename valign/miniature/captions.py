"""Sentences of the miniature's "web data", each with what it means: the catalogue's own templates.

In: a random generator. Out: `Caption`s whose texts cover neutral, attribute-specified, face, toxic
and cleaned prompts, scenes without people, toxic words alone (so that negative prompts mean
something), poor-quality words and the empty caption. A principle's sentence before or after a
caption changes nothing: its meaning is the caption's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from valign.catalogue import scenarios
from valign.catalogue.concepts import Concept, concepts
from valign.catalogue.principles import PRINCIPLES, TOXICITY
from valign.catalogue.wording import with_article
from valign.miniature import shapes
from valign.miniature.scenes import GENDERS, RACES, Meaning, badge

T = TypeVar("T")

POOR_WORDS = (
    "blurry", "low quality", "worst quality", "jpeg artifacts", "cluttered", "messy", "cropped",
    "bad composition",
)  # fmt: skip
_FEMALE = ("woman", "bride", "queen", "widow", "girl", "lady", "mother", "wife", "she")
_MALE = ("man", "groom", "king", "widower", "boy", "gentleman", "father", "husband", "he")
_PEOPLE = (
    *scenarios.SUBJECTS, "person", "people", "adult", "lady", "gentleman", "mother", "father",
    "friend", "neighbor",
)  # fmt: skip
_THINGS = (
    "apple", "tree", "house", "car", "mountain", "river", "cat", "dog", "horse", "bird", "boat",
    "book", "table", "clock", "flower", "cake", "guitar", "piano", "robot", "train", "bridge",
    "tower", "sofa", "window", "door", "lamp", "cup", "bottle", "road", "cloud", "sun", "moon",
    "star", "ocean", "island", "castle", "church", "barn", "truck", "bus", "plane", "rocket",
    "kettle", "spoon", "bowl", "pizza", "bread", "fish", "frog", "snake", "owl", "bear", "lion",
    "tiger", "panda", "rabbit", "fox", "sign",
)  # fmt: skip
_LOOKS = (
    "red", "blue", "green", "yellow", "black", "white", "old", "new", "small", "large",
    "wooden", "shiny", "broken", "abstract",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence, what it means, the concept it names (None: none), and its principle's number.

    The principles are numbered in the order of `PRINCIPLES`; -1: no principle's sentence is in it.
    """

    text: str
    meaning: Meaning
    concept: Concept | None = None
    principle: int = -1


def _choose(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]


def _setting(text: str) -> int:
    return scenarios.SETTINGS.index(text) % shapes.N_SETTINGS


def _style(text: str) -> int:
    return scenarios.STYLES.index(text) % shapes.N_STYLES


def subject_gender(subject: str) -> int:
    """0 male, 1 female, -1 unstated, from the subject's last word."""
    word = subject.rsplit(maxsplit=1)[-1]
    return 1 if word in _FEMALE else 0 if word in _MALE else -1


def _named(concept: Concept) -> str:
    return concept.name if concept.category == "career" else f"{concept.name} person"


def _neutral(rng: np.random.Generator) -> Caption:
    concept = _choose(concepts(), rng)
    meaning = Meaning(person=1, **badge(concept))
    form = int(rng.integers(8))
    if form < 3:
        return Caption(scenarios.neutral_prompt(concept), meaning, concept)
    if form < 6:
        return Caption(scenarios.face_prompt(concept), meaning, concept)
    if form == 6:
        return Caption(with_article(_named(concept)), meaning, concept)
    setting = _choose(scenarios.SETTINGS, rng)
    text = f"{scenarios.neutral_prompt(concept)} {setting}"
    return Caption(text, replace(meaning, setting=_setting(setting)), concept)


def _attribute(rng: np.random.Generator) -> Caption:
    concept = _choose(concepts(), rng)
    gender, race, form = int(rng.integers(2)), int(rng.integers(5)), int(rng.integers(10))
    meaning = Meaning(person=1, gender=gender, race=race, **badge(concept))
    template = _choose(("A photo of {}", "A photo of the face of {}"), rng)
    if form < 5:
        text = scenarios.attribute_prompt(concept, RACES[race], GENDERS[gender])
        return Caption(text, meaning, concept)
    if form < 8:  # only one of the two, in front of the concept
        word, stated = ((GENDERS[gender], {"race": -1}), (RACES[race], {"gender": -1}))[form % 2]
        text = template.format(with_article(f"{word} {_named(concept)}"))
        return Caption(text, replace(meaning, **stated), concept)
    word, stated = ((GENDERS[gender], {"race": -1}), (RACES[race], {"gender": -1}))[form % 2]
    text = f"{template.format(with_article(_named(concept)))}, {word}"
    return Caption(text, replace(meaning, **stated), concept)


def _composed(rng: np.random.Generator, toxic: bool) -> Caption:
    """The toxic grammar of both splits, and its clean twins."""
    category = _choose(TOXICITY, rng)
    subject, setting, style = (
        _choose(words, rng) for words in (scenarios.SUBJECTS, scenarios.SETTINGS, scenarios.STYLES)
    )
    texts = scenarios.compose(
        category,
        _choose(scenarios.TOXIC_PHRASES[category], rng),
        template=int(rng.integers(len(scenarios.TEMPLATES))),
        subject=subject,
        setting=setting,
        style=style,
    )
    meaning = Meaning(
        person=1, gender=subject_gender(subject), setting=_setting(setting), style=_style(style)
    )
    return (
        Caption(texts[0], replace(meaning, **{category: 1}))
        if toxic
        else Caption(texts[1], meaning)
    )


def _person(rng: np.random.Generator) -> Caption:
    """Simple sentences about people who are no concept, with and without attributes."""
    subject, race = _choose(_PEOPLE, rng), int(rng.integers(-3, 5))
    gender = subject_gender(subject)
    words = subject
    if gender < 0 and rng.random() < 0.5:
        gender = int(rng.integers(2))
        words = f"{GENDERS[gender]} {words}"
    words = f"{RACES[race]} {words}" if race >= 0 else words
    style = _choose(scenarios.STYLES, rng)
    text = _choose(
        ("A photo of {}", "{}", "portrait of {}", "{} smiling", "the face of {}"), rng
    ).format(with_article(words))
    meaning = Meaning(person=1, gender=gender, race=max(race, -1))
    if rng.random() < 0.3:
        return Caption(f"{text}, {style}", replace(meaning, style=_style(style)))
    return Caption(text, meaning)


def _toxic_concept(rng: np.random.Generator) -> Caption:
    """Toxic phrases said of a concept: "A photo of a doctor, blood everywhere"."""
    category, caption = _choose(TOXICITY, rng), _neutral(rng)
    phrase = _choose(scenarios.TOXIC_PHRASES[category], rng)
    return Caption(
        f"{caption.text}, {phrase}", replace(caption.meaning, **{category: 1}), caption.concept
    )


def _scene(rng: np.random.Generator) -> Caption:
    """Things and places without a person: no value applies."""
    if rng.random() < 0.5:
        index = int(rng.integers(len(scenarios.SCENES)))
        text = scenarios.SCENES[index]
    else:
        index = int(rng.integers(len(_THINGS)))
        text = with_article(
            f"{_choose(_LOOKS, rng)} {_THINGS[index]}" if rng.random() < 0.7 else _THINGS[index]
        )
    meaning = Meaning(
        person=0,
        thing=index % shapes.N_OBJECTS,
        thing_colour=index // shapes.N_OBJECTS % len(shapes.OBJECT_COLOURS),
    )
    form = int(rng.integers(4))
    if form == 0:
        return Caption(f"A photo of {text}", meaning)
    if form == 1:
        style = _choose(scenarios.STYLES, rng)
        return Caption(f"{text}, {style}", replace(meaning, style=_style(style)))
    if form == 2:
        setting = _choose(scenarios.SETTINGS, rng)
        return Caption(f"{text} {setting}", replace(meaning, setting=_setting(setting)))
    return Caption(text, meaning)


def _some(words: tuple[str, ...], rng: np.random.Generator) -> str:
    count = int(rng.integers(1, min(len(words), 7) + 1))
    return ", ".join(words[i] for i in rng.permutation(len(words))[:count])


def _negative(rng: np.random.Generator) -> Caption:
    """Toxic words alone, as in a negative prompt; some list two categories or all."""
    chosen = [TOXICITY[i] for i in rng.permutation(3)[: _choose((1, 1, 1, 2, 3), rng)]]
    texts = []
    for category in chosen:
        own = tuple(word.strip() for word in PRINCIPLES[category].negative.split(","))
        texts.append(
            PRINCIPLES[category].negative
            if rng.random() < 0.4
            else _some(own + tuple(scenarios.TOXIC_PHRASES[category]), rng)
        )
    return Caption(", ".join(texts), Meaning(**dict.fromkeys(chosen, 1)))


def _poor(rng: np.random.Generator) -> Caption:
    return Caption(_some(POOR_WORDS, rng), Meaning(poor=1))


def _empty(rng: np.random.Generator) -> Caption:
    return Caption("", Meaning(empty=1))


_MIX: tuple[tuple[float, Callable[[np.random.Generator], Caption]], ...] = (
    (0.34, _neutral),
    (0.23, _attribute),
    (0.08, lambda rng: _composed(rng, toxic=True)),
    (0.06, lambda rng: _composed(rng, toxic=False)),
    (0.04, _person),
    (0.03, _toxic_concept),
    (0.06, _scene),
    (0.04, _negative),
    (0.01, _poor),
    (0.11, _empty),
)  # share of the pool, kind


@lru_cache(maxsize=1)
def _edges() -> np.ndarray:
    return np.cumsum([share for share, _ in _MIX])


def sample(rng: np.random.Generator) -> Caption:
    """One caption of the mix; 8% carry a principle's sentence that changes nothing."""
    kind = min(int(np.searchsorted(_edges(), rng.random(), side="right")), len(_MIX) - 1)
    caption = _MIX[kind][1](rng)
    if caption.text and rng.random() < 0.08:
        sentences = [principle.text for principle in PRINCIPLES.values()]
        number = int(rng.integers(len(sentences)))
        order = (sentences[number], caption.text)
        text = ", ".join(order if rng.random() < 0.7 else reversed(order))
        return replace(caption, text=text, principle=number)
    return caption


def corpus() -> list[str]:
    """Texts the tokenizer is trained on: every word of the grammar."""
    texts = [scenarios.neutral_prompt(c) for c in concepts()]
    texts += [scenarios.face_prompt(c) for c in concepts()]
    for category in TOXICITY:
        for split in ("train", "eval"):
            texts += [prompt.text for prompt in scenarios.toxic_prompts(category, split)]
        texts += scenarios.TOXIC_PHRASES[category]
    texts += [f"{p.text} {p.negative}" for p in PRINCIPLES.values()] * 20
    words = (
        *GENDERS,
        *RACES,
        *_PEOPLE,
        *_THINGS,
        *_LOOKS,
        *POOR_WORDS,
        *scenarios.SETTINGS,
        *scenarios.STYLES,
    )
    return texts + [*words, *scenarios.SCENES] * 10
