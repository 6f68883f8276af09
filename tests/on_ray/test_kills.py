"""SIGKILL of workers, nodes and drivers in every stage: the run ends as if nothing had happened."""

import collections
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import pytest

from tests import tiny_run
from tests.on_ray import killer
from tests.on_ray.doomed import Kill
from valign import config
from valign.stages.execute import DATASET, execute
from valign.stages.inline import Inline
from valign.storage import checkpoints
from valign.storage.files import FileStore

pytestmark = pytest.mark.ray

WORKERS = {"generate": 2, "score": 1, "encode": 1}
# Small shards, so that there are enough of them; two training ranks, of which one is killed.
WORDS = (
    *("generate.shard_rows=4", "resources.train_workers=2", "resources.max_attempts=11"),
    *(f"resources.{stage}.workers={workers}" for stage, workers in WORKERS.items()),
)
KILLS = (
    Kill("worker", "generate", "attempts/", late=True, finished=1),
    Kill("node", "generate", "part-", finished=3),
    Kill("driver", "generate", "done/", finished=5),
    Kill("worker", "score", "part-", finished=1),
    Kill("node", "score", "done/", late=True, finished=3),
    Kill("driver", "score", "part-", late=True, finished=5),
    Kill("worker", "encode", "done/", finished=1),
    Kill("node", "encode", "part-", late=True, finished=2),
    Kill("driver", "encode", "attempts/", late=True, finished=4),
)
LATER_KILLS = (
    Kill("driver", "label", "pairs-"),
    Kill("worker", "train", "step-00000002/"),
    Kill("node", "train", "step-00000004/"),
    Kill("driver", "train", "step-00000004/complete"),
    Kill("worker", "evaluate", "part-", finished=1),
    Kill("node", "evaluate", "done/", finished=2),
    Kill("driver", "evaluate", "done/", late=True, finished=4),
)
# A save after every second step, a refresh after every third update.
TRAINING = (
    *("label.rule=vote", "label.vote.voters=[clip_score]", "label.vote.candidates=best_worst"),
    *("train.objective=balanced_dpo", "train.trains=lora", "train.refresh_every=3"),
    *("train.beta=500", "train.steps=8", "resources.max_failures=10"),
)
TRAINING_KILLS = (
    Kill("worker", "train", "step-00000002/"),
    Kill("worker", "train", "refresh"),
    Kill("worker", "train", "step-00000004/tensors", late=True),
    Kill("driver", "train", "step-00000004/complete", late=True),
    Kill("worker", "train", "refresh"),
    Kill("driver", "train", "step-00000006/complete"),
    Kill("node", "train", "refresh"),
)


@dataclass(frozen=True)
class Survivor:
    """A run that was killed, and what was noted of it."""

    root: Path
    notes: Path
    hit: collections.Counter[tuple[str, str]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[killer.Nodes]:
    with killer.nodes() as started:
        yield started


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    execute(DATASET, tiny_run.load(recipe, root, *WORDS), Inline())
    return root


@pytest.fixture(scope="module")
def survivor(nodes, recipe, undisturbed, tmp_path_factory) -> Survivor:
    root, notes = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("notes")
    hit = killer.run(nodes, KILLS, notes, recipe, root, " ".join(DATASET), *WORDS)
    return Survivor(root, notes, hit)


def test_every_kill_hit(survivor: Survivor):
    assert survivor.hit == collections.Counter((kill.stage, kill.victim) for kill in KILLS)


def test_the_dataset_equals_the_undisturbed_one_byte_by_byte(survivor: Survivor, undisturbed):
    assert tiny_run.tree(survivor.root) == tiny_run.tree(undisturbed)


def test_the_dataset_has_every_row_once(survivor: Survivor, undisturbed):
    for stage in ("generate", "score"):
        rows = image_ids(survivor.root, stage)
        assert len(rows) == len(set(rows)) > 0
        assert rows == image_ids(undisturbed, stage)


def test_no_more_than_the_shards_in_flight_are_redone(survivor: Survivor):
    for stage in WORKERS:
        redone = redone_shards(survivor.root, survivor.notes, stage)
        assert 0 < redone <= in_flight(KILLS, stage)


def test_killed_drivers_left_the_root_to_the_next_one(survivor: Survivor):
    left = [file.read_text().split() for file in sorted(survivor.notes.glob("left-*"))]
    assert [len(keys) for keys in left] == [1, 2, 3]  # each took it over; none could give it back
    assert not (survivor.root / "drivers").exists()


@pytest.mark.campaign
def test_labelling_training_and_evaluation_end_the_same_through_kills(
    nodes, recipe, undisturbed, tmp_path
):
    wanted, root, notes = (tmp_path / name for name in ("wanted", "root", "notes"))
    shutil.copytree(undisturbed, wanted)
    execute(config.STAGES, tiny_run.load(recipe, wanted, *WORDS), Inline())
    for stage in ("generate", "score"):
        shutil.copytree(undisturbed / stage, root / stage)
    notes.mkdir()
    hit = killer.run(nodes, LATER_KILLS, notes, recipe, root, " ".join(config.STAGES), *WORDS)
    assert hit == collections.Counter((kill.stage, kill.victim) for kill in LATER_KILLS)
    assert tiny_run.tree(root) == tiny_run.tree(wanted)


@pytest.mark.campaign
def test_training_killed_in_saves_and_in_refreshes_has_the_curve_of_the_undisturbed_one(
    nodes, recipe, undisturbed, tmp_path
):
    wanted, root, notes = (tmp_path / name for name in ("wanted", "root", "notes"))
    for stage in ("generate", "score"):
        shutil.copytree(undisturbed / stage, wanted / stage)
    words = (*WORDS, *TRAINING)
    execute(("label", "encode"), tiny_run.load(recipe, wanted, *words), Inline())
    shutil.copytree(wanted, root)
    execute(("train",), tiny_run.load(recipe, wanted, *words), Inline())
    notes.mkdir()
    hit = killer.run(nodes, TRAINING_KILLS, notes, recipe, root, "train", *words)
    assert hit == collections.Counter((kill.stage, kill.victim) for kill in TRAINING_KILLS)
    curves = [(at / "train/metrics.jsonl").read_text() for at in (root, wanted)]
    assert curves[0] == curves[1], "the loss curve, to the last bit"
    assert tiny_run.tree(root) == tiny_run.tree(wanted)
    found = checkpoints.latest(FileStore(root), "train")
    assert found is not None and (found.step, found.loop["refreshed"]) == (8, 6)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [0])
def test_campaign_of_ten_kills_per_stage(seed, nodes, recipe, undisturbed, tmp_path):
    kills = drawn(seed, undisturbed)
    root, notes = tmp_path / "root", tmp_path / "notes"
    notes.mkdir()
    hit = killer.run(nodes, kills, notes, recipe, root, " ".join(DATASET), *WORDS)
    redone = {stage: redone_shards(root, notes, stage) for stage in WORKERS}
    for stage in WORKERS:
        shards, bound = len(list(root.glob(f"{stage}/done/*"))), in_flight(kills, stage)
        victims = ", ".join(f"{hit[stage, who]} {who}" for who in ("worker", "node", "driver"))
        print(f"{stage}: {victims}; {redone[stage]} of {shards} shards redone, at most {bound}")
    assert hit == collections.Counter((kill.stage, kill.victim) for kill in kills)
    assert tiny_run.tree(root) == tiny_run.tree(undisturbed)
    rows = image_ids(root, "generate")
    assert len(rows) == len(set(rows))
    for stage in WORKERS:
        assert redone[stage] <= in_flight(kills, stage)


def image_ids(root: Path, stage: str) -> list[str]:
    """Return the ids in a stage's parts, in the order of the parts."""
    return [
        image_id
        for part in sorted(root.glob(f"{stage}/**/part-*.parquet"))
        for image_id in pyarrow.parquet.read_table(part, columns=["image_id"])[0].to_pylist()
    ]


def redone_shards(root: Path, notes: Path, stage: str) -> int:
    """Return how often a shard of the stage was begun beyond the first time."""
    begun = len(list(notes.glob(f"began-{stage}:*")))
    return begun - len(list(root.glob(f"{stage}/done/*")))


def in_flight(kills: Sequence[Kill], stage: str) -> int:
    """Return how many shards the kills of a stage can interrupt at most."""
    victims = [kill.victim for kill in kills if kill.stage == stage]
    return sum(1 if victim == "worker" else WORKERS[stage] for victim in victims)


def drawn(seed: int, undisturbed: Path) -> list[Kill]:
    """Return ten kills for each stage, at random moments before its last three shards."""
    chance = random.Random(seed)
    kills = []
    for stage in WORKERS:
        shards = len(list(undisturbed.glob(f"{stage}/done/*")))
        assert shards > 3
        for finished in sorted(chance.randrange(shards - 2) for _ in range(10)):
            victim = chance.choices(("worker", "node", "driver"), (4, 3, 3))[0]
            change = chance.choice(("attempts/", "part-", "done/"))
            kills.append(Kill(victim, stage, change, chance.random() < 0.5, finished))
    return kills
