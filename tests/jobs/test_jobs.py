"""Jobs as users start them: by path, and submitted to a running cluster."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ray_head, tiny_run
from tests.ray_head import Head
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
def head() -> Iterator[Head]:
    with ray_head.running() as head:
        yield head


@pytest.mark.ray
def test_jobs_command_and_submitted_pipeline_give_the_same_bytes(recipe, tmp_path, head):
    """Prompts to report by paths and command in turns, and by `ray job submit`; a small upload."""
    small = ["generate.principles=[gender]", "generate.bias_prompts=1", "resources.workers=1"]
    python = sys.executable
    submit = ["ray", "job", "submit", "--address", head.jobs, "--working-dir", ".", "--"]
    ways = {
        "submitted": ([[*submit, "jobs/pipeline.py"]], head.environment),
        "in turns": (
            [
                [python, "jobs/build_dataset.py"],
                [python, "-m", "valign.cli", "run", "train"],
                [python, "jobs/train.py"],  # finished already: says so
                [python, "jobs/evaluate.py"],
            ],
            {**head.environment, "RAY_ADDRESS": head.gcs},
        ),
    }
    trees = {}
    for way, (commands, environment) in ways.items():
        root = tmp_path / way.replace(" ", "_")
        for words in commands:
            done = subprocess.run(
                [*words, f"recipe={recipe}", f"root={root}", *small],
                cwd=REPOSITORY,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, way + done.stdout[-4000:] + done.stderr[-2000:]
        assert manifests.get(open_store(str(root)), "evaluate") is not None
        trees[way] = tiny_run.tree(root)
    assert trees["in turns"] == trees["submitted"]
    uploads = "session_2*/runtime_resources/working_dir_files/_ray_pkg_*/**/*"
    unpacked = [file for file in head.folder.glob(uploads) if file.is_file()]
    assert any(file.name == "pipeline.py" for file in unpacked), "nothing was uploaded"
    assert sum(file.stat().st_size for file in unpacked) < LARGEST_UPLOAD_BYTES
