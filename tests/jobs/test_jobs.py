"""Jobs as users start them: by path, and submitted to a running cluster."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_run
from valign.storage import manifests
from valign.storage.objects import open_store

REPOSITORY = Path(__file__).parents[2]
LARGEST_UPLOAD_BYTES = 40 * 2**20


def test_jobs_are_executable_and_have_a_shebang():
    for job in (REPOSITORY / "jobs").glob("*.py"):
        assert os.access(job, os.X_OK), f"{job.name} is not executable"
        assert job.read_text().startswith("#!/usr/bin/env python\n")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.mark.ray
def test_a_job_started_by_path_makes_and_scores_a_users_prompts(recipe, tmp_path):
    prompts = tmp_path / "mine.tsv"
    prompts.write_text("Prompt\tCategory\na doctor\tx\na hill\ty\na doctor\tz\n")
    root = tmp_path / "root"
    words = [f"recipe={recipe}", f"root={root}", f"prompts={prompts}"]
    job = [sys.executable, "jobs/build_dataset.py", *words]
    done = subprocess.run(job, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "row 4" in done.stdout  # the duplicate is reported by its row
    store = open_store(str(root))
    assert manifests.get(store, "score").counts["images"] == 2
    assert manifests.get(store, "label") is None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A local Ray head with a dashboard and token authentication: its address and environment."""
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.write_text("a-token-for-tests-only-0123456789abcdef")
    token.chmod(0o600)
    port, dashboard = _free_port(), _free_port()
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "PATH": paths,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    head = subprocess.Popen(
        [
            *("ray", "start", "--head", "--block", "--num-cpus=4", f"--port={port}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            f"--temp-dir={folder / 't'}",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 90
    while not _answers(address):
        assert head.poll() is None, "the Ray head ended"
        assert time.monotonic() < deadline, "the Ray head did not come up"
        time.sleep(0.2)
    yield address, environment
    head.terminate()
    head.wait(timeout=60)


@pytest.mark.ray
@pytest.mark.skip(reason="the test head's job agent does not come up yet: submission is not shown")
def test_path_command_and_submitted_job_give_the_same_bytes(recipe, tmp_path, cluster):
    """The dataset by `jobs/x.py`, `valign run` and `ray job submit`; the upload stays small."""
    address, environment = cluster
    small = ["generate.principles=[gender]", "generate.bias_prompts=1", f"recipe={recipe}"]
    valign = [sys.executable, "-m", "valign.cli", "run", "generate", "score", "label", "encode"]
    submit = ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--"]
    ways = {
        "path": [sys.executable, "jobs/build_dataset.py"],
        "command": valign,
        "submitted": [*submit, "jobs/build_dataset.py"],
    }
    trees = {}
    for way, words in ways.items():
        root = tmp_path / way
        done = _run([*words, f"root={root}", *small], environment if way == "submitted" else None)
        assert done.returncode == 0, way + done.stdout[-4000:] + done.stderr[-2000:]
        assert manifests.get(open_store(str(root)), "encode") is not None
        trees[way] = tiny_run.tree(root)
    assert trees["path"] == trees["command"] == trees["submitted"]
    uploads = list(Path(environment["RAY_AUTH_TOKEN_PATH"]).parent.rglob("_ray_pkg_*.zip"))
    assert uploads, "the job's working directory was not uploaded"
    assert max(upload.stat().st_size for upload in uploads) < LARGEST_UPLOAD_BYTES


def _run(words: list[str], environment: dict[str, str] | None) -> subprocess.CompletedProcess[str]:
    """Run a command; submit again while the head's job agent is still coming up."""
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(
            words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=2) as answer:
            json.load(answer)
        return True
    except urllib.error.HTTPError:
        return True  # it is up and asks for the token
    except (urllib.error.URLError, OSError):
        return False
