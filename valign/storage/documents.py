"""Small JSON files: each says its schema version, and one of another version is not read."""

import json
from collections.abc import Mapping
from typing import Any

from valign.storage.objects import Store

VERSION = 1


def write(store: Store, key: str, tree: Mapping[str, Any]) -> None:
    """Write a document."""
    text = json.dumps({"schema_version": VERSION, **tree}, indent=1, ensure_ascii=False)
    store.write(key, f"{text}\n".encode())


def read(store: Store, key: str) -> dict[str, Any]:
    """Return a document, its version too.

    Raises:
        LookupError: there is none.
        ValueError: it is of another schema version.
    """
    tree: Any = json.loads(store.read(key))
    found = tree.get("schema_version") if isinstance(tree, dict) else None
    if found != VERSION:
        raise ValueError(
            f"{store.url}/{key} has schema version {found}; this version of valign reads "
            f"{VERSION}: use the version that wrote it, or another root"
        )
    return dict(tree)
