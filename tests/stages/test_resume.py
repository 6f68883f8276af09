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

# A small evaluation makes every kind of change that a large one makes.
FEW = ("evaluate.images_per_bias_prompt=2",)


@pytest.mark.slow
@pytest.mark.parametrize("stage", config.STAGES)
def test_a_stage_killed_at_any_write_resumes_to_the_same_bytes(stage, recipe, finished, tmp_path):
    before, whole = tmp_path / "before", tmp_path / "whole"
    before.mkdir()
    for earlier in config.STAGES[: config.STAGES.index(stage)]:
        shutil.copytree(finished / earlier, before / earlier)
    shutil.copytree(before, whole)
    assert _in_child(recipe, str(whole), stage) == 0
    wanted = tiny_run.tree(whole)
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
            execute((stage,), tiny_run.load(recipe, root, *FEW), Inline())
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
