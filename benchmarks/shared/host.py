"""The machine that a benchmark ran on, and what a driver and the processes under it take.

In: a process that started Ray. Out: memory and CPU seconds of the driver, of the workers that do a
stage's shards, and of Ray's own processes. Not what other programs on the machine do.
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

DRIVER, WORKERS, RAY = "driver", "workers", "Ray's own processes"
KINDS = (DRIVER, WORKERS, RAY)


@dataclass(frozen=True)
class Process:
    """One process at one moment; resident memory counts what it shares with others."""

    kind: str
    cpu_s: float
    resident_mib: float


def machine(device: str = "") -> str:
    """Say on what a benchmark ran, and how busy that was.

    Cores with AVX-512 do about twice the arithmetic of cores with AVX2 alone.
    """
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    parts = [f"{os.cpu_count()} cores", kind, device, load]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return ", ".join([*filter(None, parts), versions])


def print_result(
    *,
    benchmark: str,
    figure: float | None,
    goal: str,
    unit: str,
    spread: Sequence[float] | None,
    device: str = "",
) -> None:
    """Print a benchmark's last line: one JSON object, of the same keys for all.

    Args:
        benchmark: what was measured; the lines above say what was compared with what.
        figure: the headline; none if nothing was measured, and then a line above says why.
        goal: what it should be, such as `>= 40`.
        unit: of the figure.
        spread: its smallest and largest value, or the ends of its interval; none of a single run.
        device: what `machine` should say beside the cores.
    """
    line = {
        "benchmark": benchmark,
        "figure": figure,
        "goal": goal,
        "unit": unit,
        "spread": None if spread is None else list(spread),
        "machine": machine(device),
    }
    print(json.dumps(line, allow_nan=False), flush=True)


def processes(driver: int) -> dict[int, Process]:
    """Return a driver and all processes under it, by process id."""
    top = psutil.Process(driver)
    found = {}
    for process in (top, *top.children(recursive=True)):
        try:
            with process.oneshot():
                times, memory = process.cpu_times(), process.memory_info().rss / 2**20
                kind = DRIVER if process == top else _kind(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # it ended meanwhile
        found[process.pid] = Process(kind, times.user + times.system, memory)
    return found


def _kind(command: str) -> str:
    return WORKERS if command.startswith("ray::") and "MapWorker" in command else RAY


def resident(found: dict[int, Process]) -> dict[str, float]:
    """Return MiB by kind."""
    return {kind: sum(p.resident_mib for p in found.values() if p.kind == kind) for kind in KINDS}


def cpu_between(before: dict[int, Process], after: dict[int, Process]) -> dict[str, float]:
    """Return CPU seconds by kind; a process that is new counts from its start."""
    spent = dict.fromkeys(KINDS, 0.0)
    for pid, process in after.items():
        spent[process.kind] += process.cpu_s - (before[pid].cpu_s if pid in before else 0.0)
    return spent
