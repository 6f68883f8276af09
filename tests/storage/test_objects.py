"""Stores hold named bytes: what any store must do, and what files must do beyond it."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.storage.files import FileStore
from valign.storage.layout import check_key
from valign.storage.objects import Store, local, open_store, resolve

NAMES = st.text("abAB01-_ .é", min_size=1, max_size=4).filter(lambda n: not n.startswith("."))
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_reads_back_whole_and_in_part(store: Store) -> None:
    store.write("a/b.bin", bytes(range(10)))
    assert store.read("a/b.bin") == bytes(range(10))
    assert store.read("a/b.bin", 3) == bytes(range(3, 10))
    assert store.read("a/b.bin", 3, 4) == bytes(range(3, 7))
    assert store.read("a/b.bin", 8, 100) == bytes([8, 9])
    assert store.read("a/b.bin", 0, 0) == b""


def test_writes_a_file_and_replaces(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    store.write("big", source)
    assert store.read("big") == source.read_bytes()
    store.write("big", b"small")
    assert store.read("big") == b"small"


@pytest.mark.parametrize("key", ["none", "a/none", "a", "a/b.bin/below"])
def test_reading_what_is_not_there_names_key_and_root(store: Store, key: str) -> None:
    store.write("a/b.bin", b"1")
    with pytest.raises(LookupError, match=f"no {key} under file://"):
        store.read(key)
    assert not store.exists(key)


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


def test_list_follows_prefixes_not_folders(store: Store) -> None:
    for key in ("g/part-1", "g/part-2", "g/plan", "g2/part-1", "g.x"):
        store.write(key, b"")
    assert list(store.list("g/part-")) == ["g/part-1", "g/part-2"]
    assert list(store.list("g")) == ["g.x", "g/part-1", "g/part-2", "g/plan", "g2/part-1"]
    assert list(store.list("g/")) == ["g/part-1", "g/part-2", "g/plan"]
    assert list(store.list("absent/")) == []


def test_delete_is_idempotent_and_leaves_no_empty_folder(store: Store, tmp_path: Path) -> None:
    store.write("a/b/c", b"1")
    store.write("a/d", b"1")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert list(store.list()) == ["a/d"]
    assert [p.name for p in (tmp_path / "root" / "a").iterdir()] == ["d"]
    store.delete("a/d")
    assert (tmp_path / "root").is_dir()


def test_create_does_not_replace(store: Store) -> None:
    assert store.create("claim", b"first")
    assert not store.create("claim", b"second")
    assert store.read("claim") == b"first"


def test_of_concurrent_creators_one_wins_and_all_read_its_bytes(store: Store) -> None:
    def claim(key: str, number: int, gate: threading.Barrier) -> bool:
        gate.wait()
        return store.create(key, f"{number}".encode() * 1000)

    with ThreadPoolExecutor(8) as threads:
        for round_number in range(20):
            key, gate = f"claims/{round_number}", threading.Barrier(8)
            claims = [threads.submit(claim, key, number, gate) for number in range(8)]
            won = [number for number, made in enumerate(claims) if made.result()]
            assert len(won) == 1
            assert store.read(key) == f"{won[0]}".encode() * 1000


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


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "./a", ".hidden", "a/.tmp", "a\nb", "a\0b"],
)
def test_refuses_keys_that_not_every_store_can_hold(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        check_key(key)
    for use in (store.read, store.exists, store.delete):
        with pytest.raises(ValueError, match="not a key"):
            use(key)
    with pytest.raises(ValueError, match="not a key"):
        store.write(key, b"")


def test_a_prefix_cannot_climb_out_of_the_root(store: Store) -> None:
    with pytest.raises(ValueError, match="not a key"):
        list(store.list("../"))


def test_roots_are_paths_or_file_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "a b%c#d?é"
    open_store("runs/demo").write("x", b"1")
    assert (tmp_path / "runs/demo/x").read_bytes() == b"1"
    assert open_store(f"file://{tmp_path}/runs/demo").read("x") == b"1"
    assert open_store(f"file://localhost{tmp_path}/runs/demo/").read("x") == b"1"
    open_store(str(odd)).write("x", b"2")
    again = open_store(open_store(str(odd)).url)
    assert again == open_store(str(odd))
    assert again.read("x") == b"2"
    assert pickle.loads(pickle.dumps(again)) == again  # workers get stores this way


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("ftp://host/x", "scheme 'ftp' is not supported.*file://"),
        ("file://host/x", "absolute"),
        ("file://runs/demo", "absolute"),
        (" ", "needs a name"),
    ],
)
def test_a_root_that_cannot_be_opened_says_what_can(root: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_store(root)


def test_local_gives_files_and_folders(store: Store) -> None:
    store.write("train/aligned/config.json", b"{}")
    assert store.local("train/aligned/config.json").read_bytes() == b"{}"
    assert (store.local("train/aligned") / "config.json").read_bytes() == b"{}"
    assert (store.local("train/aligned/") / "config.json").is_file()
    with pytest.raises(LookupError, match="no train/other"):
        store.local("train/other")


def test_urls_of_packages_files_and_plain_paths_are_found(tmp_path: Path) -> None:
    file = tmp_path / "a model.txt"
    file.write_text("x")
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert local(str(file)) == file
    assert local(f"file://{tmp_path}/a%20model.txt", sha256) == file
    assert local("package:valign/records.py").read_text().startswith('"""')
    assert local("package:valign.storage").is_dir()
    with pytest.raises(ValueError, match="expected 00"):
        local(str(file), "00" * 32)
    with pytest.raises(ValueError, match="folder"):
        local(str(tmp_path), sha256)
    with pytest.raises(ValueError, match="cannot be read"):
        local("ftp://host/file")


@pytest.mark.parametrize("url", ["package:no_such_pkg/x", "package:valign/none", "/none", "none"])
def test_what_is_nowhere_is_an_error_with_a_remedy(url: str) -> None:
    with pytest.raises(LookupError, match=url):
        resolve(url)


def test_hub_ids_pass_through_unless_a_folder_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name-1.5") == "org/name-1.5"
    os.makedirs("org/name-1.5")
    assert resolve("org/name-1.5") == str(tmp_path / "org/name-1.5")
    assert resolve("package:valign.storage") == str(local("package:valign.storage"))


def test_file_store_is_made_by_its_first_write(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "new"))
    assert list(store.list()) == []
    assert not (tmp_path / "new").exists()
