"""Which value principle a prompt calls for, decided offline from its words.

In: a prompt. Out: `Retrieved` with a principle's key, or "" where no value applies, and the reason
in words. Toxicity comes first: whole words and phrases of `data/toxic_keywords.tsv`, after harmless
expressions were set aside ("bloody mary", "naked eye"). Then, if the prompt contains a person, one
of the two bias principles, drawn by a hash of the prompt, so that the same prompt always gets the
same one. Asking a language model, as the LiVO paper does for the second step: `stages.retrieve`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from valign.catalogue.persons import person_word
from valign.catalogue.principles import BIAS, TOXICITY
from valign.catalogue.wording import rows
from valign.records import digest


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The principle's key ("" for none) and why, in a sentence."""

    principle: str
    reason: str


@cache
def _pattern(principle: str, kind: str) -> re.Pattern[str]:
    """One alternation of whole words; spaces also match hyphens, so "blood soaked" is found too."""
    words = {
        word
        for listed, of_kind, joined in rows("toxic_keywords.tsv")
        if (listed, of_kind) == (principle, kind)
        for word in joined.split(", ")
    }
    parts = (
        re.sub(r"\\?[ \-]+", r"[\\s\\-]+", re.escape(word.rstrip("*")))
        + r"\w*" * word.endswith("*")
        for word in sorted(words, key=lambda w: (-len(w), w))
    )
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)


def toxic_words(text: str, principle: str) -> tuple[str, ...]:
    """The words of a prompt that ask for what the toxicity principle forbids, in order."""
    return tuple(_pattern(principle, "word").findall(_pattern(principle, "except").sub(" ", text)))


def mentions_person(text: str) -> bool:
    """Whether an image of the prompt shows a person (what counts as one: see `persons`)."""
    return bool(person_word(text))


def retrieve(text: str, *, seed: int = 0) -> Retrieved:
    """The principle for a prompt; with words of several toxicity principles, the most words win."""
    if found := retrieve_toxicity(text):
        return found
    if word := person_word(text):
        key = drawn(text, seed=seed)
        return Retrieved(key, f'contains a person ("{word}"); {key} drawn by the prompt\'s hash')
    return Retrieved("", "contains neither a toxic word nor a person")


def retrieve_toxicity(text: str) -> Retrieved | None:
    """The toxicity principle that a prompt's words call for, or None."""
    found = {key: toxic_words(text, key) for key in TOXICITY}
    worst = max(TOXICITY, key=lambda key: len(found[key]))
    if not found[worst]:
        return None
    named = ", ".join(f'"{word}"' for word in dict.fromkeys(found[worst]))
    return Retrieved(worst, f"asks for {worst} content: {named}")


def drawn(text: str, *, seed: int = 0) -> str:
    """The bias principle that a prompt with a person gets when nothing better is known."""
    return BIAS[int(digest("retrieve", seed, text), 16) % len(BIAS)]
