"""The driver's memory at the papers' size: rows without pictures, in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# The peak of the driver's memory while it plans, reads and labels, beyond what the imports take.
DRIVER = """
import json, resource, sys
import numpy as np
from valign import config
from valign.stages import generate, images, label, score, scores

from valign.stages.work import ShardReport, Work
from valign.storage import layout, tables
from valign.storage.objects import open_store

class Nobody:
    def map_shards(self, worker, args, shards, *, prefix, pool):
        return (ShardReport(shard.number, shard.stop - shard.start) for shard in shards)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

root = sys.argv[1]
run = config.load("miniature_full", [f"root={root}", f"generate.bias_prompts={sys.argv[2]}",
    f"generate.toxic_prompts={sys.argv[3]}", "label.verify_toxic=none"])
columns = score.load(run.score.scorers).columns
before = peak()
work = Work(run, root, open_store(root), Nobody(), lambda *told: None)
made = generate.perform(work)["images"]
plan = images.Plan(work.store, layout.plan("generate"))
rng = np.random.default_rng(0)
for shard in images.shards(work.store, "generate", run.generate.shard_rows):
    rows = plan.rows(shard.start, shard.stop)
    part = {"image_id": [row.image_id for row in rows]}
    for name, info in columns.items():
        part[name] = rng.random((len(rows), len(info.classes) or 1), np.float32).tolist()
        part[f"{name}.error"] = [None] * len(rows)
    tables.write(work.store, layout.part("score", shard.number), part, tables.scores(part))
score.columns_summary(scores.read_scores(work.store))
pairs = label.perform(work)["pairs"]
print(json.dumps({"images": made, "pairs": pairs, "grown_mib": peak() - before}))
"""


PAPERS_IMAGES = 185_440


def driver(root: Path, bias_prompts: int, toxic_prompts: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(root), str(bias_prompts), str(toxic_prompts)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_planning_reading_and_labelling_the_papers_images_add_under_300_mib(tmp_path):
    few, many = driver(tmp_path / "few", 15, 8), driver(tmp_path / "many", 60, 30)
    assert (few["images"], many["images"]) == (5_165, 20_289)
    assert 0 < few["pairs"] < many["pairs"]
    mib_per_image = (many["grown_mib"] - few["grown_mib"]) / (many["images"] - few["images"])
    assert mib_per_image * PAPERS_IMAGES < 300
