"""The hand that hurts a local cluster at seeded random moments, and counts what it did.

Faults: actors, nodes, the driver, the head and the S3 service are killed; nodes and the S3 service
are stopped for a while; the S3 service is slowed. Whatever was killed is started again as it was.
"""

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import ray_head
from valign.on_ray import local_cluster

NODES = 4
Environment = dict[str, str]


@dataclass
class Hand:
    """A cluster with its driver, and what is done to them.

    Args:
        folder: of the cluster.
        command: the driver's.
        log: what the driver says goes to its end.
        chance: where moments and victims come from.
    """

    folder: Path
    command: list[str]
    log: Path
    chance: random.Random
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    known: dict[str, tuple[list[bytes], dict[bytes, bytes]]] = field(default_factory=dict)
    drivers: int = 0
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    driver: subprocess.Popen[bytes] | None = None

    @property
    def faults(self) -> dict[str, Callable[[], bool]]:
        """What can be done, by name; each says whether it hit something."""
        return {
            "kill actor": self.kill_actor,
            "kill node": lambda: self.kill(f"node-{self.chance.randint(1, NODES)}"),
            "kill s3": lambda: self.kill("s3"),
            "kill driver": self.kill_driver,
            "kill head": self.replace_cluster,
            "pause node": lambda: self.pause(f"node-{self.chance.randint(1, NODES)}", 5.0),
            "pause s3": lambda: self.pause("s3", 8.0),
            "slow s3": self.slow_s3,
        }

    def strike(self, name: str) -> None:
        """Do one thing to the cluster, and count it if it hit."""
        self.done[name] += self.faults[name]()

    def drive(self) -> None:
        """Start a driver; it goes on where another stopped."""
        self.drivers += 1
        environment = {**os.environ, **local_cluster.environment(self.folder)}
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def pid(self, name: str) -> int:
        """Return the number of a process of the cluster."""
        processes = local_cluster.read(self.folder)["processes"]
        return next(process["pid"] for process in processes if process["name"] == name)

    def kill_driver(self) -> bool:
        """Kill the driver, if one runs, and start the next."""
        assert self.driver is not None
        if self.driver.poll() is not None:
            return False
        ray_head.kill(self.driver)
        self.drive()
        return True

    def kill_actor(self) -> bool:
        """Kill one process of a node that does work."""
        nodes = [self.pid(f"node-{number}") for number in range(1, NODES + 1)]
        workers = sorted(pid for node in nodes for pid in ray_head.tree(node) if _works(pid))
        if not workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(workers), signal.SIGKILL)
        return True

    def start_cluster(self) -> None:
        """Start a cluster, and note how each of its processes was started."""
        local_cluster.start(self.folder, nodes=NODES, cpus=1, gpus=0, s3=True)
        for process in local_cluster.read(self.folder)["processes"]:
            place = Path(f"/proc/{process['pid']}")
            words = (place / "cmdline").read_bytes().split(b"\0")[:-1]
            lines = (place / "environ").read_bytes().split(b"\0")[:-1]
            environment = {key: value for key, _, value in (line.partition(b"=") for line in lines)}
            self.known[process["name"]] = (words, environment)

    def keep(self) -> None:
        """Start again what ended by itself: on a busy machine a node may take Ray too long."""
        for process in local_cluster.read(self.folder)["processes"]:
            if local_cluster.began(process["pid"]) is None and process["name"] != "head":
                self.start_again(process["name"])

    def kill(self, name: str) -> bool:
        """Kill a node or the service with all that belongs to it; start it again as it was."""
        for each in ray_head.tree(self.pid(name)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(1)  # its ports are free again
        self.start_again(name)
        return True

    def start_again(self, name: str) -> None:
        """Start a process of the cluster as it was started before."""
        words, environment = self.known[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            started = subprocess.Popen(
                words,
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.children.append(started)
        state = local_cluster.read(self.folder)
        for process in state["processes"]:
            if process["name"] == name:
                process |= {"pid": started.pid, "began": local_cluster.began(started.pid)}
        (self.folder / "cluster.json").write_text(json.dumps(state))

    def replace_cluster(self) -> bool:
        """Kill head, nodes and service at once, and start others; the bucket's data are there."""
        for process in local_cluster.read(self.folder)["processes"]:
            for pid in ray_head.tree(process["pid"]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.end_driver()
        local_cluster.stop(self.folder)
        self.start_cluster()
        self.drive()
        return True

    def pause(self, name: str, seconds: float) -> bool:
        """Stop all processes of a node or the service for some seconds."""
        family = ray_head.tree(self.pid(name))
        _signal(family, signal.SIGSTOP)
        time.sleep(seconds)
        _signal(family, signal.SIGCONT)
        return True

    def slow_s3(self) -> bool:
        """Let the service run a tenth of the time, for ten seconds."""
        family = ray_head.tree(self.pid("s3"))
        for _ in range(20):
            _signal(family, signal.SIGSTOP)
            time.sleep(0.45)
            _signal(family, signal.SIGCONT)
            time.sleep(0.05)
        return True

    def end_driver(self) -> None:
        """End the driver, if one runs."""
        if self.driver is not None:
            ray_head.kill(self.driver)


def _works(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    return False


def _signal(family: set[int], number: signal.Signals) -> None:
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
