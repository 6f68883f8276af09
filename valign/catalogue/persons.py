"""Finds the word that puts a person into a prompt, without a model.

In: a prompt. Out: the word that names a person, or "". A person is a living human figure, by role
or name or in general, also in a painting or a comic, and a human-looking character (a knight, a
witch). Statues, dolls and other likenesses are not people, nor are animals that act like people
("a corgi chef"), clothes without a wearer ("a cowboy hat") and people said to be absent. Words in
quotation marks are text in the picture and are ignored.

Word lists, not grammar: `data/people.tsv`, `data/not_people.tsv` and the catalogue's careers, with
a few rules about the words around a match. Words match in singular and plural.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from valign.catalogue.concepts import concepts
from valign.catalogue.wording import rows, singular

_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|‘[^’]*’(?!\w)|(?<!\w)'[^']*(?:'\w[^']*)*'(?!\w)")
_REQUEST = re.compile(
    r"\b(?:(?:show|give|draw|make|get|paint|create|bring|let)\s+(?:me|us)"
    r"|i(?:'d| would)?\s+(?:want|need|like|wish)|can (?:i|we))\b",
    re.I,
)
_SIGN = re.compile(r"\b(says?|saying|reads?|called|entitled|titled|labell?ed)((?:\s+[A-Z][\w']*)+)")
_TOKEN = re.compile(r"\w+(?:[-'’]\w+)*['’]?|[.,;:!?()]")
_STOPS = frozenset(".,;:!?()")
_LONGEST = 3  # words in the longest phrase of the lists


@cache
def _lists() -> dict[str, frozenset[str]]:
    """The word lists by name, each phrase ready for comparison."""
    lists: dict[str, set[str]] = {}
    for name, words in (*rows("people.tsv"), *rows("not_people.tsv")):
        lists.setdefault(name, set()).update(words.split(", "))
    careers = {c.name.lower() for c in concepts("career")}
    heads = {name.split()[-1] for name in careers if " " in name}
    known = set().union(*(lists[k] for k in ("strong", "ambiguous", "not_people_head")))
    lists["ambiguous"] |= heads - known - lists["not_people_head"]
    lists["strong"] |= {c for c in careers if c not in lists["ambiguous"]}
    return {
        name: frozenset(words if name == "given" else map(_base, words))
        for name, words in lists.items()
    }


def _base(phrase: str) -> str:
    """A phrase for comparison: lower case, no accents or possessive, last word singular."""
    plain = unicodedata.normalize("NFKD", phrase.lower().replace("’", "'"))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    *first, last = re.sub(r"'s?(?=\s|$)", "", plain).split(" ")
    return " ".join([*first, singular(last)])


@dataclass(frozen=True, slots=True)
class _Text:
    """A prompt as tokens: as written, and as compared."""

    raw: tuple[str, ...]
    words: tuple[str, ...]

    @classmethod
    def of(cls, prompt: str) -> _Text:
        text = _SIGN.sub(r"\1", _REQUEST.sub(" ", _QUOTED.sub(" , ", prompt)))
        raw = tuple(_TOKEN.findall(text))
        return cls(raw, tuple(map(_base, raw)))

    def phrase(self, start: int, end: int) -> str:
        return _base(" ".join(self.raw[start:end]))

    def before(self, start: int, reach: int) -> list[str]:
        """Up to `reach` words left of a match, nearest last, within the clause."""
        left: list[str] = []
        for word in reversed(self.words[max(0, start - reach) : start]):
            if word in _STOPS:
                break
            left.insert(0, word)
        return left

    def after(self, end: int, reach: int) -> list[str]:
        """Up to `reach` words right of a match, nearest first, within the clause."""
        right: list[str] = []
        for word in self.words[end : end + reach]:
            if word in _STOPS:
                break
            right.append(word)
        return right


@dataclass(frozen=True, slots=True)
class _Match:
    kind: str
    word: str
    start: int
    end: int


_KINDS = ("phrase", "strong", "named", "collective", "ambiguous", "weak", "likeness", "nonhuman")


def _matches(text: _Text) -> list[_Match]:
    """Longest matches from left to right; a fixed expression hides the words inside it."""
    lists, found, at = _lists(), [], 0
    while at < len(text.raw):
        for size in range(min(_LONGEST, len(text.raw) - at), 0, -1):
            word = text.phrase(at, at + size)
            kind = next((k for k in _KINDS if word in lists[k]), "")
            if not kind and size == 1:
                kind = _kind_of_single(text, at)
            if kind:
                found.append(_Match(kind, word, at, at + size))
                at += size
                break
        else:
            at += 1
    return found


def _kind_of_single(text: _Text, at: int) -> str:
    """The kind of a word that is in no list: the speaker, a given name, or a telling ending."""
    lists, raw, word = _lists(), text.raw[at], text.words[at]
    right = text.after(at + 1, 1)
    if word in lists["first"]:  # not the country, and not an initial or a number
        return "first" if raw != "US" and (word != "i" or right) else ""
    if re.sub(r"['’]s?$", "", raw) in lists["given"]:
        return "strong" if lists["place"].isdisjoint([*text.before(at, 1), *right]) else ""
    if word in lists["not_suffix"] or "-" in word:
        return ""
    named = any(len(word) > len(s) + 1 and word.endswith(s) for s in lists["suffix"])
    return "strong" if named else ""


def _absent(text: _Text, match: _Match) -> bool:
    left = " ".join(text.before(match.start, 3))
    return any(re.search(rf"\b{re.escape(w)}\b", left) for w in _lists()["without"])


def _possessive(text: _Text, match: _Match) -> bool:
    pronoun = match.word in ("he", "she")  # "she's" is not
    return not pronoun and re.search(r"['’]s?$", text.raw[match.end - 1]) is not None


def _modifies(text: _Text, match: _Match) -> bool:
    """Whether the person is not in the picture: "a cowboy hat", "the king's cap", "kids' book".

    What somebody owns stands without its owner, but "a girl's shoulder" is part of a girl.
    """
    lists = _lists()
    if _possessive(text, match):
        return lists["body"].isdisjoint(text.after(match.end, 3))
    return not lists["thing"].isdisjoint(text.after(match.end, 1))


def _likened(text: _Text, match: _Match, found: list[_Match]) -> bool:
    """Whether it only looks like a person: "a statue of an old man", "dressed as a king"."""
    lists = _lists()
    for other in found:
        if other.kind == "likeness" and 0 <= match.start - other.end <= 4:
            between = set(text.words[other.end : match.start]) - {"of", "the", "a", "an", "like"}
            closed = between & (lists["function"] | _STOPS)
            if not closed and not any(w.endswith("ing") for w in between):
                return True
    right = text.after(match.end, 3)
    for at in range(1 if right[:1] and right[0] in lists["function"] else 2):
        if any(" ".join(right[at : at + size]) in lists["made"] for size in (1, 2)):
            return True
    return not lists["material"].isdisjoint(text.before(match.start, 2))


def _animal_in_role(text: _Text, match: _Match) -> bool:
    """Whether an animal acts the part: "a panda scientist", but not "a dog walker"."""
    nonhuman = _lists()["nonhuman"]
    if match.word.split()[-1] in _lists()["with_animal"]:
        return False
    left, right = text.before(match.start, 2), text.after(match.end, 2)
    if left[-1:] == ["its"]:
        return True
    for near in (left[::-1], right):
        for word in near:
            if word in _lists()["function"] or word.endswith("ing"):
                break
            if word in nonhuman:
                return True
    return False


def _vague(text: _Text, match: _Match) -> bool:
    """Whether an ambiguous word is a verb or a modifier here: "they cook rice", "a model train"."""
    left, right = text.before(match.start, 3), text.after(match.end, 1)
    plural = text.raw[match.end - 1].lower().endswith("s") and not match.word.endswith("s")
    determined = any(w in _lists()["determiner"] for w in left) or (not left) or plural
    closes = not right or right[0] in _lists()["function"] or right[0].endswith(("ing", "ed", "s"))
    return not (determined and closes)


def _of_others(text: _Text, match: _Match) -> bool:
    """Whether a group is of something else: "a family of bears", but not "a family of four"."""
    right = text.after(match.end, 3)
    if right[:1] == ["of"]:
        return (
            right[1:2] == []
            or right[1] not in _lists()["number"]
            or (len(right) > 2 and right[2] in _lists()["nonhuman"])
        )
    return False


def _counts(text: _Text, match: _Match, found: list[_Match]) -> bool:
    if _absent(text, match) or _modifies(text, match) or _likened(text, match, found):
        return False
    if match.kind == "first":
        return True
    if match.kind == "weak":
        return _lists()["nonhuman"].isdisjoint(text.words) and not _of_others(text, match)
    if match.kind == "named":  # also not the author of a work, nor in "Rembrandt's painting"
        right = " ".join(text.after(match.end, 1))
        work = _possessive(text, match) or right in _lists()["work"]
        return not work and text.before(match.start, 1) != ["by"]
    if match.word in _lists()["chess"] and "chess" in text.words:
        return False
    if _animal_in_role(text, match):
        return False
    if match.kind == "ambiguous":
        return not _vague(text, match)
    return match.kind != "collective" or not _of_others(text, match)


def person_word(prompt: str) -> str:
    """The first word or phrase that puts a person into the picture, or "" if there is none."""
    text = _Text.of(prompt)
    found = _matches(text)
    people = [m for m in found if m.kind not in ("phrase", "nonhuman", "likeness")]
    likenesses = {m.word for m in people if _likened(text, m, found)}
    for match in people:
        if match.word not in likenesses and _counts(text, match, found):
            return match.word
    return ""
