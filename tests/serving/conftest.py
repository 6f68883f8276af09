"""One small generator for every test of this room."""

import pytest

from tests import tiny
from valign.models.generator import load_generator


@pytest.fixture(scope="session")
def generator(tmp_path_factory):
    return load_generator(str(tiny.build_generator(tmp_path_factory.mktemp("generator"))))
