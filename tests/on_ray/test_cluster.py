"""Faults that come again: named by the shard, or by what could not be built (once: test_kills)."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[2]

CRASHING_WORKER = """
import os, sys
from pathlib import Path
from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.work import Shard, ShardReport, Work, cut
from valign.storage.objects import open_store

class Worker:
    def __init__(self, root, _):
        self.store = open_store(root)

    def __call__(self, shard):
        if shard.number == 2:
            os._exit(1)
        self.store.write(f"made/{shard.number}", bytes(shard.number))
        return ShardReport(shard.number, shard.stop - shard.start)

class Lost:
    def __reduce__(self):
        return getattr, (os, "not_there_on_the_worker")

root, argument = sys.argv[1], Lost() if sys.argv[2] == "lost" else None
run = config.load("miniature", [f"root={root}"])
work = Work(run, root, open_store(root), Cluster(run.resources), lambda *told: None)
work.carry_out("generate", Worker, (root, argument), cut(50, 10))
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a driver in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_shard_that_always_kills_its_worker_is_named(tmp_path):
    done = start(CRASHING_WORKER, str(tmp_path), "fatal")
    output = done.communicate(timeout=300)[0]
    assert done.returncode != 0
    assert "shard 2 (rows 20 to 29 of the plan) ended its worker's process 3 times" in output


def test_a_worker_that_cannot_be_built_says_why_in_the_last_line(tmp_path):
    done = start(CRASHING_WORKER, str(tmp_path), "lost")
    output = done.communicate(timeout=200)[0]
    assert done.returncode != 0
    assert "not_there_on_the_worker" in output.rpartition("\nRuntimeError")[2], output
