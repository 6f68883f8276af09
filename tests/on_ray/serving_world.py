"""A server of a test's own, started as users start it, on the miniature's generator.

Its value encoders are copies of the text encoder with noise: real ones, which change images in ways
that mean nothing. The scorers are the miniature's.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest.mock
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from tests import seaweed
from tests.ray_head import free_ports, tree
from valign import config
from valign.models.aligned import save_aligned
from valign.models.generator import load_generator
from valign.models.sampler import Sampler
from valign.models.value_encoder import ValueEncoder
from valign.serving.access import new_key
from valign.stages.generator import fetched
from valign.storage import layout
from valign.storage.objects import open_store

TEXTS = {"gender": "gender equality", "nudity": "nudity content is considered inappropriate"}
START_S = 900
TRIES = 4
RAY_WAS_SLOW = "The current node timed out during startup"
WEIGHTS = "package:valign.miniature/weights"
SCORERS = [
    {"name": "clip", "kind": "clip", "source": f"{WEIGHTS}/clip"},
    {"name": "pickscore", "kind": "pickscore", "source": f"{WEIGHTS}/pickscore"},
    {"name": "gender", "kind": "zero_shot", "source": f"{WEIGHTS}/clip",
     "classes": ["male", "female"]},
    {"name": "toxicity", "kind": "toxicity_head", "source": f"{WEIGHTS}/toxicity"},
]  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    key: str
    root: Path
    keys: Path
    pid: int
    ray: Path  # Ray's folder, with all logs


def ask(server: Server, path: str, body: object = None, **headers: str):
    """Return status, decoded body and headers of a POST (or a GET, without a body)."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url + path, data, sent)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, _decoded(answer.read()), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, _decoded(error.read()), dict(error.headers)


def _decoded(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return data


def build(root: Path, *, seed: int = 1) -> Path:
    """Write a run's root with a recipe and an aligned model that is not trained."""
    run = config.load("miniature", [f"root={root}", "sampling.steps=2"])
    generator = load_generator(str(fetched(run).folder))
    encoder = ValueEncoder.from_generator(generator, TEXTS)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=noise))
    save_aligned(
        root / layout.ALIGNED, encoder, base=run.generator, card="# aligned\n",
        sampler=Sampler(steps=2),
    )  # fmt: skip
    recipe = yaml.safe_load(config.dump(run))
    recipe["score"]["scorers"] = SCORERS
    (root / layout.RECIPE).write_text(yaml.safe_dump(recipe))
    return root


@contextlib.contextmanager
def running(folder: Path, *settings: str, bucket: str = "") -> Iterator[Server]:
    """Start `valign serve` with one API key, wait until it is ready, and end it.

    Args:
        folder: for the run's root, keys and logs.
        settings: key=value.
        bucket: URL of an S3 service that the run is served from, in place of the folder.
    """
    root, keys = build(folder / "root"), folder / "keys.jsonl"
    key, line = new_key("tester", requests_per_minute=100_000, concurrent=1_000)
    keys.write_text(line + "\n")
    (port,) = free_ports(1)
    words = [f"serve.port={port}", f"serve.keys={keys}", *settings]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    ray = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path holds 107 bytes
    environment |= {
        "RAY_TMPDIR": str(ray),
        "PYTHONUNBUFFERED": "1",
        "RAY_worker_niceness": "0",  # as other tests have it
        "RAY_health_check_timeout_ms": "60000",  # busy is not dead
        "RAY_metrics_report_interval_ms": "500",
    }
    target = str(root)
    if bucket:
        environment |= seaweed.environment(bucket)
        target = upload(root, bucket)
        words.append(f"serve.audit={root / 'serve/audit.jsonl'}")
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "valign.cli", "serve", target, *words]
    process, log = start(command, environment, folder, f"{url}/readyz")
    try:
        yield Server(url, key, root, keys, process.pid, ray)
    finally:
        print(log.read_text()[-2000:])
        end(process)
        shutil.rmtree(ray, ignore_errors=True)


def upload(root: Path, bucket: str) -> str:
    """Copy a folder to an S3 service and return its URL there."""
    with unittest.mock.patch.dict(os.environ, seaweed.environment(bucket)):
        store = open_store(f"s3://bucket/{root.parent.name}")
        for file in root.rglob("*"):
            if file.is_file():
                store.write(str(file.relative_to(root)), file.read_bytes())
    return store.url


def processes(server: Server, name: str) -> dict[int, int]:
    """Return the server's processes with a name among their words, and their MiB in memory."""
    found = {}
    for pid in tree(server.pid):
        with contextlib.suppress(OSError, IndexError):  # it may be gone by now
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            status = Path(f"/proc/{pid}/status").read_text()
            if name.encode() in words:
                found[pid] = int(status.partition("VmRSS:")[2].split()[0]) // 1024
    return found


def metrics(server: Server) -> str:
    """Return the page of Ray's metrics port, which its agent chose itself and wrote down."""
    (file,) = server.ray.glob("ray/session_latest/metrics_export_port_*")
    with urllib.request.urlopen(f"http://127.0.0.1:{file.read_text()}/metrics", timeout=60) as page:
        return page.read().decode()


def counted(server: Server, name: str, *labels: str) -> float:
    """Return the sum of a metric over all lines that have these labels."""
    lines = metrics(server).splitlines()
    mine = [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.split()[-1]) for line in mine if all(one in line for one in labels))


def raw(server: Server, head: str, body: bytes = b"", wait_s: float = 20) -> bytes:
    """Send bytes as they are and return what comes back until the server hangs up or is silent."""
    address = urllib.parse.urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=wait_s) as link:
        link.sendall(head.replace("\n", "\r\n").encode() + body)
        try:
            return link.recv(65536)
        except TimeoutError:
            return b""


def start(
    command: list[str], environment: dict[str, str], folder: Path, url: str
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a server, again if Ray gave its own start too little time, and wait for it."""
    for attempt in range(TRIES):
        log = folder / f"log{attempt}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        if _ready(url, process):
            return process, log
        end(process)
        assert RAY_WAS_SLOW in log.read_text(), f"it did not start:\n{log.read_text()[-3000:]}"
    raise AssertionError(f"Ray did not start in {TRIES} tries")


def _ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server is ready; say whether it is."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            urllib.request.urlopen(url, timeout=30)
            return True
        time.sleep(0.5)
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to stop, and kill whatever is left of it after a while."""
    left = tree(process.pid) if process.poll() is None else set()
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    for each in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    process.wait()
