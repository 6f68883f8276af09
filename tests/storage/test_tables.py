"""Tables say which schema they are of, give back what was put in, and have stable bytes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.storage import tables
from valign.storage.files import FileStore
from valign.storage.objects import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def pairs(count: int) -> dict[str, Any]:
    """Columns of `count` pairs; of the right types also where Arrow would guess others."""
    names = ("pair_id", "principle", "category", "text", "winner", "loser", "decided_by")
    texts = {name: [f"{name} {row}" for row in range(count)] for name in names}
    values = {
        "verdict": 1,
        "tied": False,
        "margin": 0.5,
        "voters": ["clip", "hpsv2"],
        "ballots": [1, -1],
        "differences": [0.25, -0.5],
        "human": None,
    }
    typed = {n: pa.array([v] * count, tables.PAIRS.field(n).type) for n, v in values.items()}
    return {name: (texts | typed)[name] for name in tables.PAIRS.names}


def image_row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {f.name: "" for f in tables.IMAGES if f.type == pa.string()}
    row |= {"image_id": "i", "sample": 3, "seed": 2**63 - 1, "text": "Ein Bär 🐻"}
    return row | {"image": {"bytes": b"\x89PNG", "path": "i.png"}} | changes


def rewritten(store: Store, key: str, **metadata: str) -> None:
    """Write the table again, as code with another schema name or version would have."""
    table = pq.read_table(pa.BufferReader(store.read(key)))
    changed = dict(table.schema.metadata)
    changed |= {f"valign.{name}".encode(): value.encode() for name, value in metadata.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(changed), sink)
    store.write(key, sink.getvalue().to_pybytes())


def test_rows_come_back_as_they_were(store: Store) -> None:
    tables.write(
        store, "t", [image_row(), image_row(image_id="j", attributes="a=b;c=d")], tables.IMAGES
    )
    found = tables.read(store, "t", tables.IMAGES)
    assert found.to_pylist() == [image_row(), image_row(image_id="j", attributes="a=b;c=d")]
    assert found.schema.field("image").type == tables.IMAGES.field("image").type
    assert tables.rows(store, "t") == 2


def test_columns_rows_and_tables_are_written_alike(store: Store) -> None:
    columns = pairs(5)
    table = pa.table(columns)
    pieces = pa.concat_tables([table.slice(3), table.slice(0, 3)]).take([2, 3, 4, 0, 1])
    rows = table.to_pylist()
    for key, data in {"a": columns, "b": table, "c": rows, "d": pieces}.items():
        tables.write(store, key, data, tables.PAIRS)
    assert store.read("a") == store.read("b") == store.read("c") == store.read("d")
    assert tables.read(store, "a", tables.PAIRS).to_pylist() == rows


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 3000), cut=st.integers(0, 3000))
def test_bytes_depend_on_rows_only(tmp_path_factory: Any, count: int, cut: int) -> None:
    store = FileStore(str(tmp_path_factory.mktemp("bytes")))
    table = pa.table(pairs(count))
    tables.write(store, "whole", table, tables.PAIRS)
    tables.write(store, "cut", pa.concat_tables([table[:cut], table[cut:]]), tables.PAIRS)
    assert store.read("whole") == store.read("cut")
    assert tables.rows(store, "whole") == count


def test_an_empty_shard_keeps_its_columns(store: Store) -> None:
    tables.write(store, "rows", [], tables.IMAGES)
    tables.write(store, "columns", pairs(0), tables.PAIRS)
    assert tables.read(store, "rows", tables.IMAGES).schema.names == tables.IMAGES.names
    assert tables.read(store, "columns", tables.PAIRS).to_pylist() == []
    assert tables.read(store, "columns", tables.PAIRS).schema.names == tables.PAIRS.names


def test_some_columns_only_in_the_order_asked(store: Store) -> None:
    tables.write(store, "t", pairs(2), tables.PAIRS)
    found = tables.read(store, "t", tables.PAIRS, ["winner", "pair_id"])
    assert found.column_names == ["winner", "pair_id"]
    with pytest.raises(LookupError, match="no column rank; it has pair_id"):
        tables.read(store, "t", tables.PAIRS, ["rank"])


def test_scores_keep_nan_classes_and_reasons_and_dotted_names_apart(store: Store) -> None:
    columns = {
        "image_id": ["a", "b"],
        "oracle.gender": [[0.25, 0.75], [float("nan")] * 2],
        "oracle.gender.error": [None, "no hat"],
        "clip_score": [[31.5], [0.1]],
    }
    tables.write(store, "s", columns, tables.scores(columns))
    found = tables.read_scores(store, "s")
    values = np.array(found["oracle.gender"].to_pylist(), np.float32)
    np.testing.assert_array_equal(values, np.array(columns["oracle.gender"], np.float32))
    assert found["oracle.gender.error"].to_pylist() == [None, "no hat"]
    assert tables.read_scores(store, "s", ["oracle.gender"]).column_names == ["oracle.gender"]


def test_what_may_be_unknown_may_be_left_out(store: Store) -> None:
    tables.write(store, "q", [{"image_id": "i", "reason": "black"}], tables.QUARANTINE)
    assert tables.read(store, "q", tables.QUARANTINE).to_pylist() == [
        {
            "shard": None,
            "file": None,
            "row": None,
            "prompt_id": None,
            "image_id": "i",
            "reason": "black",
        }
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": ["1"]}, "unknown columns.*rank"),
        ({"winner": [None]}, "winner has 1 nulls"),
        ({"winner": [3]}, "pairs"),
        ({"winner": ["a", "b"]}, "pairs"),
    ],
)
def test_rows_that_do_not_fit_are_not_written(
    store: Store, change: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tables.write(store, "t", pairs(1) | change, tables.PAIRS)
    with pytest.raises(ValueError, match="missing columns.*loser"):
        tables.write(store, "t", [{"pair_id": "p"}], tables.PAIRS)
    assert not store.exists("t")


def test_another_version_says_which_was_found_and_which_is_read(store: Store) -> None:
    tables.write(store, "t", pairs(1), tables.PAIRS)
    rewritten(store, "t", version="7")
    with pytest.raises(ValueError, match=r"pairs of schema version 7.*reads version 2.*anew"):
        tables.read(store, "t", tables.PAIRS)


def test_a_table_of_another_schema_is_refused(store: Store) -> None:
    tables.write(store, "t", pairs(1), tables.PAIRS)
    with pytest.raises(ValueError, match="t under file://.* holds pairs, where images"):
        tables.read(store, "t", tables.IMAGES)
    with pytest.raises(ValueError, match="where scores"):
        tables.read_scores(store, "t")


def test_what_is_no_table_of_ours_is_refused(store: Store) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(pairs(1)), sink)
    store.write("foreign", sink.getvalue().to_pybytes())
    with pytest.raises(ValueError, match="not written by valign"):
        tables.read(store, "foreign", tables.PAIRS)
    store.write("cut", store.read("foreign")[:-20])
    with pytest.raises(ValueError, match="cut under file://.* not a readable table"):
        tables.read(store, "cut", tables.PAIRS)
    with pytest.raises(LookupError, match="no absent"):
        tables.read(store, "absent", tables.PAIRS)


def test_images_tell_dataset_viewers_that_they_are_pictures(store: Store) -> None:
    tables.write(store, "t", [image_row()], tables.IMAGES)
    schema = pq.read_schema(pa.BufferReader(store.read("t")))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    # The layout in which such pictures are stored; anything else is shown as bytes.
    assert schema.field("image") == pa.field(
        "image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )


def test_rows_are_read_slice_by_slice_across_row_groups(store: Store) -> None:
    tables.write(store, "many", pairs(2_500), tables.PAIRS)
    rows = tables.Rows(store, "many", tables.PAIRS)
    for start, stop in ((0, 1), (0, 1_024), (1_023, 1_025), (1_024, 2_048), (900, 2_500)):
        found = rows.slice(start, stop)["pair_id"].to_pylist()
        assert found == [f"pair_id {number}" for number in range(start, stop)]


def test_lists_are_the_columns_with_equal_texts_shared() -> None:
    columns = {"text": ["".join(["a", "b"]), "c", "ab"], "none": ["x", None, "x"], "n": [1, 2, 3]}
    found = tables.lists(pa.table(columns))
    assert found == columns
    assert found["text"][0] is found["text"][2]
    assert tables.lists(pa.table({"text": pa.array([], pa.string())})) == {"text": []}


def test_floats_are_rows_of_numbers_and_null_is_nan() -> None:
    kind = pa.list_(pa.float32())
    column = pa.chunked_array([pa.array([[1, 2], None], kind), pa.array([[3, None]], kind)])
    expected = np.array([[1, 2], [np.nan, np.nan], [3, np.nan]], np.float32)
    np.testing.assert_array_equal(tables.floats(column), expected)
    assert tables.floats(pa.chunked_array([pa.array([None], kind)])).shape == (1, 1)
    assert tables.floats(pa.chunked_array([], kind)).shape == (0, 1)
    with pytest.raises(ValueError, match="lists of 1, 2 values"):
        tables.floats(pa.chunked_array([pa.array([[1, 2], [3]], kind)]))
