"""A server of a test's own, started as users start it, on the miniature's generator.

Its value encoders are copies of the text encoder with noise: real ones, which change images in ways
that mean nothing. The scorers are the miniature's.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from tests.ray_head import free_ports, tree
from valign import config
from valign.models.aligned import save_aligned
from valign.models.generator import load_generator
from valign.models.sampler import Sampler
from valign.models.value_encoder import ValueEncoder
from valign.serving.access import new_key
from valign.stages.generator import fetched
from valign.storage import layout

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
def running(folder: Path, *settings: str) -> Iterator[Server]:
    """Start `valign serve` with one API key, wait until it is ready, and end it."""
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
    }
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "valign.cli", "serve", str(root), *words]
    process, log = start(command, environment, folder, f"{url}/readyz")
    try:
        yield Server(url, key, root, keys, process.pid, ray)
    finally:
        print(log.read_text()[-2000:])
        end(process)
        shutil.rmtree(ray, ignore_errors=True)


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
