"""One driver at a time on a root; one that was killed is no hindrance, wherever it was."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_run
from valign.stages.driver import holding
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.storage import layout
from valign.storage.objects import open_store


@contextlib.contextmanager
def other_driver(root: Path) -> Iterator[int]:
    """Hold a root from another process, which is killed without a chance to clean up."""
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        with holding(open_store(str(root))):
            os.write(here, b"!")
            time.sleep(600)
        os._exit(1)
    try:
        assert os.read(there, 1) == b"!"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_second_driver_is_told_and_a_killed_one_is_replaced_at_once(recipe, tmp_path):
    run = tiny_run.load(recipe, tmp_path / "root")
    with other_driver(tmp_path / "root") as child:
        before = tiny_run.tree(run.root)
        with pytest.raises(ValueError, match=rf"another driver works on .*: process {child} on"):
            execute(("generate",), run, Inline())
        assert tiny_run.tree(run.root) == before
    store = open_store(run.root)
    assert list(store.list()) == [layout.driver(1)]  # what the killed one left
    with holding(store):
        assert list(store.list(layout.drivers())) == [layout.driver(1), layout.driver(2)]
    assert not list(store.list())


def test_a_dead_process_that_nobody_reaped_holds_nothing(tmp_path):
    store = open_store(str(tmp_path))
    with other_driver(tmp_path) as child:
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        with holding(store):
            pass
    assert not list(store.list())


def left_elsewhere(root: Path, beat: int) -> None:
    """Write what a driver of another machine would."""
    record = {"host": "far", "pid": 1, "machine": "other", "process_began": 1, "token": "t"}
    key = layout.driver(7)
    open_store(str(root)).write(key, json.dumps({**record, "beat": beat, "beat_s": 0.2}).encode())


def test_a_driver_of_another_machine_is_known_by_its_signs_of_life(tmp_path, capsys):
    left_elsewhere(tmp_path, 0)
    ended = threading.Event()

    def live() -> None:
        beat = 0
        while not ended.wait(0.05):
            left_elsewhere(tmp_path, beat := beat + 1)

    living = threading.Thread(target=live)
    living.start()
    try:
        with (
            pytest.raises(ValueError, match="process 1 on far"),
            holding(open_store(str(tmp_path))),
        ):
            pass
    finally:
        ended.set()
        living.join()
    with holding(open_store(str(tmp_path))):
        assert open_store(str(tmp_path)).exists(layout.driver(8))
    assert "waiting up to 1 s for a sign of life" in capsys.readouterr().out
    assert not list(open_store(str(tmp_path)).list())


def test_of_many_that_start_at_once_one_holds_the_root(tmp_path):
    start, tried = threading.Barrier(6), threading.Barrier(6)
    outcomes: list[str] = []

    def begin() -> None:
        start.wait()
        try:
            with holding(open_store(str(tmp_path))):
                outcomes.append("holds")
                tried.wait(60)
        except ValueError as error:
            outcomes.append(str(error))
            tried.wait(60)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("holds") == 1
    assert sum("another driver works" in outcome for outcome in outcomes) == 5


def test_signs_of_life_are_given_while_the_root_is_held(tmp_path):
    store = open_store(str(tmp_path))
    with holding(store, beat_s=0.02):
        deadline = time.monotonic() + 60
        while json.loads(store.read(layout.driver(1)))["beat"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert not list(store.list())
