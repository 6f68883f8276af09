"""`valign check` looks whether the root can be reached, written, and trusted with claims."""

from collections.abc import Iterator

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from tests import tiny_run
from tests.storage.faulty_proxy import FaultyProxy
from valign import config
from valign.stages import check


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a small S3 service with a bucket named `bucket`; the environment leads there."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    boto3.session.Session().client("s3").create_bucket(Bucket="bucket")
    yield f"http://{host}:{port}"
    server.stop()


def finding(root: str) -> tuple[bool, str, str]:
    """Return whether the root is fine, what was found, and the remedy."""
    name, *found = check.storage(config.load("miniature", [f"root={root}"]))
    assert name == "storage"
    return tuple(found)


def test_a_folder_and_a_bucket_are_fine_and_left_clean(service: str, tmp_path) -> None:
    for root in (str(tmp_path), "s3://bucket/run"):
        assert finding(root) == (True, f"{root} can be written, read and listed", "")
    assert list(tmp_path.iterdir()) == []
    client = boto3.session.Session().client("s3")
    assert client.list_objects_v2(Bucket="bucket")["KeyCount"] == 0


def test_what_cannot_be_reached_or_written_is_said(service: str, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for root, told in (
        ("s3://absent/run", "no bucket 'absent'"),
        ("ftp://host", "not supported"),
        (f"{tmp_path}/file/run", "Not a directory"),
    ):
        fine, detail, remedy = finding(root)
        assert not fine
        assert told in detail
        assert remedy
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fine, detail, _ = finding("s3://bucket/run")
    assert not fine
    assert "check AWS_ENDPOINT_URL" in detail


def test_a_service_that_ignores_conditions_is_refused(service: str, monkeypatch) -> None:
    deaf = FaultyProxy(service, deaf_to="If-None-Match")
    monkeypatch.setenv("AWS_ENDPOINT_URL", deaf.url)
    fine, detail, remedy = finding("s3://bucket/run")
    deaf.close()
    assert not fine
    assert "taken twice" in detail
    assert "conditional writes" in remedy


def test_a_recipe_that_asks_for_gpus_needs_them(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for gpus, fine in ((0, True), (1, False)):
        words = [f"root={tmp_path}", f"resources.gpus_per_worker={gpus}"]
        (found,) = [f for f in check.findings(config.load("miniature", words)) if f[0] == "torch"]
        assert found[1] is fine
        assert fine or "resources.gpus_per_worker=0" in found[3]


def test_models_that_cannot_be_loaded_are_said_with_a_remedy(recipe, tmp_path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for name, setting, remedy in (
        ("generator", f"generator={nowhere}", "Set generator= to a hub id"),
        (
            "scorers",
            f"score.scorers=[{{name: clip, kind: clip, source: {nowhere}}}]",
            "Mend the source of that scorer in the recipe",
        ),
    ):
        found = check.findings(tiny_run.load(recipe, tmp_path / "root", setting))
        ((wrong, _, detail, told),) = [each for each in found if not each[1]]
        assert wrong == name
        assert nowhere in detail
        assert remedy in told
