"""Buckets of a real service, which keeps what it says, checks signatures, and can be full."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from tests import seaweed
from tests.storage.faulty_proxy import FaultyProxy
from valign.storage.objects import Store, open_store

pytestmark = pytest.mark.slow


def lead_to(url: str, monkeypatch: pytest.MonkeyPatch, key: str = seaweed.ADMIN) -> None:
    for name, value in seaweed.environment(url, key).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def root(weed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An unused root in a real service."""
    lead_to(weed, monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    monkeypatch.setenv("VALIGN_CACHE", str(tmp_path / "cache"))
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture
def proxy(root: str, weed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(weed)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that goes up in five parts."""
    file = tmp_path / "large"
    file.write_bytes(os.urandom(1 << 20) * 70)
    return file


def changes(store: Store) -> list[Callable[[], object]]:
    return [lambda: store.write("x", b"1"), lambda: store.create("x", b"1")]


def uses(store: Store) -> list[Callable[[], object]]:
    reads = [lambda: store.read("x"), lambda: list(store.list()), lambda: store.exists("x")]
    return [*changes(store), *reads]


def test_of_many_creators_one_wins(root: str) -> None:
    store = open_store(root)
    with ThreadPoolExecutor(8) as threads:
        for round_number in range(5):
            key = f"claim/{round_number}"
            made = list(threads.map(lambda n, key=key: store.create(key, b"%d" % n), range(8)))
            assert made.count(True) == 1
            assert store.read(key) == b"%d" % made.index(True)


def test_lists_past_a_page(root: str) -> None:
    store = open_store(root)
    keys = [f"part-{number:05d}" for number in range(1003)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.write(key, b"1"), reversed(keys)))
    assert list(store.list("part-")) == keys


def test_large_objects_go_up_in_parts(root: str, large: Path) -> None:
    store = open_store(root)
    store.write("large", large)
    assert store.read("large") == large.read_bytes()
    assert store.local("large").read_bytes() == large.read_bytes()
    assert store.read("large", 69 << 20, 10) == large.read_bytes()[69 << 20 :][:10]


def test_parts_of_large_objects_survive_faults(proxy: FaultyProxy, root: str, large: Path) -> None:
    store = open_store(root)
    proxy.faults["PUT"] += ["busy", "reset", "lose"]
    store.write("large", large)
    proxy.faults["GET"] += ["cut", "reset", "busy"]
    assert store.local("large").read_bytes() == large.read_bytes()
    assert all(proxy.injected[fault] for fault in ("busy", "reset", "lose", "cut"))


def test_a_large_object_that_fails_leaves_nothing(
    proxy: FaultyProxy, root: str, large: Path
) -> None:
    store = open_store(root)
    proxy.faults["PUT"] += ["busy"] * 100
    with pytest.raises(OSError, match="the service answered SlowDown"):
        store.write("large", large)
    proxy.faults["PUT"].clear()
    assert list(store.list()) == []
    assert "Uploads" not in boto3.session.Session().client("s3").list_multipart_uploads(
        Bucket="bucket", Prefix=root.removeprefix("s3://bucket/")
    )


def test_strangers_are_told_and_secrets_are_not(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    for use in uses(open_store(root)):
        with pytest.raises(PermissionError, match="Check the credentials") as error:
            use()
        assert seaweed.SECRET not in str(error.value)


def test_a_wrong_secret_is_told(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for use in uses(open_store(root)):
        with pytest.raises(PermissionError, match="Check the credentials"):
            use()


def test_a_bucket_that_may_only_be_read(
    root: str, weed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(root)
    store.write("there", b"1")
    lead_to(weed, monkeypatch, seaweed.READER)
    assert store.read("there") == b"1"
    assert list(store.list()) == ["there"]
    for use in (*changes(store), lambda: store.delete("there")):
        with pytest.raises(PermissionError, match="AccessDenied.*write this bucket"):
            use()
    assert list(store.list()) == ["there"]


def test_a_full_service_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    limits = {"master.volumeSizeLimitMB": "1", "volume.max": "1"}
    with seaweed.running(tmp_path, **limits) as url:
        lead_to(url, monkeypatch)
        store = open_store("s3://bucket/run")
        store.write("before", bytes(3_000_000))
        with pytest.raises(OSError, match="no room left.*run again"):
            for number in range(20):
                store.write(f"later-{number}", bytes(3_000_000))
        kept = [f"later-{done}" for done in range(number)]
        assert list(store.list()) == ["before", *sorted(kept)]
        assert store.read("before") == bytes(3_000_000)
