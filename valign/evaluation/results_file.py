"""What lies in `results.json`: written so that a person can read it, and read back strictly.

Out: text with one line for an interval and one for a list. In: such text. `results.schema.json`
beside this file is its JSON Schema. What the numbers mean is told in docs/evaluation.md.
"""

import json
from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 1
NEEDED = ("models", "differences", "counts", "provenance")


def dumps(results: Mapping[str, Any]) -> str:
    """Return results as JSON text, in their own order: that of models and metrics in the report."""
    return _written(results, 0) + "\n"


def loads(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the results in a text.

    Raises:
        ValueError: it is no JSON, not such results, or of another schema; names `where`.
    """
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    check(found, where)
    return found


def check(found: Any, where: str) -> None:
    """Raise ValueError if these are no results of an evaluation, or of another schema."""
    missing = [key for key in NEEDED if not isinstance(found, dict) or key not in found]
    if missing:
        raise ValueError(f"{where} holds no results of an evaluation: {missing[0]} is missing")
    if found.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{where} has results of schema {found.get('schema_version')!r}; this reads "
            f"{SCHEMA_VERSION}: evaluate again with this version"
        )


def _written(value: Any, indent: int) -> str:
    branches = isinstance(value, Mapping) and any(
        isinstance(inner, Mapping | list) for inner in value.values()
    )
    if not branches:
        return json.dumps(value, allow_nan=False)
    inside, end = "\n" + " " * (indent + 1), "\n" + " " * indent
    rows = (f"{json.dumps(key)}: {_written(value[key], indent + 1)}" for key in value)
    return "{" + inside + f",{inside}".join(rows) + end + "}"
