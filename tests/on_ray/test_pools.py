"""Pools of workers: each stage's own resources, a machine that lacks them, and the counters."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[2]

POOLS = """
import json, os, sys, time, urllib.request
import ray
from valign import config
from valign.on_ray import session
from valign.on_ray.cluster import Cluster
from valign.stages.work import Shard, ShardReport, Work, cut
from valign.storage.objects import open_store

class Worker:
    def __init__(self, root, workers):
        self.store, self.workers = open_store(root), workers
        context = ray.get_runtime_context()
        seen = {**context.get_assigned_resources(), "sees": os.environ.get("CUDA_VISIBLE_DEVICES")}
        self.store.write(f"seen/{context.get_actor_id()}", json.dumps(seen).encode())

    def __call__(self, shard):
        while len(list(self.store.list("seen/"))) < self.workers:  # or one does it all
            time.sleep(0.05)
        return ShardReport(shard.number, shard.stop - shard.start - 1, quarantined=1, scores=7)

root = sys.argv[1]
os.environ["RAY_metrics_report_interval_ms"] = "300"
names = {key: value for key, value in session.ENVIRONMENT.items() if key not in os.environ}
ray.init(
    num_cpus=4, num_gpus=1, resources={"big": 2}, labels={"zone": "a"}, include_dashboard=False,
    log_to_driver=False, runtime_env={"env_vars": names},
)
run = config.load("miniature", [f"root={root}", "resources={workers: 1, max_bad_fraction: 0.2, "
    "generate: {workers: 2, workers_per_gpu: 2, custom: {big: 0.5}, labels: {zone: a}}, "
    "score: {cpus_per_worker: 0.5, memory_gib_per_worker: 0.25}}"])
seen = {}
for pool in ("generate", "score", "encode"):
    store = open_store(f"{root}/{pool}")
    work = Work(run, store.url, store, Cluster(run.resources), lambda *told: None)
    args = (store.url, run.resources.pool(pool).workers)
    work.carry_out(pool, Worker, args, cut(40, 5))
    seen[pool] = [json.loads(store.read(key)) for key in store.list("seen/")]
node = ray.nodes()[0]
page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
deadline = time.monotonic() + 60
lines = []
while time.monotonic() < deadline and sum("valign_shards" in line for line in lines) < 3:
    time.sleep(0.3)
    served = urllib.request.urlopen(page, timeout=10).read().decode().splitlines()
    lines = [line for line in served if "valign" in line and not line.startswith("#")]
print(json.dumps({"seen": seen, "metrics": lines}))
"""

LACKING = """
import sys
from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.work import Work, cut
from valign.storage.objects import open_store
run = config.load("miniature", [f"root={sys.argv[1]}", "resources.score={custom: {big: 1}}"])
work = Work(run, run.root, open_store(run.root), Cluster(run.resources), lambda *told: None)
work.carry_out("score", print, (), cut(4, 2))
"""


def run(script: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(root)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_stage_has_the_workers_its_pool_asks_for_and_counts_what_they_do(tmp_path):
    done = run(POOLS, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    draw, score, encode = (told["seen"][name] for name in ("generate", "score", "encode"))
    assert len(draw) == 2
    for worker in draw:
        assert (worker["CPU"], worker["GPU"], worker["big"], worker["sees"]) == (1, 0.5, 0.5, "0")
    for worker in score:
        assert (worker["CPU"], worker["memory"]) == (0.5, 2**28)
        assert "GPU" not in worker
        assert not worker["sees"]  # what reserved no GPU sees none
    assert encode[0]["CPU"] == 1

    counted: dict[tuple[str, str], float] = {}
    for line in told["metrics"]:
        name, stage, value = re.match(r'(\w+)\{.*stage="([^"]+)".*\} (\S+)', line).groups()
        counted[name, stage] = counted.get((name, stage), 0) + float(value)
    for stage in ("generate", "score", "encode"):
        assert counted["ray_valign_shards_total", stage] == 8
        assert counted["ray_valign_images_total", stage] == 32
        assert counted["ray_valign_quarantined_total", stage] == 8
        assert counted["ray_valign_scores_total", stage] == 56
        assert counted["ray_valign_worker_seconds_total", stage] > 0


def test_a_machine_without_what_a_pool_needs_says_so_and_does_not_wait(tmp_path):
    done = run(LACKING, tmp_path)
    assert done.returncode != 0
    assert "score: 2 workers of 1 big each need 2, and there are 0" in done.stderr
