"""Reproduce the papers' tables: the one way in for the job and the command.

Every row is trained and measured in turn; after each the page is written anew from all that are
finished. What is finished is skipped and what is half done goes on, however often this is run.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from valign.config import Run
from valign.reproduction import expected, grids, page, prompt_sets, rows, tune, work
from valign.reproduction.rows import Row
from valign.reproduction.runs import Place
from valign.stages.work import Runner

ROOT = "runs/reproduction"
PROMPTS = 1_040


def main(words: Sequence[str], runner_of: Callable[[Run], Runner]) -> None:
    """Reproduce what a command line asks for; end the process with the words of an error of it."""
    parser = argparse.ArgumentParser(prog="reproduce.py", description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=ROOT, help="folder or URL of everything")
    parser.add_argument("--rows", nargs="*", default=[], help="names or globs; none: all")
    parser.add_argument("--seeds", type=int, default=rows.HEADLINE_SEEDS, help="of headline rows")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="of the win rates, in all")
    parser.add_argument("--parti", default="", help="a file of PartiPrompts")
    parser.add_argument("--tune", action="store_true", help="choose learning rates first")
    parser.add_argument("--plan", action="store_true", help="only say what would be done")
    parser.add_argument("--out", default="", help="also copy the page and its files to here")
    parser.add_argument("--set", nargs="*", default=[], help="key=value, for every run")
    asked = parser.parse_args(words)
    try:
        tables = rows.shipped()
        place = Place(
            asked.root, tables, runner_of, tuple(asked.set), asked.prompts, asked.parti, asked.seeds
        )
        chosen = rows.choose(asked.rows, tables)
        reproduce(place, chosen, tuned=asked.tune, plan=asked.plan, out=asked.out)
    except (ValueError, LookupError) as error:
        raise SystemExit(f"error: {error}") from None


def reproduce(
    place: Place, chosen: Sequence[Row], *, tuned: bool = False, plan: bool = False, out: str = ""
) -> None:
    """Do the rows, with what they need, and write the page after each.

    Args:
        place: where.
        chosen: the rows.
        tuned: choose the learning rates of tuned rows first.
        plan: only say what would be done.
        out: a folder that gets a copy of the page and its files, "" for none.
    """
    todo = rows.ordered(chosen, place.tables)
    print("\n".join(announced(place, todo, tuned=tuned)), flush=True)
    if plan:
        return
    prompt_sets.write(place)
    if tuned:
        named = {row.like for row in todo}
        tune.tune(place, [r for r in place.tables.rows.values() if r in todo or r.name in named])
    for number, row in enumerate(todo, start=1):
        print(f"reproduce: {number} of {len(todo)}: {row.title}", flush=True)
        work.perform(place, row)
        published(place, out)
    published(place, out)  # also where there was nothing to do


def announced(place: Place, todo: Sequence[Row], *, tuned: bool = False) -> list[str]:
    """Return what will be done, and the hours that it is expected to take."""
    lines = [f"reproduce: under {place.root}, {len(todo)} rows"]
    for row in todo:
        seeds = row.seeds(place.seeds)
        finished = sum(work.done(place, row, seed) for seed in seeds)
        if row.model == "none":
            state = f"empty: {row.why}"
        elif finished == len(seeds):
            state = "finished"
        else:
            state = f"{finished} of {len(seeds)} seeds finished"
        lines.append(f"  {row.name:<18} {row.title}: {state}")
    left, everything = expected.hours(place, todo)
    lines.append(f"expected: {left:.2f} hours of work left, of {everything:.2f}")
    if tuned:
        many = sum(row.tuned for row in todo) * len(place.tables.tuning)
        lines.append(f"tuning comes first: up to {many} more trainings, not counted in these hours")
    return lines


def published(place: Place, out: str) -> None:
    """Write the page from what is finished, under the root and where a copy is wanted."""
    grids.write(place)
    page.write(place)
    if not out:
        return
    names = {"page/reproduction.md": "reproduction.md"}
    for key in place.store.list("page/"):
        inside = names.get(key, f"reproduction/{key.removeprefix('page/')}")
        target = Path(out) / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        data = place.store.read(key)
        if key in names:  # its pictures lie in a folder beside it
            data = data.replace(b"](cases_", b"](reproduction/cases_")
        target.write_bytes(data)
