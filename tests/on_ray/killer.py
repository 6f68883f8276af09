"""A local cluster of several nodes, and the hand that kills its processes."""

import collections
import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import subprocess
import time
import unittest.mock
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import ray.util

from tests import ray_head
from tests.on_ray import doomed
from tests.on_ray.doomed import Kill
from tests.ray_head import Head

REPOSITORY = Path(__file__).parents[2]
DRIVERS = multiprocessing.get_context("forkserver")
RUN_S = 3600


class Nodes:
    """A head without CPUs, which holds the driver, and nodes of two CPUs each, which do the work.

    Args:
        head: the head.
        count: number of nodes.
    """

    def __init__(self, head: Head, count: int = 2) -> None:
        self.head = head
        self.count = count
        self.agents: dict[subprocess.Popen[bytes], int] = {}  # the port of each node's agent

    def keep(self) -> bool:
        """Start a node if one is lacking; say whether all are up.

        One that was killed is replaced, and so is one that Ray gave up, as it does on a machine too
        busy to start it in half a minute. Two that started at once would take the same names.
        """
        self.agents = {node: port for node, port in self.agents.items() if node.poll() is None}
        if not all(_listens(port) for port in self.agents.values()):
            return False
        if len(self.agents) == self.count:
            return True
        (port,) = ray_head.free_ports(1)
        node = subprocess.Popen(
            [
                *("ray", "start", f"--address={self.head.gcs}", "--block", "--num-cpus=2"),
                *ray_head.agent_words(port),
            ],
            env=self.head.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.agents[node] = port
        return False

    def kill_node_of(self, pid: int) -> None:
        """End the node that a process belongs to."""
        (node,) = (node for node in self.agents if pid in ray_head.tree(node.pid))
        ray_head.kill(node)

    def end(self) -> None:
        """End all nodes."""
        for node in self.agents:
            ray_head.kill(node)


def _listens(port: int) -> bool:
    agent = (ray.util.get_node_ip_address(), port)
    with contextlib.suppress(OSError), socket.create_connection(agent, timeout=2):
        return True
    return False


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """Start a head, two nodes, and what drivers are forked from; end the head and the nodes."""
    with ray_head.running(cpus=0, PYTHONPATH=str(REPOSITORY)) as head:
        DRIVERS.set_forkserver_preload([doomed.__name__, "valign.stages.execute", "ray.data"])
        with unittest.mock.patch.dict(os.environ, head.environment, RAY_ADDRESS=head.gcs):
            multiprocessing.forkserver.ensure_running()  # Ray reads its token's path as it loads
        started = Nodes(head)
        started.keep()
        try:
            yield started
        finally:
            started.end()


def run(
    nodes: Nodes, kills: Sequence[Kill], folder: Path, recipe: Path, root: Path, *words: str
) -> collections.Counter[tuple[str, str]]:
    """Drive a run to its end through all kills; return how many hit (stage, victim).

    Args:
        nodes: where it runs.
        kills: what happens to it, in order.
        folder: an empty folder for notes. "began-<claim of a shard>-*" stay there, and for each
            driver killed "left-*": the keys by which killed drivers seem to hold the root.
        recipe: the tiny recipe.
        root: the run's root.
        words: stages, joined by spaces, and overrides.
    """
    log = folder / "driver.log"

    def start() -> BaseProcess:
        driver = DRIVERS.Process(
            target=doomed.drive,
            args=(log, kills, str(folder), str(recipe), root.as_uri(), *words),
        )
        driver.start()
        return driver

    deadline = time.monotonic() + RUN_S
    while not nodes.keep():
        assert time.monotonic() < deadline, "the nodes did not start"
        time.sleep(0.2)
    driver, hit = start(), collections.Counter[tuple[str, str]]()
    try:
        while driver.is_alive():
            assert time.monotonic() < deadline, f"stuck after {hit}: {log.read_text()[-3000:]}"
            time.sleep(0.1)
            nodes.keep()
            number = hit.total()
            asked = folder / f"asked-{number}"
            if number == len(kills) or not asked.exists():
                continue
            kill, pid = kills[number], int(asked.read_text())
            if kill.victim == "driver":
                driver.kill()
                driver.join()
                left = sorted(file.name for file in (root / "drivers").iterdir())
                (folder / f"left-{number}").write_text(" ".join(left))
            elif kill.victim == "node":
                nodes.kill_node_of(pid)
            else:
                os.kill(pid, signal.SIGKILL)
            hit[kill.stage, kill.victim] += 1
            (folder / f"killed-{number}").touch()
            if kill.victim == "driver":
                driver = start()
    finally:
        driver.kill()
        driver.join()
    assert driver.exitcode == 0, log.read_text()[-5000:]
    return hit
