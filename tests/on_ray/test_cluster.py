"""Work on Ray: the same bytes as inline, through crashes of workers and of the driver."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny_run
from valign.storage import layout
from valign.storage.objects import open_store

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[2]

DRIVER = """
import sys
from pathlib import Path
from tests import tiny_run
from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.execute import execute
run = tiny_run.load(Path(sys.argv[1]), sys.argv[2], *sys.argv[4:])
execute(config.STAGES if sys.argv[3] == "all" else sys.argv[3].split(), run, Cluster(run.resources))
"""

CRASHING_WORKER = """
import os, sys
from pathlib import Path
from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.work import Shard, ShardReport, Work, cut
from valign.storage.objects import open_store

class Worker:
    def __init__(self, root, fatal):
        self.store, self.fatal = open_store(root), fatal

    def __call__(self, shard):
        once = f"crashed/{shard.number}"
        if shard.number == 2 and (self.fatal or self.store.create(once, b"")):
            os._exit(1)
        self.store.write(f"made/{shard.number}", bytes(shard.number))
        return ShardReport(shard.number, shard.stop - shard.start)

class Lost:
    def __reduce__(self):
        return getattr, (os, "not_there_on_the_worker")

root, fatal = sys.argv[1], Lost() if sys.argv[2] == "lost" else sys.argv[2] == "fatal"
run = config.load("miniature", [f"root={root}"])
work = Work(run, root, open_store(root), Cluster(run.resources), lambda *told: None)
reports = work.carry_out("generate", Worker, (root, fatal), cut(50, 10))
print("rows", sum(report.rows for report in reports))
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


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_recipe(tmp_path_factory.mktemp("tiny"))


def test_a_run_on_ray_survives_a_killed_driver_and_equals_the_inline_run(recipe, tmp_path):
    """SIGKILL the driver while it generates; run again; compare with an inline run of two ranks."""
    from valign import config
    from valign.stages.execute import execute
    from valign.stages.inline import Inline

    two = "resources.train_workers=2"
    inline, on_ray = tmp_path / "inline", tmp_path / "ray"
    execute(config.STAGES, tiny_run.load(recipe, inline, two), Inline())

    driver = start(DRIVER, str(recipe), str(on_ray), "generate", two)
    first = layout.marker("generate", 0)
    deadline = time.monotonic() + 120
    while not open_store(str(on_ray)).exists(first):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, "no shard was done in two minutes"
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not open_store(str(on_ray)).exists(layout.manifest("generate"))

    again = start(DRIVER, str(recipe), str(on_ray), "all", two)
    output = again.communicate(timeout=400)[0]
    assert again.returncode == 0, output
    assert tiny_run.tree(on_ray) == tiny_run.tree(inline)


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    done = start(CRASHING_WORKER, str(tmp_path), "once")
    output = done.communicate(timeout=200)[0]
    assert done.returncode == 0, output
    assert "rows 50" in output
    assert open_store(str(tmp_path)).exists("crashed/2")  # the fault did happen


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
