"""How well the person detector does on hand labels of PartiPrompts (see data/README.md)."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from valign.catalogue.retriever import mentions_person

DATA = Path(__file__).parent / "data"
PUBLISHED_SHA256 = "f105efa0c9360bc9ace1edbbb7815d68dcfe68140ed0cee3373183eec39104f8"
"""Of the published PartiPrompts.tsv's first column, its rows joined by newlines."""


class Row(NamedTuple):
    row: int
    prompt: str
    person: bool
    half: str


def labels() -> list[Row]:
    lines = (DATA / "parti_person_labels.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    cells = (line.split("\t") for line in lines)
    return [Row(int(row), prompt, label == "1", half) for row, prompt, label, half in cells]


@pytest.mark.parametrize("half", ["dev", "held"])
def test_precision_and_recall(half: str) -> None:
    rows = [r for r in labels() if r.half == half]
    counts = Counter((r.person, mentions_person(r.prompt)) for r in rows)
    hits, misses, false = counts[True, True], counts[True, False], counts[False, True]
    precision, recall = hits / (hits + false), hits / (hits + misses)
    print(
        f"\n{half}: n = {len(rows)}, persons {hits + misses}, found {hits}, missed {misses}, "
        f"false {false}; precision {precision:.3f}, recall {recall:.3f}"
    )
    assert hits + misses >= 80
    assert precision >= 0.95
    assert recall >= 0.9


def test_labels_are_all_of_parti_in_two_halves() -> None:
    rows = labels()
    assert len(rows) == len({r.row for r in rows}) == 1632
    halves = Counter(r.half for r in rows)
    assert set(halves) == {"dev", "held"} and min(halves.values()) > 700
    assert len({r.prompt for r in rows}) == len(rows)


def test_labelled_prompts_are_the_published_ones_in_their_order() -> None:
    rows = labels()
    assert [r.row for r in rows] == list(range(2, 1634))  # the file's header is line 1
    joined = "\n".join(r.prompt for r in rows)
    assert hashlib.sha256(joined.encode()).hexdigest() == PUBLISHED_SHA256
