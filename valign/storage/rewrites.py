"""Rewrite a table in its place without some rows, or with some texts blanked: for purges.

The new table replaces the old one at once, under the same schema. In a bucket that keeps versions,
the old one is still there as a version.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from valign.storage import tables
from valign.storage.objects import Store


def keep(
    store: Store, key: str, schema: pa.Schema, wanted: Callable[[dict[str, Any]], bool], *by: str
) -> int:
    """Rewrite a table with the wanted rows only, if any is not; return how many were dropped.

    Args:
        store: where it lies.
        key: its key.
        schema: what it was written with; of scores, any.
        wanted: is told the values of the columns `by` of a row.
        by: names of columns.

    Errors are those of `tables.read`.
    """
    facts = tables.read(store, key, schema, by).to_pylist()
    kept = [number for number, row in enumerate(facts) if wanted(row)]
    if len(kept) < len(facts):
        table = tables.read(store, key, schema)
        tables.write(store, key, table.take(pa.array(kept, pa.int64())), table.schema)
    return len(facts) - len(kept)


def redact(
    store: Store,
    key: str,
    schema: pa.Schema,
    chosen: Callable[[str], bool],
    columns: Sequence[str],
) -> None:
    """Blank text columns in the rows whose image id is chosen; the number of rows stays.

    Errors are those of `tables.read`.
    """
    table = tables.read(store, key, schema)
    hit = [chosen(image) for image in table["image_id"].to_pylist()]
    for name in columns:
        both = zip(hit, table[name].to_pylist(), strict=True)
        at = table.schema.get_field_index(name)
        blanked = pa.array(["" if gone else value for gone, value in both], pa.string())
        table = table.set_column(at, table.schema.field(at), blanked)
    tables.write(store, key, table, table.schema)
