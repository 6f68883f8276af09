"""Training on Ray's workers under every engine follows the curve of one process without Ray."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_run
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.stages.train_log import read_metrics
from valign.storage import checkpoints
from valign.storage.objects import open_store

pytestmark = pytest.mark.ray
STEPS, REFRESH = 8, 3  # the reference is refreshed at steps 3 and 6, and used after both
OBJECTIVES = {
    "livo": (),
    "balanced_dpo": (
        *("label.rule=vote", "label.vote.voters=[clip_score]", "label.vote.candidates=best_worst"),
        *("train.objective=balanced_dpo", "train.trains=unet", f"train.refresh_every={REFRESH}"),
        *("train.beta=500", "train.learning_rate=1e-4"),
    ),
}
DRIVER = """
import sys
from tests import tiny_run
from valign.on_ray.cluster import Cluster
from valign.stages.execute import execute

recipe, folder, engines, *settings = sys.argv[1:]
for name in engines.split(","):
    engine = f"resources.engine.name={name}", "resources.train_workers=2"
    run = tiny_run.load(recipe, f"{folder}/{name}", *settings, *engine)
    execute(("train",), run, Cluster(run.resources))
"""


def measured(row: dict[str, float]) -> dict[str, float]:
    """Return what is not a share of pairs: one on its threshold may fall on either side."""
    return {key: value for key, value in row.items() if not key.endswith(("accuracy", "active"))}


def follow(folder: Path, objective: str, engines: tuple[str, ...]) -> None:
    """Train in this process, then on two Ray workers under each engine; compare the rows."""
    recipe = tiny_run.write_recipe(folder)
    settings = (*OBJECTIVES[objective], f"train.steps={STEPS}", f"train.save_every={STEPS}")
    alone = folder / "alone"
    execute(
        ("generate", "score", "label", "encode"), tiny_run.load(recipe, alone, *settings), Inline()
    )
    for name in engines:
        shutil.copytree(alone, folder / name)
    execute(("train",), tiny_run.load(recipe, alone, *settings), Inline())
    command = [sys.executable, "-c", DRIVER, str(recipe), str(folder), ",".join(engines)]
    done = subprocess.run(
        [*command, *settings],
        check=False,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = read_metrics(open_store(str(alone)))
    losses = [row["loss"] for row in expected]
    assert max(losses) - min(losses) > 1e-3, "a flat curve would be followed by anything"
    for name in engines:
        assert f"2 workers under {name}" in done.stdout
        store = open_store(str(folder / name))
        for row, wanted in zip(read_metrics(store), expected, strict=True):
            assert measured(row) == pytest.approx(measured(wanted), rel=1e-2, abs=1e-4), name
        made = checkpoints.latest(store, "train")
        assert made and made.loop["step"] == STEPS
        if objective == "balanced_dpo":
            assert made.loop["refreshed"] == 2 * REFRESH


def test_zero3_on_ray_follows_one_process_across_refreshes(tmp_path):
    follow(tmp_path, "balanced_dpo", ("zero3",))


@pytest.mark.campaign
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_engine_on_ray_follows_one_process(objective, tmp_path):
    follow(tmp_path, objective, ("ddp", "zero0", "zero1", "zero2", "zero3"))
