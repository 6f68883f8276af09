"""Callers of a server: closed and open loops, and what its processes have in memory."""

import base64
import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil

from shared.serve_direct import BATCH, PROMPT, STEPS

ANSWERED, BUSY = 200, 503


@dataclass(frozen=True)
class Loop:
    """What a loop found: answered requests per second, their latencies, and refusals."""

    rate: float
    p50_s: float
    p99_s: float
    answered: int
    refused: int

    @classmethod
    def of(cls, taken: Sequence[float], seconds: float, refused: int = 0) -> "Loop":
        """Return the figures of the seconds that each request took."""
        p50, p99 = (float(np.quantile(taken, share)) for share in (0.5, 0.99))
        return cls(len(taken) / seconds, p50, p99, len(taken), refused)

    def __str__(self) -> str:
        return (
            f"{self.rate:.1f}/s, median {1000 * self.p50_s:.0f} ms, p99 {1000 * self.p99_s:.0f} ms "
            f"({self.answered} answered, {self.refused} refused)"
        )


class Asker:
    """Asks a server; each thread keeps a connection of its own."""

    def __init__(self, port: int, picture: bytes) -> None:
        self._port = port
        self._links = threading.local()
        item = {"image": base64.b64encode(picture).decode(), "prompt": PROMPT}
        self._one = json.dumps({"items": [item]})
        self._batch = json.dumps({"items": [item] * BATCH})

    def image(self, number: int, steps: int = STEPS) -> int:
        """Ask for one image; return the status."""
        body = {"prompt": PROMPT, "seed": number, "num_inference_steps": steps}
        return self._post("/v1/images/generations", json.dumps(body))

    def scores(self, _: int) -> int:
        """Ask for the scores of a batch of pictures."""
        return self._post("/v1/score", self._batch)

    def one(self, _: int) -> int:
        """Ask for the scores of one picture."""
        return self._post("/v1/score", self._one)

    def _post(self, path: str, body: str) -> int:
        """Return the status, of an answer or of a server that is busy.

        Raises:
            RuntimeError: it is neither.
        """
        link = getattr(self._links, "link", None)
        if link is None:
            link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
            self._links.link = link
        link.request("POST", path, body, {"Content-Type": "application/json"})
        answer = link.getresponse()
        said = answer.read()
        if answer.status not in (ANSWERED, BUSY):
            raise RuntimeError(f"{path} was answered {answer.status}: {said[:300]!r}")
        return answer.status


def closed(work: Callable[[int], int], callers: int, seconds: float) -> Loop:
    """Keep so many callers asking; only requests that are answered count."""
    taken: list[float] = []
    refused: list[int] = []
    began = time.perf_counter()
    end = began + seconds

    def caller(number: int) -> None:
        while (start := time.perf_counter()) < end:
            status = work(number)
            if status == ANSWERED:
                taken.append(time.perf_counter() - start)
            else:
                refused.append(status)
            number += callers

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(caller, range(callers)))
    return Loop.of(taken, time.perf_counter() - began, len(refused))


def opened(work: Callable[[int], int], per_s: float, seconds: float) -> Loop:
    """Send requests at random moments; a request's time counts from when it was due."""
    chance = random.Random(0)
    taken: list[float] = []
    refused: list[int] = []

    def one(number: int, due: float) -> None:
        status = work(number)
        if status == ANSWERED:
            taken.append(time.perf_counter() - due)
        else:
            refused.append(status)

    began = due = time.perf_counter()
    with ThreadPoolExecutor(128) as pool:
        number, sent = 0, []
        while (due := due + chance.expovariate(per_s)) < began + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            sent.append(pool.submit(one, number, due))
            number += 1
        for each in sent:
            each.result()
    return Loop.of(taken, time.perf_counter() - began, len(refused))


def grown(work: Callable[[int], int], callers: int, numbers: Sequence[int]) -> None:
    """Ask once for every number, until each is answered."""

    def one(number: int) -> None:
        while work(number) != ANSWERED:
            time.sleep(0.1)

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(one, numbers))


def parts_mib(driver: int) -> dict[str, float]:
    """Return the resident MiB of the server's processes, by what they are."""
    found: dict[str, float] = {}
    for process in psutil.Process(driver).children(recursive=True):
        try:
            words = " ".join(process.cmdline())
            memory = process.memory_info().rss / 2**20
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        for name in ("ingress", "retriever", "generator", "evaluator"):
            if f"ServeReplica:valign:{name}" in words:
                found[name] = found.get(name, 0.0) + memory
        if "ray::ProxyActor" in words:
            found["proxy"] = found.get("proxy", 0.0) + memory
    return found
