"""Documents say their schema version, and no other version is read."""

import json
from pathlib import Path

import pytest

from valign.storage import documents
from valign.storage.objects import open_store


def test_a_document_is_read_back_with_its_version(tmp_path: Path):
    store = open_store(str(tmp_path))
    documents.write(store, "a/b.json", {"kept": [1, "ü"]})
    assert documents.read(store, "a/b.json") == {"schema_version": 1, "kept": [1, "ü"]}
    assert "ü" in (tmp_path / "a/b.json").read_text("utf-8")
    with pytest.raises(LookupError):
        documents.read(store, "a/c.json")


@pytest.mark.parametrize("tree", [{"kept": 1}, {"schema_version": 2, "kept": 1}, [1], None])
def test_another_version_is_refused_by_name(tmp_path: Path, tree: object):
    (tmp_path / "old.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"old\.json has schema version (None|2); .* reads 1: use"):
        documents.read(open_store(str(tmp_path)), "old.json")
