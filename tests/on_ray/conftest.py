"""One server for every test that asks one: on Ray Serve, or its HTTP alone in this process."""

from collections.abc import Iterator

import pytest

from tests.on_ray.local_server import Parts, load, local
from tests.on_ray.serving_world import Server, running

SETTINGS = (
    *("serve.max_body_mib=1", "serve.max_pixels=16384", "serve.body_timeout_s=2"),
    *("serve.deadline_s=240", "serve.queue=48"),  # busy machines run tests too
)


@pytest.fixture(scope="session")
def server(weed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the miniature, with one key, on Ray Serve, from a bucket."""
    settings = (*SETTINGS, "serve.body_timeout_s=15")  # 200 bodies take their time
    with running(tmp_path_factory.mktemp("server"), *settings, bucket=weed) as server:
        yield server


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The models and scorers of servers without Ray."""
    return load(tmp_path_factory.mktemp("parts"), *SETTINGS)


@pytest.fixture(scope="session")
def site(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same server without Ray."""
    with local(tmp_path_factory.mktemp("site"), parts, *SETTINGS) as (site, _):
        yield site
