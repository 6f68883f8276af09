"""Files as objects: what disks add to the promises of a store."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.storage.files import FileStore
from valign.storage.objects import Store, open_store

NAMES = st.text("abAB01-_ .é", min_size=1, max_size=4).filter(lambda n: not n.startswith("."))
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(KEYS, max_size=8), prefix=st.one_of(st.just(""), KEYS))
def test_lists_the_keys_with_a_prefix_in_byte_order(keys: list[str], prefix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        written = set()
        for key in keys:
            # On a disk a name is a file or a folder; the layout never needs both.
            with contextlib.suppress(OSError):
                store.write(key, b"")
                written.add(key)
        expected = sorted((k for k in written if k.startswith(prefix)), key=str.encode)
        assert list(store.list(prefix)) == expected


def test_delete_leaves_no_empty_folder(store: Store, tmp_path: Path) -> None:
    store.write("a/b/c", b"1")
    store.write("a/d", b"1")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert list(store.list()) == ["a/d"]
    assert [p.name for p in (tmp_path / "root" / "a").iterdir()] == ["d"]
    store.delete("a/d")
    assert (tmp_path / "root").is_dir()


def test_writers_and_deleters_of_one_folder_do_not_trip_over_each_other(store: Store) -> None:
    def churn(number: int) -> None:
        for _ in range(100):
            store.write(f"shared/{number}", b"1")
            store.delete(f"shared/{number}")

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(churn, number) for number in range(4)]:
            done.result()
    assert list(store.list()) == []


def test_a_failed_write_leaves_the_old_object_and_nothing_else(
    store: Store, tmp_path: Path
) -> None:
    store.write("a", b"old")
    with pytest.raises(FileNotFoundError):
        store.write("a", tmp_path / "absent")
    assert store.read("a") == b"old"
    assert files_of(tmp_path / "root") == ["a"]


WRITER = """
import sys
from valign.storage.objects import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
value = 0
while True:
    store.write("a/value", bytes([value % 256]) * 2_000_000)
    value += 1
"""


def test_a_reader_never_sees_half_an_object_however_its_writer_ends(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    seen = set()
    for round_number in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        deadline = time.monotonic() + 0.15 * (round_number + 1)
        reads = 0
        while reads < 3 or time.monotonic() < deadline:
            with contextlib.suppress(LookupError):
                data = store.read("a/value")
                assert len(data) == 2_000_000
                assert set(data) == {data[0]}
                seen.add(data[0])
                reads += 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert len(set(store.read("a/value"))) == 1
        assert list(store.list()) == ["a/value"]
    assert len(seen) > 1


def test_file_store_is_made_by_its_first_write(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "new"))
    assert list(store.list()) == []
    assert not (tmp_path / "new").exists()
