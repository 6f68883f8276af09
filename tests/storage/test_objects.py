"""Stores hold named bytes: what every store must do, on a disk and in a bucket."""

import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from valign.storage.layout import check_key
from valign.storage.objects import Store, local, open_store, resolve


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(str(tmp_path / "root"))
    return open_store(f"s3://{request.getfixturevalue('bucket')}/some/root")


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
    with pytest.raises(LookupError, match=f"no {key} under "):
        store.read(key)
    assert not store.exists(key)


def test_list_follows_prefixes_not_folders(store: Store) -> None:
    for key in ("g/part-1", "g/part-2", "g/plan", "g2/part-1", "g.x"):
        store.write(key, b"")
    assert list(store.list("g/part-")) == ["g/part-1", "g/part-2"]
    assert list(store.list("g")) == ["g.x", "g/part-1", "g/part-2", "g/plan", "g2/part-1"]
    assert list(store.list("g/")) == ["g/part-1", "g/part-2", "g/plan"]
    assert list(store.list("absent/")) == []


def test_the_time_of_a_write_is_known(store: Store) -> None:
    before_s = time.time()
    store.write("a/b", b"1")
    assert before_s - 2 <= store.modified_s("a/b") <= time.time() + 2
    with pytest.raises(LookupError, match="no a/c under "):
        store.modified_s("a/c")


def test_delete_is_idempotent(store: Store) -> None:
    store.write("a/b/c", b"1")
    store.write("a/d", b"1")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert list(store.list()) == ["a/d"]


def test_a_store_travels_to_other_processes(store: Store) -> None:
    store.write("x y", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x y") == b"1"
    assert open_store(store.url) == store


def test_a_read_past_the_end_is_empty(store: Store) -> None:
    store.write("empty", b"")
    store.write("three", b"abc")
    assert store.read("empty") == store.read("empty", 0, 5) == b""
    assert store.read("three", 3) == store.read("three", 7, 2) == b""


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
