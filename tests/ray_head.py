"""A Ray head of a test's own, with a dashboard and token authentication, beside any others.

A head takes its temporary folder (short: a Unix socket's path holds 107 bytes) and every port that
Ray would otherwise take by default, so that any number of clusters can run on one machine. The job
agent's port matters most: a head that finds 52365 taken runs on without that agent, and answers
every submission with "No available agent to submit job".
"""

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray.util

START_S = 240
TOKEN = "a-token-for-tests-only-0123456789abcdef"


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        gcs: `host:port` that drivers and other nodes join (RAY_ADDRESS).
        jobs: URL that jobs are submitted to.
        environment: what a process needs to talk to it.
        folder: its temporary folder, with logs and uploads.
    """

    gcs: str
    jobs: str
    environment: dict[str, str]
    folder: Path


@contextlib.contextmanager
def running(*, cpus: int = 4, **variables: str) -> Iterator[Head]:
    """Start a head, wait until jobs can be submitted, and end it with all its processes.

    Args:
        cpus: CPUs it offers.
        variables: environment that it and its workers see.
    """
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder, node = Path(name), ray.util.get_node_ip_address()
        environment = {**_environment(folder), **variables}
        gcs, jobs, agent, client = free_ports(4)
        words = [
            *("ray", "start", "--head", "--block", f"--num-cpus={cpus}", f"--port={gcs}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}"),
            *(f"--ray-client-server-port={client}", *agent_words(agent)),
            f"--temp-dir={folder / 't'}",
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                words, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            for host, port in (("127.0.0.1", jobs), (node, agent)):
                wait_for(host, port, process)
            yield Head(f"{node}:{gcs}", f"http://127.0.0.1:{jobs}", environment, folder / "t")
        finally:
            if process.poll() is not None:
                print(f"the Ray head ended by itself with {process.poll()}:\n{_logs(folder)}")
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a head or a node with all its processes, as a power cut would."""
    for each in tree(process.pid) if process.poll() is None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    process.wait()


def tree(pid: int) -> set[int]:
    """Return a process and all that descend from it."""
    children = collections.defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may be gone by now
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children[parent].append(int(status.parent.name))
    found, todo = set(), [pid]
    while todo:
        found.add(one := todo.pop())
        todo += children[one]
    return found


def agent_words(listen_port: int) -> list[str]:
    """Return options of `ray start` that give a node's agents their ports.

    Ports that the agents choose themselves must be told to the node in a fixed number of seconds,
    which they miss on a busy machine.
    """
    names = ("dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")
    chosen = dict(zip(names, free_ports(len(names)), strict=True))
    ports = {"dashboard-agent-listen-port": listen_port, **chosen}
    return [f"--{name}={port}" for name, port in ports.items()]


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _environment(folder: Path) -> dict[str, str]:
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_timeout_ms": "60000",  # busy is not dead ...
        "RAY_health_check_period_ms": "500",  # ... but the dead are noticed soon
    }


def _logs(folder: Path) -> str:
    """Return the ends of what may tell why a head ended."""
    found = [folder / "log", *folder.glob("t/session_2*/logs/*exit.log")]
    found += folder.glob("t/session_2*/logs/raylet.*")
    return "\n".join(f"{file.name}: {file.read_text()[-1500:]}" for file in found)


def wait_for(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a starting head or node listens."""
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
            return
        assert process.poll() is None, "Ray ended while it started"
        assert time.monotonic() < deadline, f"Ray did not listen on {host}:{port}"
        time.sleep(0.2)
