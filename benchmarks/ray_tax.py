#!/usr/bin/env python
"""What Ray and the stage around it cost, against a bare loop over the same model.

    python benchmarks/ray_tax.py                     # about 40 minutes
    python benchmarks/ray_tax.py --seconds 10 --rounds 1 --shard-rows 40  # only to see that it runs

generate and score of the miniature, one worker of one thread, in turn with a bare loop of one
thread over the same rows in batches of the same size. The stage does all that it does in a run:
shards by Ray Data, PNG and Parquet files, markers, reports. The bare loop only calls the model. The
tax is bare images/s over the stage's, less one, in the steady state; the start and the CPU that
Ray's own processes use beside the worker are told apart from it.
"""

import argparse
import math
import shutil
import statistics
import tempfile
from pathlib import Path

from shared.host import DRIVER, print_result
from shared.timed_stage import VERBS, Timed, alone, bare, cores, on_ray, prepare, repeat_parts

GOAL = 5.0
FASTEST = 150  # images per second that the plan of images is long enough for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="steady state of each loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-rows", type=int, default=200)
    arguments = parser.parse_args()
    rows, rounds = arguments.shard_rows, arguments.rounds
    taxes: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="valign-ray-tax-") as root:
        planned = math.ceil(arguments.seconds * FASTEST / rows) + 3
        alone(prepare, root, rows, planned * rows)
        for verb in VERBS:
            if verb == "score":
                repeat_parts(root, 3)
            tried = alone(bare, verb, root, rows, 3)
            shards = math.ceil(arguments.seconds * tried.rate / rows) + 2
            if verb == "score":
                repeat_parts(root, shards)
            else:
                shards = min(shards, planned)
            print(
                f"{verb}: {shards} shards of {rows} images, stage and bare loop in turn, {rounds} "
                "rounds; one worker, one thread each",
                flush=True,
            )
            taxes[verb] = [one_round(verb, root, rows, shards, turn) for turn in range(rounds)]
            print(f"{verb}: tax {statistics.median(taxes[verb]):+.1f}%", flush=True)
    worst = max(taxes, key=lambda verb: statistics.median(taxes[verb]))
    print_result(
        benchmark=f"tax of Ray and the stage over a bare loop, the larger of both: {worst}",
        figure=round(statistics.median(taxes[worst]), 2),
        goal=f"<= {GOAL:g}",
        unit="% of the bare loop's time",
        spread=[round(min(taxes[worst]), 2), round(max(taxes[worst]), 2)],
    )


def one_round(verb: str, root: str, rows: int, shards: int, turn: int) -> float:
    """Time both loops, in another order every round; return the tax in %."""
    found: dict[str, Timed] = {}
    for who in ("stage", "bare") if turn % 2 else ("bare", "stage"):
        if who == "bare":
            found[who] = alone(bare, verb, root, rows, shards)
        else:
            forget(Path(root), verb)
            found[who] = alone(on_ray, verb, root, rows, shards, 1)
    stage, loop = found["stage"], found["bare"]
    tax = 100 * (loop.rate / stage.rate - 1)
    busy = loop.cpu_s[DRIVER] / loop.seconds
    start = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in stage.start_s.items())
    print(
        f"  {verb}, round {turn + 1}: bare {loop.rate:.1f} images/s over {loop.seconds:.0f} s, "
        f"stage {stage.rate:.1f} over {stage.seconds:.0f} s: tax {tax:+.1f}%\n"
        f"    the stage's start: {start} (bare: {loop.start_s['the model loads']:.1f} s)\n"
        f"    cores kept busy: {cores(stage)}; bare loop {busy:.2f}",
        flush=True,
    )
    return tax


def forget(root: Path, verb: str) -> None:
    """Make a stage's shards undone; generate's parts stay, and are written over."""
    for folder in ("done", "attempts"):
        shutil.rmtree(root / verb / folder, ignore_errors=True)


if __name__ == "__main__":
    main()
