"""Which value principle a prompt calls for, decided offline from its words.

In: a prompt. Out: `Retrieved` with a principle's key, or "" where no value applies, and the reason
in words. Toxicity comes first: whole words and phrases of `data/toxic_keywords.tsv`, after harmless
expressions were set aside ("bloody mary", "naked eye"), then the same words misspelt or disguised
("zmobie", "bl00d"). Then, if the prompt contains a person, one
of the two bias principles, drawn by a hash of the prompt, so that the same prompt always gets the
same one. A recipe's own principles are found by their keywords, plain or disguised but not misspelt
(nobody has looked through what else a misspelling of theirs may mean); an own bias principle
without keywords is drawn like the others.
Asking a language model, as the LiVO paper does for the second step: `stages.retrieve`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from valign.catalogue.persons import person_word
from valign.catalogue.principles import PRINCIPLES, TOXICITY, Principle, of_kind
from valign.catalogue.spellings import plain, readings, skeleton
from valign.catalogue.wording import rows
from valign.records import digest

_SHORTEST_MISSPELT = 5  # letters


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The principle's key ("" for none) and why, in a sentence."""

    principle: str
    reason: str


def _listed(principle: str, kind: str) -> frozenset[str]:
    """The words and phrases of one list of the table."""
    return frozenset(
        word
        for listed, of_kind, joined in rows("toxic_keywords.tsv")
        if (listed, of_kind) == (principle, kind)
        for word in joined.split(", ")
    )


def _words(principle: Principle, kind: str) -> frozenset[str]:
    """A principle's words or exceptions, listed in the table or stated by itself."""
    own = principle.keywords if kind == "word" else principle.exceptions
    return _listed(principle.key, kind) | frozenset(own)


@cache
def _pattern(principle: Principle, kind: str) -> re.Pattern[str]:
    """One alternation of whole words; spaces also match hyphens, so "blood soaked" is found too."""
    parts = [
        re.sub(r"\\?[ \-]+", r"[\\s\\-]+", re.escape(word.rstrip("*")))
        + r"\w*" * word.endswith("*")
        for word in sorted(_words(principle, kind), key=lambda w: (-len(w), w))
    ]
    nothing = r"(?!)"
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts) or nothing})(?!\w)", re.IGNORECASE)


def toxic_words(text: str, principle: Principle) -> tuple[str, ...]:
    """The words of a prompt that call for the principle, in order."""
    return tuple(_pattern(principle, "word").findall(_pattern(principle, "except").sub(" ", text)))


def disguised_words(text: str, principle: Principle) -> tuple[str, ...]:
    """The toxic words that a prompt spells otherwise: misspelt, in leet, look-alikes or apart."""
    known = _known_words(principle)
    plainly = _pattern(principle, "except").sub(" ", plain(text))
    for reading in readings(plainly, known):
        spelt = " ".join(known.get(skeleton(word), word) for word in reading.split())
        if found := toxic_words(spelt, principle):
            return found
    meant = misspelt(principle.key)
    return tuple(meant[word] for word in re.findall(r"[a-z]+", plainly) if word in meant)


@cache
def _known_words(principle: Principle) -> dict[str, str]:
    """Toxic words of at least four letters that stand alone, by their skeletons."""
    single = (word for word in _words(principle, "word") if word.isalpha() and len(word) > 3)
    return {skeleton(word): word for word in single}


@cache
def misspelt(principle: str) -> dict[str, str]:
    """Misspellings and what they mean: two inner letters swapped, or one left out.

    Of words of five letters and more, whose misspellings are hardly ever words themselves; those
    that are stand in the table as `never`.
    """
    every = {word for key in TOXICITY for word in _single_words(key)} | _listed("any", "never")
    return {
        wrong: word
        for word in sorted(_single_words(principle))
        if len(word) >= _SHORTEST_MISSPELT
        for wrong in misspellings(word) - every
    }


def misspellings(word: str) -> set[str]:
    """A word with two neighbouring inner letters swapped, or one inner letter left out."""
    inner = range(1, len(word) - 1)
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in inner if i + 1 in inner}
    return (swapped | {word[:i] + word[i + 1 :] for i in inner}) - {word}


def _single_words(principle: str) -> frozenset[str]:
    """The words of the table without spaces, hyphens and wildcards."""
    return frozenset(word for word in _listed(principle, "word") if word.isalpha())


def mentions_person(text: str) -> bool:
    """Whether an image of the prompt shows a person (what counts as one: see `persons`)."""
    return bool(person_word(text))


def retrieve(
    text: str, *, seed: int = 0, principles: Mapping[str, Principle] = PRINCIPLES
) -> Retrieved:
    """The principle for a prompt; with words of several toxicity principles, the most words win."""
    if found := retrieve_by_words(text, principles):
        return found
    if (word := person_word(text)) and of_kind("bias", principles):
        key = drawn(text, seed=seed, principles=principles)
        return Retrieved(key, f'contains a person ("{word}"); {key} drawn by the prompt\'s hash')
    return Retrieved("", "contains neither a toxic word nor a person")


def retrieve_by_words(
    text: str, principles: Mapping[str, Principle] = PRINCIPLES
) -> Retrieved | None:
    """The principle that a prompt's words call for, or None: toxicity first, then bias."""
    ways = (
        ("toxicity", toxic_words, "asks for {} content", ""),
        ("toxicity", disguised_words, "asks for {} content", " (spelt otherwise)"),
        ("bias", toxic_words, "speaks of {}", ""),
    )
    for kind, words_of, says, how in ways:
        found = {key: words_of(text, p) for key, p in principles.items() if p.kind == kind}
        most = max(found, key=lambda key: len(found[key]), default="")
        if most and found[most]:
            named = ", ".join(f'"{word}"' for word in dict.fromkeys(found[most]))
            return Retrieved(most, f"{says.format(most)}: {named}{how}")
    return None


def drawn(text: str, *, seed: int = 0, principles: Mapping[str, Principle] = PRINCIPLES) -> str:
    """The bias principle that a prompt with a person gets when nothing better is known."""
    keys = of_kind("bias", principles)
    return keys[int(digest("retrieve", seed, text), 16) % len(keys)]
