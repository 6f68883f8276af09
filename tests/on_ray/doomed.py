"""Runs on Ray whose processes are killed from outside, at moments that the work itself reaches.

A list of kills is carried out in order. A worker that reaches the moment of the next one asks for
it by a file, and does nothing more; whoever watches (`killer.py`) then ends the victim by SIGKILL.
So every kill happens, at a known place in the work, however fast or slow the machine is.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valign import config
from valign.on_ray.cluster import Cluster
from valign.settings import Resources
from valign.stages.work import Shard, ShardReport, ShardWorker
from valign.storage.files import FileStore
from valign.storage.objects import SCHEMES, open_store


@dataclass(frozen=True)
class Kill:
    """Who is killed when.

    Attributes:
        victim: "worker", "node" (the worker's, with all its processes) or "driver".
        stage: verb of the stage.
        change: what the key has in it whose change a worker is about to make; in training
            `refresh` is the middle of a refresh of the reference.
        late: whether the change is made before the kill.
        finished: how many shards of the stage must be done.
    """

    victim: str
    stage: str
    change: str
    late: bool = False
    finished: int = 0


@dataclass(frozen=True)
class Doom:
    """The kills of a run, and the folder where they are asked for and noted."""

    kills: tuple[Kill, ...]
    folder: str

    def meet(self, store: FileStore, key: str, late: bool) -> None:
        """Ask for the next kill, if this is its moment, and wait for it."""
        folder = Path(self.folder)
        number = len(list(folder.glob("killed-*")))
        if number == len(self.kills):
            return
        kill = self.kills[number]
        here = key.startswith(f"{kill.stage}/") and kill.change in key and kill.late == late
        if not here or sum("/done/" in k for k in store.list(f"{kill.stage}/")) < kill.finished:
            return
        asking = folder / f".{secrets.token_hex(8)}"
        asking.write_text(str(os.getpid()))
        try:
            os.link(asking, folder / f"asked-{number}")
        except FileExistsError:
            return  # another worker is about to meet it
        while True:
            time.sleep(1)


class DoomedStore(FileStore):
    """A folder whose changes may be moments of kills; it notes which shards were begun."""

    def write(self, key: str, data: bytes | Path) -> None:
        _doom.meet(self, key, late=False)
        super().write(key, data)
        _doom.meet(self, key, late=True)

    def create(self, key: str, data: bytes | Path) -> bool:
        _doom.meet(self, key, late=False)
        made = super().create(key, data)
        if made and "/attempts/" in key:
            name = key.replace("/", ":")
            (Path(_doom.folder) / f"began-{name}-{secrets.token_hex(4)}").touch()
        _doom.meet(self, key, late=True)
        return made


_doom = Doom((), "")


class DoomedWorker:
    """A stage's worker whose store knows the kills."""

    def __init__(self, doom: Doom, worker: Callable[..., ShardWorker], args: Sequence[Any]) -> None:
        _arm(doom)
        self.worker = worker(*args)

    def __call__(self, shard: Shard) -> ShardReport:
        return self.worker(shard)


class DoomedCluster(Cluster):
    """A cluster whose workers know the kills."""

    def __init__(self, resources: Resources, doom: Doom) -> None:
        super().__init__(resources)
        self.doom = doom

    def map_shards(
        self, worker: Callable[..., ShardWorker], args: Any, shards: Sequence[Shard], **where: str
    ) -> Iterator[ShardReport]:
        return super().map_shards(DoomedWorker, (self.doom, worker, args), shards, **where)

    def launch(self, function: Callable[..., None], args: tuple[Any, ...], workers: int) -> None:
        super().launch(_doomed, (self.doom, function, args), workers)


def drive(
    log: Path, kills: Sequence[Kill], folder: str, recipe: str, root: str, *words: str
) -> None:
    """Be the driver, in a process of its own.

    Args:
        log: what is said goes to its end.
        kills: all of the run's, in order, also those that were carried out.
        folder: where they are asked for and noted.
        recipe: path of a recipe.
        root: URL of the run's root.
        words: stages, joined by spaces, and overrides.
    """
    from valign.stages.execute import execute  # workers need not know all stages

    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    run = config.load(recipe, [f"root={root}", *words[1:]])
    doom = Doom(tuple(kills), folder)
    _arm(doom)  # label works in the driver itself
    execute(words[0].split(), run, DoomedCluster(run.resources, doom))


def _doomed(doom: Doom, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    _arm(doom)
    _watch_refreshes(open_store(args[0].root))
    function(*args)


def _watch_refreshes(store: Any) -> None:
    """Let `train/refresh` be the moment when a reference's first parameter is copied, no other."""
    from valign.training.any_engine import Engine

    whole = Engine.refresh_reference

    def refresh(engine: Any) -> None:
        changed = engine._changed

        def meet(parameter: Any) -> None:
            _doom.meet(store, "train/refresh", late=False)
            changed(parameter)

        engine._changed = meet
        whole(engine)
        del engine._changed

    Engine.refresh_reference = refresh  # type: ignore[method-assign]


def _arm(doom: Doom) -> None:
    global _doom  # noqa: PLW0603  (a process has one fate)
    _doom = doom
    SCHEMES["file"] = DoomedStore.open
