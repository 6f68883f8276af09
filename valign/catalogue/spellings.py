"""Readings of a text whose author may be hiding words from a word list.

In: any text, made `plain`. Out: `readings`, strings of words that the text could be read as. Undone
are: HTML and URL escapes, invisible characters, look-alike letters of other alphabets
(compatibility forms by NFKD, others by `data/confusables.tsv`), accents, emoji for words, leet,
letters set apart ("n a k e d", "na-ked"), masked ("n*ked") or repeated ("nakeddd"), and words
written together. Misspellings that keep a word's sound or swap its letters are not undone.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection, Iterator
from functools import cache
from urllib.parse import unquote

from valign.catalogue.wording import rows

_EMOJI = {"🔞": " nsfw ", "👶": " baby ", "🍼": " baby ", "🧒": " child ", "👦": " boy ",
          "👧": " girl ", "🚸": " children ", "🍆": " penis "}  # fmt: skip
_LEET = str.maketrans("013456789!|@$+€£¥(<{", "oieasgtbgiiasteiyccc")
_WRAP = "\"'.,;:!?()[]{}<>-–—~`"
_MASKS = "*#?_•·.~^%"
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Me", "Mn"})  # control, format, marks, unassigned
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # letters that are drawn as nothing
_SHORTEST = 3  # letters of the shortest word looked for inside others


@cache
def _lookalikes() -> dict[int, str]:
    table = {ord(c): letter for letter, chars in rows("confusables.tsv") for c in chars}
    # Letters in squares and circles, and flag letters, which NFKC leaves alone.
    for first in (0x1F150, 0x1F170, 0x1F1E6):
        table |= {first + i: chr(ord("a") + i) for i in range(26)}
    return table


def plain(text: str) -> str:
    """The text in lower-case Latin letters where it looks like them; words stay where they are."""
    text = unquote(html.unescape(text))
    text = re.sub("|".join(_EMOJI), lambda m: _EMOJI[m[0]], text)
    text = re.sub(r"(?<=[a-z])I(?=[a-z]|\b)", "l", text)
    text = "".join(c for c in text if c not in _BLANKS).translate(_lookalikes())
    text = "".join(
        c
        for c in unicodedata.normalize("NFKD", text)
        if c.isspace() or unicodedata.category(c) not in _INVISIBLE
    )
    return text.casefold().translate(_lookalikes())


def skeleton(word: str) -> str:
    """A word with the letters that leet cannot tell apart made equal: l and i."""
    return word.replace("l", "i")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text)


def _unleet(chunk: str) -> str:
    """Turns "n4k3d!" into "naked"; plain words and plain numbers come back as they were."""
    core = chunk.strip(_WRAP)
    if core.isdigit() or core.isalpha():
        return core
    return core.translate(_LEET)


def _split_words(
    words: list[str], common: Collection[str], known: Collection[str]
) -> Iterator[str]:
    """Known words that 2 to 4 neighbouring pieces spell: "na ked", "schoolg irl"."""
    for size in (2, 3, 4):
        for at in range(len(words) - size + 1):
            pieces = words[at : at + size]
            joined = "".join(pieces)
            short = len(joined) < 2 * _SHORTEST
            if skeleton(joined) in known and not (short and any(p in common for p in pieces)):
                yield joined


def _apart(text: str) -> Iterator[str]:
    """Runs of three or more single characters, written together: "n a k 3 d" -> "nak3d"."""
    run: list[str] = []
    for piece in [*re.findall(r"[a-z0-9]+|[!|@$+€£¥(<{]", text), ""]:
        if len(piece) == 1:
            run.append(piece)
            continue
        if len(run) >= _SHORTEST:
            yield "".join(run)
        run = []


def _masked(chunk: str, known: Collection[str]) -> Iterator[str]:
    """Known words that fit a word with letters masked: "n*ked"; half the letters must be there."""
    core = chunk.strip("\"',;:!()[]{}")
    letters = sum(c.isalpha() for c in core)
    if letters == len(core) or letters * 2 < len(core) or letters < 2 or not core[:1].isalpha():
        return
    pattern = re.compile("".join("[a-z]" if c in _MASKS else re.escape(skeleton(c)) for c in core))
    yield from (w for w in known if len(core) == len(w) > _SHORTEST and pattern.fullmatch(w))


def _repeated(word: str) -> Iterator[str]:
    if re.search(r"(.)\1\1", word):
        yield re.sub(r"(.)\1{2,}", r"\1", word)
        yield re.sub(r"(.)\1{2,}", r"\1\1", word)


def _together(word: str, known: Collection[str], fillers: Collection[str]) -> list[str]:
    """The words that a longer one is made of, if known words and fillers make up all of it."""
    word = skeleton(word)
    if word in known:
        return []
    best: dict[int, list[str]] = {0: []}
    for end in range(_SHORTEST, len(word) + 1):
        for start in range(max(0, end - 16), end - _SHORTEST + 1):
            piece = word[start:end]
            if start in best and end not in best and (piece in known or piece in fillers):
                best[end] = [*best[start], piece]
    return best.get(len(word), [])


def readings(
    text: str,
    known: Collection[str],
    *,
    fillers: Collection[str] = (),
    common: Collection[str] = (),
) -> Iterator[str]:
    """Strings of words, separated by spaces, that a `plain` text can be read as, plainest first.

    `known` and `fillers` are skeletons of the words looked for and of words that may stand between
    them in one word; `common` are short words whose chance joins are ignored.
    """
    words = _words(text)
    yield " ".join(words)
    yield " ".join(re.findall(r"[a-z]+|[0-9]+", text))  # "1girl", "kid2"
    chunks = text.split()
    leet = [w for chunk in chunks for w in _words(_unleet(chunk))]
    yield " ".join(leet)
    found: list[str] = []
    for variant in (words, leet):
        found += _split_words(variant, common, known)
        for word in variant:
            for once in (word, *_repeated(word)):
                found += [once] if once != word else []
                found += _together(once, known, fillers)
    for run in _apart(text):
        yield run
        spelt = skeleton(run.translate(_LEET))
        found += (w for w in known if w in spelt)
    for chunk in dict.fromkeys(chunks):
        found += (w for w in _words(chunk.translate(_LEET)) if skeleton(w) in known)  # "(h!|d"
        found += _masked(chunk, known)
    yield " , ".join(found)
