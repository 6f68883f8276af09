"""Buckets as stores: names, copies, and faults on the way to the service."""

import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.storage.faulty_proxy import FaultyProxy
from valign.storage.objects import local, open_store, resolve

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


@pytest.mark.parametrize("fault", ["busy", "reset"])
def test_every_request_is_repeated(proxy: FaultyProxy, fault: str) -> None:
    store = open_store("s3://bucket/run")
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        proxy.faults[method].append(fault)
    store.write("x", b"1")
    assert store.read("x") == b"1"
    proxy.faults["GET"].append(fault)
    assert list(store.list()) == ["x"]
    assert store.exists("x")
    proxy.faults["PUT"].append(fault)
    assert not store.create("x", b"2")
    assert store.create("y", b"2")
    store.delete("x")
    assert list(store.list()) == ["y"]
    assert proxy.injected[fault] == 6


def test_a_service_that_stays_busy_is_an_error(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.faults["PUT"] += ["busy"] * 10
    told = "x under s3://bucket/run: the service answered SlowDown; .* fewer workers"
    with pytest.raises(OSError, match=told):
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


def test_a_body_that_always_breaks_off_is_an_error(proxy: FaultyProxy) -> None:
    store = open_store("s3://bucket/run")
    store.write("x", bytes(300_000))
    proxy.faults["GET"] += ["cut"] * 20
    with pytest.raises(ConnectionError, match="x under s3://bucket/run: no answer"):
        store.read("x")
    assert proxy.injected["cut"] == 5


def test_credentials_and_endpoint_may_come_from_a_profile(
    bucket: str, s3_service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {s3_service}\n")
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = k\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    store = open_store(f"s3://{bucket}/run")
    with pytest.raises(PermissionError, match="no usable credentials"):
        store.exists("x")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    store.write("x", b"1")
    assert store.read("x") == b"1"
    assert SECRET.encode() not in pickle.dumps(store)
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(PermissionError, match="ProfileNotFound"):
        store.exists("x")


def test_an_endpoint_without_a_scheme_is_explained(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(ValueError, match="write AWS_ENDPOINT_URL as http://"):
        open_store(f"s3://{bucket}/run").exists("x")


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
