"""The page of the serving benchmark: figures, goals, and how they were found."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from shared.host import machine
from shared.serve_direct import BATCH, STEPS
from shared.serve_load import Loop

SETTLED = 0.2  # of the requests: from then on growth of memory counts
FLAT_MIB = 50.0


@dataclass
class Figures:
    """What was measured, round by round."""

    seconds: float
    rounds: int
    requests: int
    direct: list[float] = field(default_factory=list)  # images/s
    served: list[Loop] = field(default_factory=list)
    alone: list[Loop] = field(default_factory=list)  # without batches
    direct_one: list[Loop] = field(default_factory=list)
    served_one: list[Loop] = field(default_factory=list)
    direct_scores: list[float] = field(default_factory=list)  # pictures/s
    served_scores: list[Loop] = field(default_factory=list)  # requests of a batch
    open: dict[float, Loop] = field(default_factory=dict)
    memory: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    @property
    def throughput(self) -> list[float]:
        """Served over direct images/s, by round."""
        pairs = zip(self.served, self.direct, strict=True)
        return [loop.rate / rate for loop, rate in pairs]

    @property
    def scoring(self) -> list[float]:
        """Served over direct pictures/s, by round."""
        pairs = zip(self.served_scores, self.direct_scores, strict=True)
        return [BATCH * loop.rate / rate for loop, rate in pairs]


def _spread(values: list[float], form: str = ".2f") -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def _ms(loops: list[Loop], name: str) -> list[float]:
    return [1000 * getattr(loop, name) for loop in loops]


def write(out: Path, found: Figures) -> None:
    """Write serving.md into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "serving.md").write_text(page(found))


def page(found: Figures) -> str:
    """Return the page."""
    gains = [a.rate / b.rate - 1 for a, b in zip(found.served, found.alone, strict=True)]
    slower = max(_ms(found.served, "p99_s")) > min(_ms(found.alone, "p99_s"))
    added = {
        name: [s - d for s, d in zip(_ms(found.served_one, name), _ms(found.direct_one, name),
                                     strict=True)]
        for name in ("p50_s", "p99_s")
    }  # fmt: skip
    first = next(total for number, total in _totals(found) if number >= SETTLED * found.requests)
    growth = max(total for _, total in _totals(found)) - first
    ratio = statistics.median(found.throughput)
    gain = statistics.median(gains)
    rows = [
        ("images/s served over the direct call's", _spread(found.throughput), ">= 0.85",
         ratio >= 0.85),
        ("requests/s with batches over batches of one, less one", _spread(gains, "+.0%"),
         ">= +30% at equal p99", gain >= 0.3 and not slower),
        ("added latency of one caller, median, ms", _spread(added["p50_s"], ".1f"), "", None),
        ("added latency of one caller, p99, ms", _spread(added["p99_s"], ".1f"), "", None),
        ("pictures/s scored over the direct call's", _spread(found.scoring), "", None),
        (f"MiB grown from request {int(SETTLED * found.requests):,} to {found.requests:,}, at most",
         f"{growth:.0f}", f"<= {FLAT_MIB:.0f} (flat)", growth <= FLAT_MIB),
    ]  # fmt: skip
    lines = "\n".join(
        f"| {what} | {figure} | {goal} | {'' if met is None else 'yes' if met else 'no'} |"
        for what, figure, goal, met in rows
    )
    loops = "\n".join(
        f"| {what} | {_spread([loop.rate for loop in some], '.1f')} | "
        f"{_spread(_ms(some, 'p50_s'), '.0f')} | {_spread(_ms(some, 'p99_s'), '.0f')} | "
        f"{sum(loop.refused for loop in some)} |"
        for what, some in (
            (f"closed, {3 * BATCH} callers, batches of {BATCH}", found.served),
            (f"closed, {3 * BATCH} callers, batches of one", found.alone),
            ("closed, one caller", found.served_one),
            ("direct call, one image", found.direct_one),
            *((f"open, {share:.0%} of the closed loop's rate", [loop])
              for share, loop in found.open.items()),
        )
    )  # fmt: skip
    names = sorted(found.memory[0][1])
    shown = found.memory[:: max(1, len(found.memory) // 10)]
    shown += [] if shown[-1] == found.memory[-1] else found.memory[-1:]
    memory = "\n".join(
        f"| {number:,} | {' | '.join(f'{sample.get(name, 0):.0f}' for name in names)} | "
        f"{sum(sample.values()):.0f} |"
        for number, sample in shown
    )
    return f"""# What serving costs, measured

Written by `python benchmarks/serve.py`, on the miniature: 64x64 pixels, {STEPS} steps, one thread
each for generator and evaluator. Medians of {found.rounds} rounds of {found.seconds:g} s per loop,
least and greatest in brackets; direct calls and server in turn on the same machine.

| | measured | goal | met |
|---|---|---|---|
{lines}

Direct calls: {_spread(found.direct, ".1f")} images/s in batches of {BATCH}, and
{_spread(found.direct_scores, ".1f")} pictures/s scored. A caller of a closed loop asks again as
soon as he is answered; an open loop sends requests at random moments, and their time counts from
when they were due. Callers, HTTP and Ray share the cores with the models. The direct call only
draws; the server also decodes requests, finds the principle and encodes a PNG file. Requests that
arrive alone wait `serve.batch_wait_s` (10 ms) for others.

| loop | requests/s | median ms | p99 ms | refused |
|---|---|---|---|---|
{loops}

## Memory

Resident MiB by process after so many requests: nine of ten for one image of one step, one of ten
for the scores of one picture, {3 * BATCH} callers.

| requests | {" | ".join(names)} | all |
|---|{"---|" * (len(names) + 1)}
{memory}

- machine: {machine()}
"""


def _totals(found: Figures) -> list[tuple[int, float]]:
    return [(number, sum(sample.values())) for number, sample in found.memory]
