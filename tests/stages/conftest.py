"""The tiny recipe, built once."""

from pathlib import Path

import pytest

from tests import tiny_run


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a recipe over tiny random models."""
    return tiny_run.write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a tiny run that was done inline, without interruption."""
    from valign import config
    from valign.stages.execute import execute
    from valign.stages.inline import Inline

    root = tmp_path_factory.mktemp("finished")
    execute(config.STAGES, tiny_run.load(recipe, root), Inline())
    return root
