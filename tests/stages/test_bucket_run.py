"""The whole run in a bucket of a real service, reached through faults."""

from pathlib import Path

import pytest

from tests import seaweed, tiny_run
from tests.storage.faulty_proxy import FaultyProxy
from valign import config
from valign.stages.execute import execute
from valign.stages.inline import Inline


@pytest.mark.slow
def test_a_run_in_a_bucket_equals_the_run_in_a_folder(
    recipe: Path, finished: Path, weed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """One request in twenty meets a 503, a reset, a lost answer or half a body."""
    proxy = FaultyProxy(weed, share=0.05)
    for name, value in seaweed.environment(proxy.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VALIGN_CACHE", str(tmp_path / "cache"))
    root = f"s3://bucket/{tmp_path.name}"
    execute(config.STAGES, tiny_run.load(recipe, root), Inline())
    proxy.close()
    assert all(proxy.injected[fault] for fault in ("busy", "reset", "lose", "cut"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", weed)
    assert tiny_run.tree(root) == tiny_run.tree(finished)
