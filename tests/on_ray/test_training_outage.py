"""The bucket goes away while training saves: the loss curve stays that of a folder, bit for bit."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests import seaweed, tiny_run
from tests.storage.faulty_proxy import FaultyProxy
from valign.stages.execute import DATASET, execute
from valign.stages.inline import Inline
from valign.storage import layout
from valign.storage.objects import open_store

pytestmark = pytest.mark.campaign
SETTINGS = ("train.steps=8", "train.save_every=2")
TRIES = 2  # of a request, before it fails
DRIVER = """
import sys
from tests import tiny_run
from valign.on_ray.cluster import Cluster
from valign.stages.execute import execute
from valign.stages.inline import Inline

how, recipe, root, *settings = sys.argv[1:]
run = tiny_run.load(recipe, root, *settings)
execute(("train",), run, Cluster(run.resources) if how == "ray" else Inline())
"""


class Outage(FaultyProxy):
    """Answers 503 to writes of a checkpoint, so many times for each of some steps.

    Args:
        target: URL of the service.
        refused: number of the step -> how many writes of its checkpoint are refused.
    """

    def __init__(self, target: str, refused: dict[int, int]) -> None:
        super().__init__(target)
        self._one_at_a_time = threading.Lock()  # a fault meets the request that it is meant for
        self.left = {layout.checkpoint("train", step): count for step, count in refused.items()}

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        with self._one_at_a_time:
            for prefix, count in self.left.items():
                if asked.command == "PUT" and f"{prefix}/" in asked.path and count:
                    self.left[prefix] -= 1
                    self.faults["PUT"].append("busy")
            super().answer(asked)


@pytest.mark.ray
@pytest.mark.parametrize("how", ["inline", "ray"])
def test_training_goes_on_after_an_outage_of_its_bucket(how, weed, tmp_path):
    recipe, folder = tiny_run.write_recipe(tmp_path), tmp_path / "folder"
    execute((*DATASET, "train"), tiny_run.load(recipe, folder, *SETTINGS), Inline())
    root = f"s3://bucket/{tmp_path.name}-{how}"
    proxy = Outage(weed, {2: TRIES - 1, 4: TRIES, 6: 2 * TRIES})  # the first is no more than slow
    environment = {
        **os.environ,
        **seaweed.environment(proxy.url),
        "AWS_MAX_ATTEMPTS": str(TRIES),
        "VALIGN_CACHE": str(tmp_path / "cache"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.environment(weed).items():
            patch.setenv(name, value)
        store, made = open_store(root), open_store(str(folder))
        for key in made.list():
            if key.partition("/")[0] in DATASET:
                store.write(key, made.read(key))
        codes = []
        while 0 not in codes and len(codes) < 4:
            command = [sys.executable, "-c", DRIVER, how, str(recipe), root, *SETTINGS]
            done = subprocess.run(
                command,
                check=False,
                cwd=Path(__file__).parents[2],
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
            )
            codes.append(done.returncode)
            assert done.returncode == 0 or "the service answered" in done.stdout + done.stderr
        proxy.close()
        assert proxy.injected["busy"] == 4 * TRIES - 1 and not any(proxy.left.values())
        # Ray Train starts its workers again by itself; without Ray the next run resumes.
        assert len(codes) == (1 if how == "ray" else 4), codes
        assert store.read(layout.METRICS) == made.read(layout.METRICS), "the loss curve"
        assert tiny_run.tree(root) == tiny_run.tree(folder)
