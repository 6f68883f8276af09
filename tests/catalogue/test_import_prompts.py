"""Prompts from users' files: every row is either taken or reported with its number."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.catalogue.import_prompts import MAX_CHARS, Imported, Rejected, parse

PARTI = Path(__file__).parent / "data" / "parti_person_labels.tsv"


def texts(imported: Imported) -> list[str]:
    return [p.text for p in imported.prompts]


def test_txt_has_a_prompt_a_line() -> None:
    imported = parse(b"a cat\r\n  a   dog \n\na tree", "prompts.TXT")
    assert texts(imported) == ["a cat", "a dog", "a tree"]
    assert imported.rejected == (Rejected(3, "empty"),)
    first = imported.prompts[0]
    assert (first.scene, first.role, first.category) == ("a cat", "user", "user")
    assert (first.principle, first.concept, first.negative, first.cleaned) == ("", "", "", "")


def test_bad_rows_are_reported_by_number_and_reason() -> None:
    rows = [b"a cat", b"", b"x" * (MAX_CHARS + 1), b"caf\xe9", b"a cat ", b"a naked child", b"ok"]
    imported = parse(b"\n".join(rows), "p.txt")
    assert texts(imported) == ["a cat", "ok"]
    assert imported.rejected == (
        Rejected(2, "empty"),
        Rejected(3, "prompt is 2,001 characters long, at most 2,000"),
        Rejected(4, "prompt is not UTF-8"),
        Rejected(5, "the same as row 1"),
        Rejected(6, "refused: combines minors with sexual content"),
    )
    assert imported.refused == 1


def test_a_refused_text_is_nowhere_in_the_result() -> None:
    data = (
        b"prompt,concept,principle,negative\n"
        b"a naked schoolgirl,,,\n"
        b"a nude figure,schoolgirl,,\n"
        b"a schoolgirl,,nude schoolgirl,\n"
        b"a nude figure,artist,,schoolgirl\n"
    )
    imported = parse(data, "p.csv")
    assert imported.refused == 3
    assert [r.row for r in imported.rejected] == [2, 3, 4]
    assert "schoolgirl" not in repr(imported.rejected)
    # A negative prompt keeps things out: it may name them.
    assert [p.negative for p in imported.prompts] == ["schoolgirl"]


def test_csv_with_quotes_lines_and_all_columns() -> None:
    data = (
        "\ufeffid;Prompt;Principle;Concept;Negative_Prompt\r\n"
        '1;"a ""big"" cat; asleep";;cat;dog\r\n'
        '2;"over\r\ntwo lines";racial equality;;\r\n'
        "3;a doctor;Gender;doctor;\r\n"
        "4;a nurse;sexism;;\r\n"
        "5\r\n"
    ).encode()
    imported = parse(data, "p.csv")
    assert texts(imported) == ['a "big" cat; asleep', "over two lines", "a doctor"]
    assert [p.principle for p in imported.prompts] == ["", "race", "gender"]
    assert [p.concept for p in imported.prompts] == ["cat", "", "doctor"]
    assert imported.prompts[0].negative == "dog"
    assert imported.rejected == (
        Rejected(6, "unknown principle 'sexism'; known: gender, race, nudity, bloody, horror"),
        Rejected(7, "has 1 columns, the prompt is in column 2"),
    )


def test_tsv_is_plain_and_quotes_are_text() -> None:
    data = b'Prompt\tNote\n"HI" on a wall\tx\n7" record "\ty\n"open\t\n'
    assert texts(parse(data, "p.tsv")) == ['"HI" on a wall', '7" record "', '"open']


def test_columns_are_found_by_name_or_chosen() -> None:
    data = b"id,title,caption\n1,A,a cat\n2,B,a dog\n"
    assert texts(parse(data, "p.csv")) == ["a cat", "a dog"]
    assert texts(parse(data, "p.csv", column="Title")) == ["A", "B"]
    with pytest.raises(ValueError, match=r"no column 'name'.*'id', 'title', 'caption'"):
        parse(data, "p.csv", column="name")
    with pytest.raises(ValueError, match=r"cannot tell which column.*'x', 'y'"):
        parse(b"x,y\n1,2\n", "p.csv")


def test_a_single_column_without_title_is_all_prompts() -> None:
    imported = parse(b"a cat\na dog\n\n", "p.csv")
    assert texts(imported) == ["a cat", "a dog"]
    assert imported.rejected == (Rejected(3, "empty"),)
    assert texts(parse(b"Prompt\na cat\n", "p.tsv")) == ["a cat"]


def test_an_open_quote_costs_its_own_lines_only() -> None:
    body = "".join(f'{i},"a cat {i}"\n' for i in range(1, 9))
    imported = parse(f'id,prompt\n0,"never closed\n{body}'.encode(), "p.csv")
    assert texts(imported) == [f"a cat {i}" for i in range(2, 9)]
    (rejected,) = imported.rejected
    assert rejected.row == 2
    assert "in lines 2 to 3; is a quote left open?" in rejected.reason
    (last,) = parse(b'id,prompt\n0,"never closed\n1,a cat\n', "p.csv").rejected
    assert last.row == 2 and "in lines 2 to 3" in last.reason
    with pytest.raises(ValueError, match="the first line: .*check the quotes"):
        parse(b'"a"b,c\n', "p.csv")


def test_jsonl_takes_objects_and_strings() -> None:
    lines = [
        json.dumps({"prompt": "a doctor", "principle": "gender", "concept": "doctor"}),
        json.dumps("a cat"),
        json.dumps({"TEXT": "a dog", "negative": "blurry", "principle": None}),
        "{not json}",
        "[1]",
        json.dumps({"title": "x"}),
        json.dumps({"prompt": 7}),
        "",
        json.dumps({"prompt": "a \ud800"}),
        "9" * 5000,
        "[" * 100_000,
    ]
    imported = parse("\n".join(lines).encode(), "p.jsonl")
    assert texts(imported) == ["a doctor", "a cat", "a dog"]
    assert imported.prompts[2].negative == "blurry"
    reasons = {r.row: r.reason for r in imported.rejected}
    assert reasons.pop(4).startswith("not JSON: ")
    assert reasons.pop(10).startswith("not JSON: ")
    assert reasons.pop(11).startswith("not JSON: ")
    assert reasons == {
        5: "neither a JSON object nor a string",
        6: "has no field 'prompt' or 'text' or 'caption' or 'prompts' or 'sentence'"
        " or 'description'",
        7: "prompt is not a text",
        8: "empty",
        9: "prompt is not UTF-8",
    }
    assert texts(parse(b'{"title": "x"}', "p.jsonl", column="title")) == ["x"]


def test_the_same_text_under_another_principle_is_no_duplicate() -> None:
    data = (
        b"prompt,principle\na doctor,gender\na doctor,race\na doctor,gender equality\nA doctor,\n"
    )
    imported = parse(data, "p.csv")
    assert [(p.text, p.principle) for p in imported.prompts] == [
        ("a doctor", "gender"),
        ("a doctor", "race"),
        ("A doctor", ""),
    ]
    assert imported.rejected == (Rejected(4, "the same as row 2"),)


def test_strict_stops_and_names_the_first_rows() -> None:
    data = b"a cat\n" + b"\n" * 7 + b"a dog\n"
    with pytest.raises(ValueError, match=r"^p\.txt: 7 bad rows\. row 2: empty; .*and 2 more$"):
        parse(data, "p.txt", strict=True)
    assert texts(parse(b"a cat\n", "p.txt", strict=True)) == ["a cat"]


@pytest.mark.parametrize("name", ["prompts", "prompts.xlsx", "prompts.json"])
def test_unknown_endings_name_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"use \.txt, \.csv, \.tsv or \.jsonl"):
        parse(b"a cat", name)


def test_utf16_is_named() -> None:
    with pytest.raises(ValueError, match="UTF-16; save it as UTF-8"):
        parse("a cat".encode("utf-16"), "p.txt")


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.tsv", "p.jsonl"])
def test_an_empty_file_has_no_rows(name: str) -> None:
    assert parse(b"", name) == Imported((), (), 0)


@given(st.binary(max_size=300), st.sampled_from(["p.txt", "p.jsonl"]))
def test_every_line_is_taken_or_reported(data: bytes, name: str) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    imported = parse(data, name)
    lines = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    n = lines.count(b"\n") + (not lines.endswith(b"\n") and lines != b"")
    assert len(imported.prompts) + len(imported.rejected) == n
    rejected = [r.row for r in imported.rejected]
    assert rejected == sorted(set(rejected)) and all(1 <= row <= n for row in rejected)


_cell = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@given(st.lists(_cell, min_size=1, max_size=8))
def test_jsonl_round_trip(prompts: list[str]) -> None:
    data = "\n".join(json.dumps({"prompt": p}) for p in prompts).encode()
    wanted = dict.fromkeys(" ".join(p.split()) for p in prompts if p.split())
    assert texts(parse(data, "p.jsonl")) == list(wanted)


def test_all_of_parti_prompts_comes_through() -> None:
    imported = parse(PARTI.read_bytes(), PARTI.name, strict=True)
    assert len(imported.prompts) == 1632
    assert sum('"' in p.text for p in imported.prompts) >= 20
    # Rows 322 and 335 differ by a full stop alone: two texts to a generator, so both are kept.
    alike = [p.text for p in imported.prompts if p.text.startswith("a blue cow is standing")]
    assert len(alike) == 2 and alike[0].rstrip(".") == alike[1].rstrip(".")
    by_column = parse(PARTI.read_bytes(), PARTI.name, column="half")
    assert texts(by_column) == ["held", "dev"]
    assert len(by_column.rejected) == 1630
