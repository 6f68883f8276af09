"""Killed before any change of the store, a stage resumes to the bytes of an uninterrupted run."""

import itertools
import os
import shutil
from pathlib import Path

import pytest

from tests import crashing_store, tiny_run
from valign import config
from valign.stages.execute import execute
from valign.stages.inline import Inline


@pytest.mark.slow
@pytest.mark.parametrize("stage", config.STAGES)
def test_a_stage_killed_at_any_write_resumes_to_the_same_bytes(stage, recipe, finished, tmp_path):
    before = tmp_path / "before"
    _copy(finished, before, config.STAGES[: config.STAGES.index(stage)])
    wanted = tiny_run.tree(finished)
    wanted = {key: value for key, value in wanted.items() if not _later(key, stage)}
    for at in itertools.count(1):
        root = tmp_path / f"killed-{at}"
        shutil.copytree(before, root)
        code = _in_child(recipe, crashing_store.crashing_root(root, at), stage)
        if code != 0:
            assert code == crashing_store.EXIT_CODE
            assert tiny_run.tree(root) != wanted
            assert _in_child(recipe, str(root), stage) == 0
        assert tiny_run.tree(root) == wanted, f"killed before change {at}"
        shutil.rmtree(root)
        if code == 0:
            break
    assert at > 4, "the stage made too few changes for this test to mean anything"


def _in_child(recipe: Path, root: str, stage: str) -> int:
    """Execute a stage in a forked process, which a crashing store may end; return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            execute((stage,), tiny_run.load(recipe, root), Inline())
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _copy(finished: Path, root: Path, stages: tuple[str, ...]) -> None:
    root.mkdir()
    for stage in stages:
        shutil.copytree(finished / stage, root / stage)


def _later(key: str, stage: str) -> bool:
    return key.split("/", maxsplit=1)[0] in config.STAGES[config.STAGES.index(stage) + 1 :]
