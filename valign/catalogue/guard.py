"""Refuses prompts that combine minors with sexual content. It has no switch.

In: a text a generator would be asked for. Out: a `Refusal` with its reason, or None. There must be
both a word for a minor (or an age under 18) and a word for sex or nudity, in whatever spelling
`spellings` can undo, after harmless expressions were set aside ("a kid goat", "nude lipstick"); a
few words are refused alone. It errs on the safe side: "girl" and "boy" count as minors, and "no"
before a word changes nothing, because generators ignore it. Refused texts are counted by the
caller and stored by nobody. Check the user's own prompt: a principle's sentence put in front of it
("nudity content is considered inappropriate, ...") would count as a word for nudity.

Not covered: other languages than English (but for a few words), allusions, and images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

from valign.catalogue.spellings import plain, readings, skeleton
from valign.catalogue.wording import rows


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a text is refused; the reason never quotes the text."""

    reason: str


_TEENS = "thir|four|fif|six|seven"
_UNDER_18 = (
    r"(?:0?[0-9]|1[0-7]|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    rf"|(?:{_TEENS})teen)"
)
_TEN_TO_17 = rf"(?:1[0-7]|ten|eleven|twelve|(?:{_TEENS})teen)"
_TO_18 = rf"(?:{_UNDER_18}|18|eighteen)"
_ORDINAL = (
    r"(?:1st|2nd|3rd|(?:[4-9]|1[0-7])th|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth"
    rf"|tenth|eleventh|twelfth|(?:{_TEENS})teenth)"
)
_UNITS = "feet|foot|ft|inch|inches|meters?|metres?|cm|mm|m|km|miles?|minutes?|seconds?|degrees?"


@cache
def _list(name: str) -> frozenset[str]:
    """The words of one list as skeletons, spaces for hyphens and the like."""
    words = (
        w for listed, joined in rows("guard.tsv") if listed == name for w in joined.split(", ")
    )
    return frozenset(skeleton(_spaced(plain(word))) for word in words)


def _spaced(word: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", word))


def _plurals(words: Iterable[str]) -> set[str]:
    listed = set(words)
    return listed | {f"{w}{end}" for w in listed for end in ("s", "es")}


@cache
def _known() -> frozenset[str]:
    """Single words worth finding inside others, as skeletons."""
    words = _list("minor") | _list("sexual") | _list("alone")
    return frozenset(w.replace(" ", "") for w in _plurals(words) if len(w) > 2)


def _any_of(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=lambda w: (-len(w), w))))


@cache
def _words(name: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{_any_of(_plurals(_list(name)))})\b".replace(r"\ ", " ?"))


@cache
def _benign() -> re.Pattern[str]:
    # Within a clause only: "a naked kid. goat" is no goat.
    phrases = (w for listed, ws in rows("guard.tsv") if listed == "benign" for w in ws.split(", "))
    return re.compile(rf"\b(?:{_any_of(phrases)})\b".replace(r"\ ", r"[\s\-]+"))


@cache
def _age() -> re.Pattern[str]:
    """Ages under 18, said in any of the usual ways; not the age of a whisky or a dog."""
    things = _any_of(_list("thing"))
    persons = _any_of(_plurals(_list("person")))
    ages = (
        rf"{_UNDER_18} ?(?:yo|yos|y o|yr o|(?:yrs?|years?|y) ?(?:old|young|of age)|yro)s?\b"
        rf"(?! (?:\w+ )?(?:{things})\b)",
        rf"{_UNDER_18} ?(?:months?|weeks?|days?) ?old\b(?! (?:\w+ )?(?:{things})\b)",
        r"(?:aged?|ages|turn(?:s|ed|ing)?) (?:of |is |was |just |only |about |around |a )*"
        rf"{_UNDER_18}\b",
        rf"{_UNDER_18} years of age\b",
        rf"(?:under|below|younger than|less than|not yet) (?:the )?(?:age )?(?:of )?{_TO_18}\b"
        rf"(?! (?:{_UNITS})\b)",
        rf"(?:she|he|who|girl|boy|they) ?(?:s|is|was|are|re|looks) (?:only |just |like |about )*"
        rf"{_UNDER_18}\b(?! (?:{_UNITS}|times|of)\b)",
        rf"(?:{persons}) (?:only |just )?{_TEN_TO_17}\b"
        rf"(?! (?:{_UNITS}|times|of|k|bit|\d+|\w+s)\b)",
        rf"{_ORDINAL} birthday",
        rf"{_ORDINAL} grade(?:rs?)?\b",
    )
    return re.compile(skeleton(rf"\b(?:{'|'.join(ages)})"))


@lru_cache(maxsize=1 << 14)
def _hits(text: str) -> tuple[bool, bool, bool]:
    """Whether the text, in any reading, names a minor, names sex, or is refused alone."""
    minor = sexual = alone = False
    fillers, common = _list("filler"), _list("common")
    text = _benign().sub(" , ", plain(text))
    for reading in readings(text, _known(), fillers=fillers, common=common):
        clean = skeleton(reading)
        minor |= bool(_words("minor").search(clean) or _age().search(clean))
        sexual |= bool(_words("sexual").search(clean))
        alone |= bool(_words("alone").search(clean))
    return minor, sexual, alone


def refuse(text: str) -> Refusal | None:
    """A refusal if the text combines minors with sexual content, else None."""
    minor, sexual, alone = _hits(text)
    if alone:
        return Refusal("names the sexualisation of minors")
    if minor and sexual:
        return Refusal("combines minors with sexual content")
    return None
