"""Rows as Parquet files with a schema's name and version in each.

In: an Arrow table, columns, or rows, and a schema from here. Out: the same as an Arrow table. The
same rows always give the same bytes (of one pyarrow version): no clock, one compression, one row
group size. What a schema is for is said beside it; how rows are made is left to the stages.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from valign.storage.objects import Store

_NAME, _VERSION = b"valign.schema", b"valign.version"
_ROW_GROUP_ROWS = 1024
# The `datasets` library shows the column as pictures when it finds this beside the schema.
_PICTURES = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}}).encode()


def _schema(name: str, version: int, fields: Iterable[pa.Field], **more: bytes) -> pa.Schema:
    metadata = {_NAME: name.encode(), _VERSION: str(version).encode()}
    metadata |= {key.encode(): value for key, value in more.items()}
    return pa.schema(list(fields), metadata=metadata)


def _required(**types: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in types.items()]


_TEXT = pa.string()
_PLANNED = _required(
    image_id=_TEXT,
    prompt_id=_TEXT,
    text=_TEXT,
    scene=_TEXT,
    role=_TEXT,
    category=_TEXT,
    principle=_TEXT,
    concept=_TEXT,
    attributes=_TEXT,  # gender=female;race=Asian
    negative=_TEXT,
    cleaned=_TEXT,
    sample=pa.int32(),
    seed=pa.int64(),  # of the noise, 0 .. 2**63 - 1
    token=_TEXT,  # the principle whose value token is applied; "": none
)

PLAN = _schema("plan", 1, _PLANNED)
"""Images to make: one row each, in the order of the shards."""

IMAGES = _schema(
    "images",
    1,
    [
        *_PLANNED,
        *_required(generator=_TEXT),  # fingerprint of the weights that made it
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", _TEXT)])),
    ],
    huggingface=_PICTURES,
)
"""Images that were made: their plan, and an encoded picture each."""

PAIRS = _schema(
    "pairs",
    2,
    [
        *_required(
            pair_id=_TEXT,
            principle=_TEXT,  # "": a pair of quality alone
            category=_TEXT,
            text=_TEXT,  # the training prompt
            winner=_TEXT,  # image ids; if undecided, `winner` is only the first of the two
            loser=_TEXT,
            verdict=pa.int8(),  # 1: the winner is preferred; 0: undecided, nothing to learn from
            decided_by=_TEXT,  # livo, vote; what broke a tie: label, margin, random; "": nothing
            tied=pa.bool_(),  # whether the vote itself was a tie
            margin=pa.float32(),  # of the vote, 0 or more for the winner; 0 at a tie
            voters=pa.list_(_TEXT),  # names, in the order of ballots and differences
            ballots=pa.list_(pa.int8()),  # 1 for the winner, -1 for the loser, 0 abstained
            differences=pa.list_(pa.float32()),  # winner's score minus loser's; NaN: one missing
        ),
        pa.field("human", pa.int8()),  # a person's: 1 the winner, -1 the loser, 0 a tie
    ],
)
"""Preferences: under this principle and prompt, one image before the other, and who voted how."""

CANDIDATES = _schema(
    "candidates",
    1,
    [
        *_required(first=_TEXT, second=_TEXT),  # image ids
        pa.field("human", pa.int8()),  # a person's label: 1 the first, -1 the second, 0 a tie
    ],
)
"""Pairs to vote on that came with the images: the rule vote takes these instead of making some."""

SOURCES = _schema(
    "sources",
    1,
    _required(
        image_id=_TEXT,
        generator=_TEXT,  # what the source says made it, or "imported"
        file=_TEXT,  # relative to the source's folder
        row=pa.int64(),  # of a table's file; -1: the file is the picture
        column=_TEXT,
    ),
)
"""Where imported images lie, row by row as in the plan."""

LATENTS = _schema(
    "latents",
    1,
    _required(image_id=_TEXT, latents=pa.binary(), shape=pa.list_(pa.int32())),
)
"""VAE latents of images: float16 (C, h, w) in C order, and their shape."""

TEXTS = _schema(
    "texts",
    2,
    [
        *_required(
            principle=_TEXT,
            text=_TEXT,
            context=pa.binary(),  # float16 (L, D) in C order
            shape=pa.list_(pa.int32()),
            value_ids=pa.list_(pa.int32()),  # what the value encoder reads; none without principle
        ),
        pa.field("pooled", pa.binary()),  # float16 (P,); SDXL only
    ],
)
"""Training prompts under a principle: what both text encoders make of or need for them."""

QUARANTINE = _schema(
    "quarantine",
    1,
    [
        pa.field("shard", pa.int32()),
        pa.field("file", _TEXT),  # of an import's source
        pa.field("row", pa.int64()),  # in that file, from 0
        pa.field("prompt_id", _TEXT),
        *_required(image_id=_TEXT, reason=_TEXT),
    ],
)
"""Rows that could not be used, and why."""


def scores(columns: Iterable[str], scorers: str = "") -> pa.Schema:
    """Return the schema of scores by these columns; `scorers` (JSON) says what gave them.

    A score is a list of float32: one value, or one per class, NaN where the scorer failed. A column
    named `<score>.error` says why, or is null.
    """
    return _schema(
        "scores",
        1,
        [
            *_required(image_id=_TEXT),
            *(
                pa.field(name, _TEXT if name.endswith(".error") else pa.list_(pa.float32()))
                for name in columns
                if name != "image_id"
            ),
        ],
        **({"scorers": scorers.encode()} if scorers else {}),
    )


SCORES = scores(())
"""Scores, whatever their columns, to read."""


def write(
    store: Store,
    key: str,
    data: pa.Table | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    schema: pa.Schema,
) -> None:
    """Write a table, columns by name, or rows; columns that may be null may be left out.

    Raises:
        ValueError: a column is unknown, missing or of another type.
    """
    try:
        table = _table(data, schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{key}: rows do not fit schema {_name(schema)}: {error}") from error
    sink = pa.BufferOutputStream()
    pq.write_table(
        # One chunk per column: otherwise the bytes would show how the table was put together.
        table.combine_chunks(),
        sink,
        row_group_size=_ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=1,
        write_page_index=False,
    )
    store.write(key, sink.getvalue().to_pybytes())


def read(
    store: Store, key: str, schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return a table that was written with `schema`, whole or some columns of it.

    Raises:
        LookupError: there is no such object, or no such column.
        ValueError: it is no table, one of another schema, or of a version this code cannot read.
    """
    file = _open(store, key, schema)
    if columns is None:
        return file.read()
    unknown = [name for name in columns if name not in file.schema_arrow.names]
    if unknown:
        raise LookupError(
            f"{key} has no column {', '.join(unknown)}; it has {', '.join(file.schema_arrow.names)}"
        )
    # A dot in a name is a path to Parquet, so `a` would bring `a.error` along.
    return file.read(columns=list(columns)).select(list(columns))


def _open(store: Store, key: str, schema: pa.Schema) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(pa.BufferReader(store.read(key)))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{key} under {store.url} is not a readable table: {error}") from error
    _check(file.schema_arrow, schema, f"{key} under {store.url}")
    return file


def read_scores(store: Store, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table of scores, whatever its columns. Errors are those of `read`."""
    return read(store, key, SCORES, columns)


class Rows:
    """A table's rows, decoded as they are asked for: what stays in memory are compressed bytes.

    Errors are those of `read`.
    """

    def __init__(self, store: Store, key: str, schema: pa.Schema) -> None:
        self._file = _open(store, key, schema)
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._ends = np.cumsum(sizes, dtype=np.int64)

    def slice(self, start: int, stop: int) -> pa.Table:
        """Return rows `start` up to `stop`."""
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        table = self._file.read_row_groups(list(range(first, min(last, len(self._ends) - 1) + 1)))
        before = int(self._ends[first - 1]) if first else 0
        return table.slice(start - before, stop - start)


def lists(table: pa.Table) -> dict[str, list[Any]]:
    """Return a table's columns as lists in which equal texts are one object: many rows, few texts.

    The same as `to_pydict`, in a fraction of the memory.
    """
    return {name: _list(table[name].combine_chunks()) for name in table.column_names}


def _list(array: pa.Array) -> list[Any]:
    if not pa.types.is_string(array.type) or array.null_count:
        return list(array.to_pylist())
    encoded = array.dictionary_encode()
    texts = np.array(encoded.dictionary.to_pylist(), dtype=object)
    return list(texts[encoded.indices.to_numpy()]) if len(texts) else []


def floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column of lists, all K long, as (N, K) numbers; NaN where a list is null.

    Raises:
        ValueError: lists of several lengths.
    """
    array = column.combine_chunks()
    lengths = array.value_lengths().drop_null().unique().to_pylist()
    if len(lengths) > 1:
        raise ValueError(f"lists of {', '.join(map(str, sorted(lengths)))} values in one column")
    length = lengths[0] if lengths else 1
    values_NK = np.full((len(array), length), np.nan, np.float32)
    there_N = array.is_valid().to_numpy(zero_copy_only=False)
    values_NK[there_N] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, length)
    return values_NK


def rows(store: Store, key: str) -> int:
    """Return how many rows a table has."""
    return int(pq.read_metadata(pa.BufferReader(store.read(key))).num_rows)


def _table(
    given: pa.Table | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]], schema: pa.Schema
) -> pa.Table:
    if isinstance(given, pa.Table):
        columns = {name: given[name] for name in given.column_names}
    elif isinstance(given, Mapping):
        columns = dict(given)
    else:
        names = sorted({name for row in given for name in row})
        columns = {name: [row.get(name) for row in given] for name in names}
    unknown = [name for name in columns if name not in schema.names]
    missing = [f.name for f in schema if f.name not in columns and not f.nullable]
    if (unknown or missing) and columns:
        raise pa.ArrowInvalid(f"unknown columns {unknown}, missing columns {missing}")
    length = max((len(values) for values in columns.values()), default=0)
    arrays = []
    for field in schema:
        values = columns.get(field.name, [None] * length if columns else [])
        array = values.cast(field.type) if isinstance(values, pa.ChunkedArray) else values
        array = array if isinstance(array, pa.ChunkedArray) else pa.array(array, field.type)
        if array.null_count and not field.nullable:
            raise pa.ArrowInvalid(f"column {field.name} has {array.null_count} nulls")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _check(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    metadata = found.metadata or {}
    if _NAME not in metadata:
        raise ValueError(f"{where} was not written by valign: it names no schema")
    if metadata[_NAME] != expected.metadata[_NAME]:
        raise ValueError(f"{where} holds {_name(found)}, where {_name(expected)} was expected")
    version, supported = metadata[_VERSION].decode(), expected.metadata[_VERSION].decode()
    if version != supported:
        raise ValueError(
            f"{where}: {_name(found)} of schema version {version} were found; this version of "
            f"valign reads version {supported}. Make them anew under another root, or read them "
            "with the version of valign that wrote them."
        )


def _name(schema: pa.Schema) -> str:
    return str(schema.metadata[_NAME].decode())
