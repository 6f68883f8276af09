"""The whole pipeline while everything under it is killed, stopped and slowed: `make chaos`.

Half an hour at most. Chaos ends when each fault hit at least once and `FAULTS` in all; then the run
must end by itself, equal to a quiet one. VALIGN_CHAOS_SEED chooses other moments.
"""

import os
import random
import sys
import time
from pathlib import Path

import pytest

from tests import tiny_run
from tests.chaos.hand import Hand
from valign import config
from valign.on_ray import local_cluster
from valign.stages import collect
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.storage.objects import open_store

pytestmark = [pytest.mark.chaos, pytest.mark.ray]
REPOSITORY = Path(__file__).parents[2]
SEED = int(os.environ.get("VALIGN_CHAOS_SEED", "0"))
FAULTS, DEADLINE_S, PATIENCE_S = 12, 27 * 60, 30
ROOT = "s3://valign/chaos"
WORDS = (
    *("generate.shard_rows=4", "train.steps=12", "train.save_every=3", "resources.workers=4"),
    *("resources.max_attempts=40", "resources.max_failures=40", "resources.train_workers=1"),
)


def test_a_run_through_chaos_equals_a_quiet_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe, quiet = tiny_run.write_recipe(tmp_path), tmp_path / "quiet"
    execute(config.STAGES, tiny_run.load(recipe, quiet, *WORDS), Inline())
    shared_before = _shared_memory()
    monkeypatch.setenv("VALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    command = [sys.executable, "-m", "valign.cli", "run", "all", f"recipe={recipe}"]
    chance = random.Random(SEED)
    hand = Hand(tmp_path / "cluster", [*command, f"root={ROOT}", *WORDS], tmp_path / "log", chance)
    try:
        hand.start_cluster()
        _through_chaos(hand)
        for name, value in local_cluster.environment(hand.folder).items():
            monkeypatch.setenv(name, value)
        _check_result(hand, quiet)
        temporary = Path(local_cluster.read(hand.folder)["temporary"])
    finally:
        hand.end_driver()
        local_cluster.stop(hand.folder)
        for child in hand.children:
            child.wait()
    assert not temporary.exists()
    assert _processes_with(str(tmp_path / "cluster")) == []
    assert _processes_with(str(temporary)) == []
    assert _shared_memory() <= shared_before


def _through_chaos(hand: Hand) -> None:
    """Strike until enough was hit, and let the run end; start the driver again where it failed."""
    deadline = time.monotonic() + DEADLINE_S
    todo = list(hand.faults)
    hand.chance.shuffle(todo)
    hand.drive()
    strike_at, seen = time.monotonic() + PATIENCE_S, hand.log.stat().st_size
    while True:
        assert time.monotonic() < deadline, f"{hand.done}: {hand.log.read_text()[-3000:]}"
        time.sleep(0.2)
        hand.keep()
        assert hand.driver is not None
        code = hand.driver.poll()
        if code == 0:
            break
        if code is not None:  # it met a fault that it does not survive: it must resume
            hand.drive()
        if not todo and hand.done.total() >= FAULTS:
            continue
        moved = hand.log.stat().st_size > seen and time.monotonic() > strike_at - PATIENCE_S
        if not moved and time.monotonic() < strike_at:
            continue  # the driver is to have said something since, or to be given up waiting for
        name = todo[0] if todo else hand.chance.choice(list(hand.faults))
        hand.strike(name)
        print(f"{name}: {hand.done[name]}; driver {hand.drivers}", flush=True)
        todo = [one for one in todo if not hand.done[one]]
        seen = hand.log.stat().st_size
        strike_at = time.monotonic() + hand.chance.uniform(2, 10) + PATIENCE_S
    assert not todo, f"the run ended before {todo} could hit: {hand.done}"


def _check_result(hand: Hand, quiet: Path) -> None:
    """Hold the bucket to the quiet run, with nothing beside it but what gc removes."""
    store, wanted = open_store(ROOT), tiny_run.tree(quiet)
    found = tiny_run.tree(ROOT)
    beside = found.keys() - wanted.keys()
    removed = set(collect.collect(store))
    print(f"{hand.done}; {hand.drivers} drivers; {len(beside)} beside, {len(removed)} removed")
    assert beside <= removed
    assert tiny_run.tree(ROOT) == wanted
    assert collect.collect(store) == []


def _processes_with(word: str) -> list[str]:
    """Return the command lines that have a word in them, this process's own left out."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line and file.parent.name != str(os.getpid()):
            lines.append(line)
    return lines


def _shared_memory() -> set[str]:
    """Return what lies in shared memory that Ray may have put there."""
    return {file.name for file in Path("/dev/shm").glob("plasma*")}
