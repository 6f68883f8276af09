#!/usr/bin/env python
"""Run the papers' full plan on the miniature, on Ray, and write docs/results/full_size.md.

    nohup python benchmarks/full_size.py > full_size.out &      # about two hours on two free cores
    python benchmarks/full_size.py --work runs/try --out runs/try generate.bias_prompts=10 \\
        generate.toxic_prompts=5                                # a small one, to see that it runs

generate, score, label and encode of the recipe miniature_full, with this process as the driver.
Every few seconds its memory, the workers' and that of Ray's own processes go to memory.csv under
the work folder, beside log.txt and the run itself. Killed, it goes on where it was when it is
started again; the page is made of what all its sessions wrote. Nothing on it is written by hand.
"""

import argparse
import contextlib
import csv
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shared.full_size_page import Sample, growth_mib, write
from shared.host import DRIVER, RAY, WORKERS, print_result, processes, resident

from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.execute import DATASET, execute
from valign.stages.work import Lines
from valign.storage import manifests
from valign.storage.objects import open_store

GOAL_MIB = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="key=value, that differ from the recipe")
    parser.add_argument("--recipe", default="miniature_full")
    parser.add_argument("--work", default="runs/full_size", help="folder of run, log and samples")
    parser.add_argument("--out", default="docs/results", help="folder of the page")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    arguments = parser.parse_args()
    work, out = Path(arguments.work), Path(arguments.out)
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    run = config.load(arguments.recipe, [f"root={work / 'run'}", *arguments.settings])
    store = open_store(run.root)
    left = [stage for stage in DATASET if manifests.get(store, stage) is None]
    with logged(work / "log.txt"), Sampler(work / "memory.csv", arguments.every) as sampler:
        for stage in left:
            sampler.begin(stage)
            execute((stage,), run, Cluster(run.resources), tell=sampler.tell)
            sampler.sample()
    samples = read(work / "memory.csv")
    words = " ".join([f"Recipe {arguments.recipe}", *arguments.settings])
    write(out, run, samples, (work / "log.txt").read_text(), words)
    grown = growth_mib(samples)
    print("growth of the driver's memory from 10,000 images to the last, the largest of all stages")
    print_result(
        benchmark="full size",
        figure=round(max(grown.values()), 1),
        goal=f"< {GOAL_MIB}",
        unit="MiB",
        spread=None,
    )


class Sampler:
    """Writes a row of memory every few seconds, and is told of progress by the stages."""

    def __init__(self, file: Path, every_s: float) -> None:
        self.stage, self.done = "", 0
        self._file, self._every_s = file, every_s
        self._session = 1 + max((sample.session for sample in read(file)), default=0)
        self._lines, self._lock, self._ended = Lines(30.0), threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, stage: str) -> None:
        """Say which stage is under way from now on."""
        self.stage, self.done = stage, 0
        self.sample()

    def tell(self, what: str, done: int, total: int, unit: str) -> None:
        """Note and print how far a stage is."""
        first = not self.done
        self.done = done
        self._lines(what, done, total, unit)
        if first or done == total:
            self.sample()

    def sample(self) -> None:
        """Write one row."""
        found = processes(os.getpid())
        mib = resident(found)
        workers = sum(process.kind == WORKERS for process in found.values())
        row = (self._session, f"{time.time():.1f}", self.stage, self.done)
        used = (f"{mib[kind]:.1f}" for kind in (DRIVER, WORKERS, RAY))
        with self._lock, self._file.open("a", newline="") as stream:
            csv.writer(stream).writerow([*row, *used, workers])

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            if self.stage:
                self.sample()


def read(file: Path) -> list[Sample]:
    """Return all rows of memory.csv; a last one that was cut off is left out."""
    if not file.exists():
        return []
    kinds = (int, float, str, int, float, float, float, int)
    rows = [row for row in csv.reader(file.read_text().splitlines()) if len(row) == len(kinds)]
    return [Sample(*(kind(value) for kind, value in zip(kinds, row, strict=True))) for row in rows]


@contextlib.contextmanager
def logged(file: Path) -> Iterator[None]:
    """Append what is printed to a file, too."""
    with file.open("a") as log, contextlib.redirect_stdout(Twice(sys.stdout, log)):
        yield


class Twice(io.TextIOBase):
    """Writes to two streams."""

    def __init__(self, *streams: TextIO) -> None:
        self.streams = streams

    def write(self, text: str) -> int:
        """Write a text to both."""
        for stream in self.streams:
            stream.write(text)
            stream.flush()
        return len(text)


if __name__ == "__main__":
    main()
