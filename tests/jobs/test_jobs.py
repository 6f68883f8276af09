"""Jobs as users start them by path; `test_secrets` submits one to a running cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_run
from valign import config
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.storage import manifests
from valign.storage.objects import open_store

REPOSITORY = Path(__file__).parents[2]


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


@pytest.mark.ray
def test_jobs_and_command_in_turns_give_the_bytes_of_an_inline_run(recipe, tmp_path):
    """Prompts to report by paths and `valign run`, on Ray; `test_secrets` submits the pipeline.

    Training is by two workers both times: Ray's, and plain child processes.
    """
    small = ["generate.principles=[gender]", "generate.bias_prompts=1", "resources.workers=1"]
    words = [*small, "resources.train_workers=2"]
    inline, root = tmp_path / "inline", tmp_path / "root"
    execute(config.STAGES, tiny_run.load(recipe, inline, *words), Inline())
    told = {}
    for name, command, more, code in (
        ("dataset", ["jobs/build_dataset.py"], [], 0),
        ("train", ["jobs/train.py"], [], 0),
        ("evaluate", ["-m", "valign.cli", "run", "evaluate"], [], 0),
        ("gate", ["jobs/evaluate.py"], ["--fail-if", "bias.gender.d1 >= 0"], 1),
    ):
        done = subprocess.run(
            [sys.executable, *command, f"recipe={recipe}", f"root={root}", *words, *more],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout[-4000:] + done.stderr[-2000:]
        told[name] = done.stdout
    assert "2 workers" in told["train"]
    again = [name for name, output in told.items() if "finished before" in output]
    assert again == ["gate"]
    assert tiny_run.tree(root) == tiny_run.tree(inline)
