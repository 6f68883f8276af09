"""The server's HTTP without Serve: the same application, desk and models in this process.

The deployments' classes are called through `Local`, which hands over what a `DeploymentHandle`
would. What Serve itself adds (batches, queues, processes that die) is tested with Serve.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvicorn

from tests.on_ray.serving_world import Server, build
from tests.ray_head import free_ports
from valign.config import Run
from valign.on_ray.deploy import routes
from valign.on_ray.desk import Desk
from valign.on_ray.edge import Edge
from valign.on_ray.replicas import Drawn, filed
from valign.serving.access import new_key
from valign.stages import serve as stage


class Retriever:
    def __init__(self, run: Run) -> None:
        self._find = stage.retriever(run)

    def find(self, prompt: str) -> tuple[str, str]:
        found = self._find(prompt)
        return found.principle, found.reason


class Generator:
    def __init__(self, run: Run) -> None:
        self.models = stage.load_models(run)
        stage.warm_up(self.models)

    def cards(self) -> Any:
        return self.models.cards

    def draw(self, request: Any, images: Any, known: dict[str, str]) -> Drawn:
        (made,) = self.models.answer([request])
        return filed(made, images, known)


class Evaluator:
    def __init__(self, run: Run) -> None:
        self.evaluator = stage.load_evaluator(run)

    def about(self) -> Any:
        columns = {name: asdict(info) for name, info in self.evaluator.columns.items()}
        return columns, self.evaluator.voters

    def score(self, pictures: Any) -> Any:
        return self.evaluator.score(pictures)


class Local:
    """Calls an object's methods as a handle does: `handle.method.remote(...)`, on one thread."""

    def __init__(self, target: object) -> None:
        self._target, self._lock = target, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        def work(*args: Any) -> Any:
            with self._lock:
                return method(*args)

        class Method:
            def remote(self, *args: Any) -> Any:
                return asyncio.ensure_future(asyncio.to_thread(work, *args))

        return Method()


@dataclass(frozen=True)
class Parts:
    """What is loaded once for any number of servers."""

    root: Path
    handles: tuple[Local, Local, Local]


def load(folder: Path, *settings: str) -> Parts:
    """Write a run's root and load its retriever, generator and evaluator."""
    root = build(folder / "root")
    run = stage.run_of(str(root), settings)
    return Parts(root, tuple(map(Local, (Retriever(run), Generator(run), Evaluator(run)))))


@contextlib.contextmanager
def local(folder: Path, parts: Parts, *settings: str) -> Iterator[tuple[Server, Edge]]:
    """Run the application under uvicorn on a thread, with one API key."""
    keys = folder / "keys.jsonl"
    key, line = new_key("tester", requests_per_minute=1_000_000, concurrent=1_000)
    keys.write_text(line + "\n")
    run = stage.run_of(str(parts.root), [f"serve.keys={keys}", *settings])
    stage.check(run)
    edge = Edge(run, Desk(run, *parts.handles))
    (port,) = free_ports(1)
    config = uvicorn.Config(routes(edge), host="127.0.0.1", port=port, log_level="error")
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        assert thread.is_alive(), "uvicorn ended"
        time.sleep(0.05)
    try:
        url, ray = f"http://127.0.0.1:{port}", folder / "ray"
        yield Server(url, key, parts.root, keys, os.getpid(), ray), edge
    finally:
        web.should_exit = True
        thread.join(30)
