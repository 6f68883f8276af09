"""A root is of one piece: finished work is recognised, and foreign work refused by name."""

from pathlib import Path
from typing import Any

import pytest

from valign.storage import layout, manifests
from valign.storage.manifests import Manifest
from valign.storage.objects import Store, open_store

SETTINGS = {"score.batch_size": 100, "score.scorers": ({"name": "clip"},), "seed": 0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def manifest(**changes: Any) -> Manifest:
    given: dict[str, Any] = {
        "stage": "score",
        "fingerprint": "f1",
        "settings": SETTINGS,
        "upstream": {"generate": "g1"},
        "parts": ("score/part-00000.parquet",),
        "counts": {"images": 3},
    }
    return Manifest(**given | changes)


def test_a_stage_is_finished_by_its_commit_only(store: Store) -> None:
    begun = manifests.begin(store, "score", "f1", SETTINGS, {"generate": "g1"})
    assert begun is None
    assert manifests.get(store, "score") is None
    assert manifests.begin(store, "score", "f1", SETTINGS, {"generate": "g1"}) is None
    manifests.commit(store, manifest())
    found = manifests.begin(store, "score", "f1", SETTINGS, {"generate": "g1"})
    assert found is not None
    assert (found.fingerprint, found.parts, found.counts) == (
        "f1",
        ("score/part-00000.parquet",),
        {"images": 3},
    )


def test_the_same_manifest_has_the_same_bytes() -> None:
    data = manifest().to_json()
    turned = manifest(settings=dict(reversed(SETTINGS.items())))
    assert turned.to_json() == data
    assert Manifest.from_json(data).to_json() == data


@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_under_the_same_root_are_listed(store: Store, finished: bool) -> None:
    manifests.begin(store, "score", "f1", SETTINGS, {"generate": "g1"})
    if finished:
        manifests.commit(store, manifest())
    asked = {"score.batch_size": 50, "score.scorers": [{"name": "clip"}], "new": True}
    with pytest.raises(ValueError, match="score under file://") as error:
        manifests.begin(store, "score", "f2", asked, {"generate": "g2"})
    message = str(error.value)
    assert "score.batch_size: 100 there, 50 now" in message
    assert "new: unset there, true now" in message
    assert "seed: 0 there, unset now" in message
    assert "generate was made anew" in message
    assert "scorers" not in message
    assert "another root" in message


def test_a_difference_is_never_silent(store: Store) -> None:
    manifests.begin(store, "score", "f1", SETTINGS)
    with pytest.raises(ValueError, match="another version of valign"):
        manifests.check(store, "score", "f2", SETTINGS)
    many = {f"key{number}": number for number in range(100)}
    with pytest.raises(ValueError, match="and 83 more"):
        manifests.check(store, "score", "f2", many)


def test_checking_writes_nothing(store: Store) -> None:
    manifests.check(store, "score", "f1", SETTINGS)
    assert list(store.list()) == []


def test_stages_do_not_mind_each_other(store: Store) -> None:
    manifests.begin(store, "score", "f1", SETTINGS)
    manifests.begin(store, "label", "f9", {})
    assert list(store.list()) == [layout.started("label"), layout.started("score")]


def test_a_manifest_of_another_version_is_refused(store: Store) -> None:
    data = manifest().to_json().replace(b'"schema_version": 1', b'"schema_version": 8')
    store.write(layout.manifest("score"), data)
    with pytest.raises(ValueError, match="version 8 was found.*reads 1"):
        manifests.get(store, "score")
