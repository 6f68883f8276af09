"""English small change: the right indefinite article, and folding of names for comparison.

In: a noun phrase. Out: "a" or "an", or the phrase reduced to a form in which two spellings of
one thing are equal. Rules by sound with short lists of exceptions; no dictionary, no inflection
beyond the plural of the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

_VOWELS = frozenset("aeiou")
# Spelt with a vowel, spoken with a consonant ("you-", "won-") ...
_CONSONANT_SOUND = re.compile(
    r"^(?:u(?:ni(?![dmn])|kr|[ktr][aeiou]|s[aeu]|biqu|fo)|e[uw]|one(?![a-z])|once|ouija)", re.I
)
# ... and the reverse: a silent h.
_SILENT_H = re.compile(r"^(?:hon(?:or|our|est)|hour|heir)", re.I)
# Vowel sound by the letter's name: an HR manager, an X-ray technician, but a UX designer.
_LETTERS_AN = frozenset("AEFHILMNORSX")
_INITIALISM = re.compile(r"^(?:[A-Z]{2,}(?![a-z])|[A-Za-z](?![A-Za-z]))")
_EIGHTS = re.compile(r"^(?:8|1[18](?!\d))")
_IRREGULAR = {"men": "man", "women": "woman", "people": "person", "children": "child",
              "wives": "wife", "knives": "knife", "leaves": "leaf", "feet": "foot"}  # fmt: skip


def article(phrase: str) -> str:
    """The article, "a" or "an", by the sound of what follows: an honest, a European."""
    word = re.split(r"\s", phrase.strip(), maxsplit=1)[0]
    bare = word.strip("\"'(").lower()
    if _EIGHTS.match(bare):
        return "an"
    if _INITIALISM.match(word):
        return "an" if word[0].upper() in _LETTERS_AN else "a"
    if _SILENT_H.match(bare):
        return "an"
    if _CONSONANT_SOUND.match(bare):
        return "a"
    return "an" if bare[:1] in _VOWELS else "a"


def with_article(phrase: str) -> str:
    """The phrase with its indefinite article in front: "an Asian female doctor"."""
    return f"{article(phrase)} {phrase}"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case and everything else as it was."""
    return text[:1].upper() + text[1:]


def singular(word: str) -> str:
    """The singular of a lower-case noun by rule: enough to compare names, not a dictionary."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("men"):
        return word[:-3] + "man"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word


def fold(name: str) -> str:
    """A name without case, article, hyphens and plural: "The Sea-Captains" is "sea captain"."""
    words = re.sub(r"[\s\-_]+", " ", name.lower()).strip().split(" ")
    if len(words) > 1 and words[0] in {"a", "an", "the"}:
        words = words[1:]
    return " ".join([*words[:-1], singular(words[-1])])


def rows(name: str) -> Iterator[tuple[str, ...]]:
    """Rows of a tab-separated data file of this room, its header left out, comments (#) skipped."""
    text = resources.files("valign.catalogue").joinpath("data", name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines[1:]:
        yield tuple(line.split("\t"))
