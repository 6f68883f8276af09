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
from pathlib import Path
from typing import Any

import uvicorn

from tests.on_ray.serving_world import Server, build
from tests.ray_head import free_ports
from valign.config import Run
from valign.on_ray.deploy import Edge, routes
from valign.on_ray.desk import Desk
from valign.on_ray.replicas import Drawn
from valign.serving.access import new_key
from valign.stages import image_files
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
        data = b"" if made.fault else image_files.encode(made.image_HWC, images, known)
        return Drawn(data=data, fault=made.fault, fingerprint=made.fingerprint)


class Evaluator:
    def __init__(self, run: Run) -> None:
        self.evaluator = stage.load_evaluator(run)

    def about(self) -> Any:
        columns = self.evaluator.columns.items()
        return {
            name: {"higher_means": i.higher_means} for name, i in columns
        }, self.evaluator.voters

    def score(self, picture: Any) -> Any:
        return self.evaluator.score([picture])[0]


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


@contextlib.contextmanager
def local(folder: Path, *settings: str) -> Iterator[Server]:
    """Run the application under uvicorn on a thread, with one API key."""
    root, keys = build(folder / "root"), folder / "keys.jsonl"
    key, line = new_key("tester", requests_per_minute=1_000_000, concurrent=1_000)
    keys.write_text(line + "\n")
    run = stage.run_of(str(root), [f"serve.keys={keys}", *settings])
    stage.check(run)
    desk = Desk(run, *map(Local, (Retriever(run), Generator(run), Evaluator(run))))
    (port,) = free_ports(1)
    config = uvicorn.Config(routes(Edge(run, desk)), host="127.0.0.1", port=port, log_level="error")
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        assert thread.is_alive(), "uvicorn ended"
        time.sleep(0.05)
    try:
        yield Server(f"http://127.0.0.1:{port}", key, root, keys, os.getpid(), folder / "ray")
    finally:
        web.should_exit = True
        thread.join(30)
