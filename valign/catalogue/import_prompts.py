"""Reads prompts from a user's file and says which rows it could not take.

In: a file's bytes and its name, .txt (one prompt a line), .csv, .tsv or .jsonl, UTF-8. Out:
`Imported` with `Prompt` records and, for every row left out, its number and the reason. A row's
number is the line it starts on, counted from 1, headers included. Beside the prompt a row may name
a principle, a concept and a negative prompt. Reading files and storing records is done elsewhere.

A .tsv is read plainly: quotes are part of the text, as in PartiPrompts. Two prompts are duplicates
if they are equal but for white space, with the same principle, concept and negative prompt;
capitals and punctuation count, because the generator reads them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from valign.catalogue.guard import refuse
from valign.catalogue.principles import PRINCIPLES, Principle
from valign.records import Prompt

MAX_CHARS = 2000
"""Longest prompt, in characters; far more than the 77 tokens a CLIP text encoder reads."""
_NAMED_IN_ERRORS = 5

_PROMPT_COLUMNS = ("prompt", "text", "caption", "prompts", "sentence", "description")
_NEGATIVE_COLUMNS = ("negative", "negative_prompt")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row left out. `row` is its line in the file, from 1."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file gave: the prompts in its order, and the rows left out.

    The `refused` rows, which the guard refused, are among `rejected`; their text is not kept.
    """

    prompts: tuple[Prompt, ...]
    rejected: tuple[Rejected, ...]
    refused: int


class BadRow(ValueError):
    """A row that cannot be read; its message is the reason."""


class RefusedRow(BadRow):
    """A row the guard refuses. Nothing of its text is in the message."""


_Row = tuple[int, "Mapping[str, object] | BadRow"]


def parse(
    data: bytes,
    name: str,
    *,
    column: str | None = None,
    strict: bool = False,
    principles: Mapping[str, Principle] = PRINCIPLES,
) -> Imported:
    """Prompts of a file.

    Args:
        data: the file's content.
        name: the file's name; its ending says the format.
        column: the column (or JSON field) that holds the prompt; None finds it by its name.
        strict: raise on the first bad rows instead of leaving them out.
        principles: those that a row may name.

    Raises:
        ValueError: unknown ending or encoding, no column for the prompt, or, if strict, bad rows.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{name} is UTF-16; save it as UTF-8")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
    prompts: dict[tuple[str, ...], Prompt] = {}
    first_row: dict[tuple[str, ...], int] = {}
    rejected: list[Rejected] = []
    refused = 0
    for row, fields in _rows(text, name, column):
        try:
            prompt = prompt_of(fields, principles)
            key = (prompt.text, prompt.principle, prompt.concept, prompt.negative)
            if key in prompts:
                raise BadRow(f"the same as row {first_row[key]}")
        except BadRow as error:
            refused += isinstance(error, RefusedRow)
            rejected.append(Rejected(row, str(error)))
        else:
            prompts[key], first_row[key] = prompt, row
    if strict and rejected:
        raise ValueError(_complaint(name, rejected))
    return Imported(tuple(prompts.values()), tuple(rejected), refused)


def _complaint(name: str, rejected: Sequence[Rejected]) -> str:
    named = "; ".join(f"row {r.row}: {r.reason}" for r in rejected[:_NAMED_IN_ERRORS])
    more = len(rejected) - _NAMED_IN_ERRORS
    return f"{name}: {len(rejected)} bad rows. {named}" + (f"; and {more} more" if more > 0 else "")


def _rows(text: str, name: str, column: str | None) -> Iterator[_Row]:
    match PurePosixPath(name).suffix.lower():
        case ".txt":
            return ((at, {"prompt": line}) for at, line in _lines(text))
        case ".jsonl":
            return ((at, _json_fields(line, column)) for at, line in _lines(text))
        case ".csv":
            head = text.split("\n", 1)[0]
            delimiter = ";" if ";" in head and "," not in head else ","
            return _table(text, name, column, delimiter, csv.QUOTE_MINIMAL)
        case ".tsv":
            return _table(text, name, column, "\t", csv.QUOTE_NONE)
        case suffix:
            raise ValueError(
                f"{name}: cannot read prompts from {suffix or 'a name without ending'};"
                " use .txt, .csv, .tsv or .jsonl"
            )


def _lines(text: str) -> Iterator[tuple[int, str]]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return enumerate(lines[:-1] if lines[-1] == "" else lines, start=1)


def _json_fields(line: str, column: str | None) -> Mapping[str, object] | BadRow:
    if not line.strip():
        return {"prompt": ""}
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers too long, nesting too deep
        return BadRow(f"not JSON: {error}")
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        return BadRow("neither a JSON object nor a string")
    fields = {key.strip().lower(): each for key, each in value.items()}
    wanted = (column.strip().lower(),) if column is not None else _PROMPT_COLUMNS
    found = next((key for key in wanted if key in fields), None)
    if found is None:
        return BadRow(f"has no field {' or '.join(map(repr, wanted))}")
    return {**fields, "prompt": fields[found]}


def _table(
    text: str, name: str, column: str | None, delimiter: str, quoting: Literal[0, 3]
) -> Iterator[_Row]:
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        header = next(reader)
    except StopIteration:
        return
    except csv.Error as error:
        raise ValueError(f"{name}: the first line: {error}; check the quotes there") from error
    titles = [title.strip().lower() for title in header]
    at = _prompt_column(header, titles, name, column)
    if at is None:  # a single column without a title: the first row is a prompt too
        titles, at = ["prompt"], 0
        yield 1, {"prompt": header[0]}
    while True:
        start = reader.line_num + 1
        try:
            yield start, _cells(titles, at, next(reader))
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on with the next line
            problem = f"{error} in lines {start} to {reader.line_num}; is a quote left open?"
            yield start, BadRow(problem)


def _prompt_column(
    header: Sequence[str], titles: Sequence[str], name: str, column: str | None
) -> int | None:
    """Index of the column with the prompts; None if the only column has no known title."""
    wanted = (column.strip().lower(),) if column is not None else _PROMPT_COLUMNS
    for title in wanted:
        if title in titles:
            return titles.index(title)
    if column is None and len(titles) == 1:
        return None
    problem = f"no column {column!r}" if column is not None else "cannot tell which column to read"
    raise ValueError(f"{name}: {problem}; choose one of the first line's: {header}")


def _cells(titles: Sequence[str], at: int, cells: Sequence[str]) -> Mapping[str, object] | BadRow:
    if not cells or (len(cells) == 1 and not cells[0].strip()):
        return {"prompt": ""}
    if at >= len(cells):
        return BadRow(f"has {len(cells)} columns, the prompt is in column {at + 1}")
    return {**dict(zip(titles, cells, strict=False)), "prompt": cells[at]}


def prompt_of(
    fields: Mapping[str, object] | BadRow, principles: Mapping[str, Principle] = PRINCIPLES
) -> Prompt:
    """The prompt of a row's fields: `prompt`, and maybe principle, concept, negative, cleaned.

    Raises:
        BadRow: it holds no usable prompt; `RefusedRow` if the guard refuses it.
    """
    if isinstance(fields, BadRow):
        raise fields
    negative = next((key for key in _NEGATIVE_COLUMNS if fields.get(key)), "negative")
    named = ("prompt", "concept", "principle", "cleaned")
    text, concept, principle, cleaned = (_field(fields, key) for key in named)
    if not text:
        raise BadRow("empty")
    # A negative prompt says what to keep out, so it may name what the guard refuses.
    if refusal := refuse("\n".join(filter(None, (text, concept, principle, cleaned)))):
        raise RefusedRow(f"refused: {refusal.reason}")
    return Prompt(
        text=text,
        scene=text,
        principle=_principle(principle, principles),
        concept=concept,
        negative=_field(fields, negative),
        cleaned=cleaned,
    )


def _field(fields: Mapping[str, object], key: str) -> str:
    """One field with its white space evened out; absent and null are empty."""
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{key} is not a text")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise BadRow(f"{key} is not UTF-8")
    text = " ".join(value.replace("\0", " ").split())
    if len(text) > MAX_CHARS:
        raise BadRow(f"{key} is {len(text):,} characters long, at most {MAX_CHARS:,}")
    return text


def _principle(given: str, principles: Mapping[str, Principle]) -> str:
    """The key of a principle given by key or canonical text."""
    for key, principle in principles.items():
        if given.lower() in (key, principle.text):
            return key
    if given:
        raise BadRow(f"unknown principle {given[:40]!r}; known: {', '.join(principles)}")
    return ""
