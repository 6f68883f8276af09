"""Tiny random models, built once per test session."""

import pytest
import torch

from tests.tiny import build_clip, build_generator, build_sdxl, build_toxicity_head
from valign.models.generator import Generator, load_generator

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def generator_folder(tmp_path_factory):
    return build_generator(tmp_path_factory.mktemp("tiny") / "generator")


@pytest.fixture(scope="session")
def generator(generator_folder) -> Generator:
    return load_generator(str(generator_folder))


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory):
    return build_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl")


@pytest.fixture(scope="session")
def sdxl(sdxl_folder) -> Generator:
    return load_generator(str(sdxl_folder))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("tiny") / "clip")


@pytest.fixture(scope="session")
def toxicity_folder(tmp_path_factory):
    return build_toxicity_head(tmp_path_factory.mktemp("tiny") / "toxicity")
