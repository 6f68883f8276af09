"""One tiny world per session; one thread per process."""

from pathlib import Path

import pytest
import torch
import training_world as worlds


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    return worlds.build(Path(tmp_path_factory.mktemp("training")))
