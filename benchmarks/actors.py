#!/usr/bin/env python
"""How much faster two actors draw than one: generate of the miniature, one thread each.

    python benchmarks/actors.py                      # about 15 minutes; wants two free cores
    python benchmarks/actors.py --seconds 10 --rounds 1 --shard-rows 40  # only to see that it runs

One and two actors in turn, each time on a new local Ray. Images/s in the steady state: from when
every actor has done its first shard to when the last shards are begun.
"""

import argparse
import math
import os
import statistics
import tempfile
from pathlib import Path

from ray_tax import FASTEST, forget
from shared.host import print_result
from shared.timed_stage import Timed, alone, bare, cores, on_ray, prepare

GOAL = 1.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="steady state of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shard-rows", type=int, default=100)
    arguments = parser.parse_args()
    rows = arguments.shard_rows
    print(
        f"generate by 1 and 2 actors in turn, {arguments.rounds} rounds; load before: "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    ratios = []
    with tempfile.TemporaryDirectory(prefix="valign-actors-") as root:
        planned = 2 * math.ceil(arguments.seconds * FASTEST / rows) + 6
        alone(prepare, root, rows, planned * rows)
        one = math.ceil(arguments.seconds * alone(bare, "generate", root, rows, 2).rate / rows) + 2
        for turn in range(arguments.rounds):
            found: dict[int, Timed] = {}
            for actors in (2, 1) if turn % 2 else (1, 2):
                forget(Path(root), "generate")
                shards = min(actors * one, planned)
                found[actors] = alone(on_ray, "generate", root, rows, shards, actors)
            ratios.append(found[2].rate / found[1].rate)
            print(
                f"  round {turn + 1}: {found[1].rate:.1f} and {found[2].rate:.1f} images/s, "
                f"{ratios[-1]:.2f} times; cores kept busy by the second: {cores(found[2])}",
                flush=True,
            )
    print_result(
        benchmark="generate by two actors against one",
        figure=round(statistics.median(ratios), 3),
        goal=f">= {GOAL}",
        unit="ratio of images/s",
        spread=[round(min(ratios), 3), round(max(ratios), 3)],
    )


if __name__ == "__main__":
    main()
