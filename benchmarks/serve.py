#!/usr/bin/env python
"""What serving costs: the server against the same models called directly, on the miniature.

    python benchmarks/serve.py                      # docs/results/serving.md, about ten minutes
    python benchmarks/serve.py --seconds 2 --requests 200 --out /tmp/page   # to see that it runs

Generator and evaluator have one thread each, in the server and in the direct calls, which run in
turn. A closed loop keeps a number of callers waiting for answers; an open loop sends requests at
random moments of a given rate, whether or not earlier ones are answered. Callers are threads of
this process: on a machine of two cores they, Ray and HTTP share the second core. Prints every
figure, and as its last line the one of throughput.
"""

import argparse
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import ray
from ray import serve as ray_serve
from shared import serve_page
from shared.host import print_result
from shared.serve_direct import BATCH, STEPS, load, make_run, measure
from shared.serve_load import Asker, Loop, closed, grown, opened, parts_mib

from valign.on_ray import server
from valign.stages import serve as stage

PORT = 8765
CALLERS = 3 * BATCH  # one batch at work, one at hand, one on its way
SHARES = (0.5, 0.8)  # of the closed loop's rate, in the open loop
CHEAP_STEPS = 1
SCORED_EVERY = 10
SAMPLES = 20  # of memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=10_000, help="for the memory figure")
    parser.add_argument("--out", default="docs/results", help="folder of the page")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = serve_page.Figures(arguments.seconds, arguments.rounds, arguments.requests)
    with tempfile.TemporaryDirectory(prefix="valign-serve-") as root:
        make_run(Path(root))
        settings = [
            f"serve.port={PORT}", f"serve.queue={8 * BATCH}", "serve.surge=false",
            f"serve.batch_size={BATCH}",
        ]  # fmt: skip
        context = get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=load, initargs=(root,)) as pool:
            try:
                ask = Asker(PORT, pool.submit(measure, "picture", 0).result())
                server.start(stage.run_of(root, settings))
                for _ in range(arguments.rounds):
                    one_round(found, pool, ask, arguments.seconds)
                rate = statistics.median(loop.rate for loop in found.served)
                for share in SHARES:
                    told = opened(ask.image, share * rate, arguments.seconds)
                    found.open[share] = told
                    print(f"open loop at {share:.0%} of {rate:.1f}/s: {told}", flush=True)
                found.memory = memory(ask, arguments.requests)
                server.start(stage.run_of(root, [*settings, "serve.batch_size=1"]))
                closed(ask.image, CALLERS, arguments.seconds / 4)
                for _ in range(arguments.rounds):
                    found.alone.append(closed(ask.image, CALLERS, arguments.seconds))
                    print(f"batches of one, {CALLERS} callers: {found.alone[-1]}", flush=True)
            finally:
                if ray.is_initialized():
                    ray_serve.shutdown()
                    ray.shutdown()
    serve_page.write(Path(arguments.out), found)
    ratios = found.throughput
    print_result(
        benchmark="images/s served, of the direct call's at the same batch and threads",
        figure=round(statistics.median(ratios), 3),
        goal=">= 0.85",
        unit="ratio",
        spread=[round(min(ratios), 3), round(max(ratios), 3)],
    )


def one_round(
    found: serve_page.Figures, pool: ProcessPoolExecutor, ask: Asker, seconds: float
) -> None:
    """Measure the direct calls and the server in turn."""

    def direct(what: str) -> list[float]:
        return pool.submit(measure, what, seconds).result()

    closed(ask.image, CALLERS, seconds / 4)
    found.direct.append(BATCH / statistics.mean(direct("batch")))
    found.served.append(closed(ask.image, CALLERS, seconds))
    print(
        f"batches of {BATCH}, {STEPS} steps: direct {found.direct[-1]:.1f} images/s, served with "
        f"{CALLERS} callers {found.served[-1]}: {found.throughput[-1]:.3f}",
        flush=True,
    )
    found.direct_one.append(Loop.of(direct("one"), seconds))
    found.served_one.append(closed(ask.image, 1, seconds))
    print(f"one caller: direct {found.direct_one[-1]}; served {found.served_one[-1]}", flush=True)
    found.direct_scores.append(BATCH / statistics.mean(direct("score")))
    found.served_scores.append(closed(ask.scores, CALLERS // BATCH, seconds))
    print(
        f"scoring, {BATCH} pictures: direct {found.direct_scores[-1]:.1f} pictures/s, served "
        f"{BATCH * found.served_scores[-1].rate:.1f}: {found.scoring[-1]:.3f}",
        flush=True,
    )


def memory(ask: Asker, requests: int) -> list[tuple[int, dict[str, float]]]:
    """Return how much memory each process of the server has, after so many requests."""

    def cheap(number: int) -> int:
        return ask.one(number) if number % SCORED_EVERY == 0 else ask.image(number, CHEAP_STEPS)

    found = []
    for sample in range(SAMPLES):
        begin, end = (requests * turn // SAMPLES for turn in (sample, sample + 1))
        grown(cheap, CALLERS, range(begin, end))
        found.append((end, parts_mib(os.getpid())))
        total = sum(found[-1][1].values())
        print(f"memory after {end:,} requests: {total:.0f} MiB", flush=True)
    return found


if __name__ == "__main__":
    main()
