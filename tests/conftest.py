"""What every test process and its children start with: one thread, no telemetry, no network."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import seaweed

# How long an example takes is the machine's affair, not the code's.
settings.register_profile("valign", deadline=None)
settings.load_profile("valign")
os.environ.update(
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    HF_HUB_OFFLINE="1",
    AWS_EC2_METADATA_DISABLED="true",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick answers first: plain tests, then slow ones, then the ones that start Ray."""
    items.sort(
        key=lambda i: (
            i.get_closest_marker("ray") is not None,
            i.get_closest_marker("slow") is not None,
        )
    )


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real S3 service with a bucket named `bucket`; `seaweed.environment` leads there."""
    with seaweed.running(tmp_path_factory.mktemp("weed")) as url:
        yield url
