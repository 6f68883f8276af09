"""Checkpoints come back exactly, exist only when complete, and survive an end at any write."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests import crashing_store
from tests.storage.states import save, tensors
from valign.storage import checkpoints
from valign.storage.files import FileStore
from valign.storage.objects import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def assert_is(found: checkpoints.Checkpoint | None, step: int) -> None:
    assert found is not None
    assert found.step == step
    assert found.loop == {"step": step, "lr": 0.1 + step}
    assert found.tensors.keys() == tensors(step).keys()
    for name, array in tensors(step).items():
        assert found.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(found.tensors[name], array, strict=True)


@pytest.mark.parametrize("file_bytes", [1, 50, 1 << 30])
def test_what_is_saved_comes_back_bit_for_bit(store: Store, file_bytes: int) -> None:
    assert checkpoints.latest(store, "train") is None
    save(store, 7, file_bytes=file_bytes)
    assert_is(checkpoints.latest(store, "train"), 7)
    assert_is(checkpoints.load(store, "train", 7), 7)


@settings(max_examples=50, deadline=None)
@given(
    array=arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_any_memory_layout_comes_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray
) -> None:
    store = FileStore(str(tmp_path_factory.mktemp("layout")))
    views = {"c": array, "turned": array.T, "strided": array[..., ::-1] if array.ndim else array}
    checkpoints.save(store, "t", 1, views, {}, keep_last=1)
    found = checkpoints.load(store, "t", 1).tensors
    for name, view in views.items():
        assert found[name].dtype == view.dtype
        np.testing.assert_array_equal(found[name], view, strict=True)


def test_the_same_state_has_the_same_bytes(tmp_path: Path) -> None:
    one, two = open_store(str(tmp_path / "1")), open_store(str(tmp_path / "2"))
    for store in (one, two):
        save(store, 3)
    assert [(key, one.read(key)) for key in one.list()] == [
        (key, two.read(key)) for key in two.list()
    ]


def test_the_newest_are_kept(store: Store) -> None:
    for step in (500, 1000, 1500, 20000):
        save(store, step)
    assert_is(checkpoints.latest(store, "train"), 20000)
    assert_is(checkpoints.load(store, "train", 1500), 1500)
    with pytest.raises(LookupError, match="step-00001000"):
        checkpoints.load(store, "train", 1000)
    assert not list(store.list("train/step-00001000"))


def test_a_checkpoint_of_the_same_step_is_replaced(store: Store) -> None:
    save(store, 5, file_bytes=1)
    save(store, 5)
    assert_is(checkpoints.latest(store, "train"), 5)
    assert len(list(store.list("train/step-00000005/tensors-"))) == 1


def test_what_has_no_marker_does_not_exist_and_is_cleared_by_the_next(store: Store) -> None:
    save(store, 1)
    save(store, 2)
    store.delete("train/step-00000002/complete.json")
    assert_is(checkpoints.latest(store, "train"), 1)
    with pytest.raises(LookupError):
        checkpoints.load(store, "train", 2)
    save(store, 3)
    assert_is(checkpoints.latest(store, "train"), 3)
    assert not list(store.list("train/step-00000002/"))
    assert_is(checkpoints.load(store, "train", 1), 1)


@pytest.mark.parametrize("name", ["tensors-00000.safetensors", "loop.json"])
def test_a_damaged_file_is_never_used(store: Store, name: str) -> None:
    save(store, 4)
    key = f"train/step-00000004/{name}"
    data = bytearray(store.read(key))
    data[-2] ^= 1
    store.write(key, bytes(data))
    with pytest.raises(ValueError, match=rf"{key} under .*damaged.*delete train/step-00000004/"):
        found = checkpoints.latest(store, "train")
        assert found is not None
        assert found.tensors


def test_the_version_before_is_still_read(store: Store) -> None:
    save(store, 1)
    key = "train/step-00000001/complete.json"
    marker = json.loads(store.read(key)) | {"schema_version": 1}
    store.write(key, json.dumps(marker).encode())
    assert checkpoints.load(store, "train", 1).step == 1


def test_another_schema_version_is_refused(store: Store) -> None:
    save(store, 4)
    key = "train/step-00000004/complete.json"
    marker = json.loads(store.read(key)) | {"schema_version": 9}
    store.write(key, json.dumps(marker).encode())
    with pytest.raises(ValueError, match="schema version 9.*reads 1 and 2"):
        checkpoints.latest(store, "train")


def test_state_that_json_cannot_hold_exactly_is_refused(store: Store) -> None:
    for bad in (float("nan"), np.float32(1), {1, 2}):
        with pytest.raises(ValueError, match="must be JSON"):
            checkpoints.save(store, "train", 1, {}, {"x": bad}, keep_last=1)
    with pytest.raises(ValueError, match="keep_last"):
        save(store, 1, keep_last=0)
    assert checkpoints.latest(store, "train") is None


def test_an_end_at_any_write_leaves_the_last_complete_checkpoint(tmp_path: Path) -> None:
    reached = set()
    for at in range(1, 100):
        root = tmp_path / str(at)
        ended = subprocess.run(
            [sys.executable, "-m", "tests.storage.states", str(root), str(at)],
            check=False,
            timeout=60,
        ).returncode
        found = checkpoints.latest(open_store(str(root)), "train")
        if found is not None:
            assert_is(found, found.step)
        reached.add(found.step if found else 0)
        if ended == 0:
            assert_is(found, 2)
            break
        assert ended == crashing_store.EXIT_CODE
        save(open_store(str(root)), 4, keep_last=1)
        assert {key.split("/")[1] for key in open_store(str(root)).list()} == {"step-00000004"}
    assert reached == {0, 1, 2}
    assert at > 8  # two saves of several files each: the ends were real
