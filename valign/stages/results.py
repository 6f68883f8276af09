"""Results read, compared, judged and shown: behind `valign compare`, `report` and `--fail-if`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from valign import config
from valign.catalogue.principles import PRINCIPLES
from valign.evaluation import gates, ratings, results_file
from valign.evaluation.compare import Change, Comparison, compare
from valign.evaluation.describe import number, p_value, signed
from valign.evaluation.gates import Gate
from valign.stages import evaluate_sets, pictures
from valign.storage import layout
from valign.storage.objects import local, open_store

FAIL_IF = "--fail-if"


def read(where: str) -> dict[str, Any]:
    """Return the results of a run's root, or of a .json file.

    Raises:
        LookupError: there are none.
        ValueError: they cannot be read.
    """
    if where.endswith(".json"):
        path = local(where)
        if not path.is_file():
            raise LookupError(f"there is no file {where}")
        return results_file.loads(path.read_bytes(), where)
    store = open_store(where)
    if not store.exists(layout.RESULTS):
        raise LookupError(f"{where} holds no {layout.RESULTS}; run evaluate on this root first")
    return results_file.loads(store.read(layout.RESULTS), f"{where}/{layout.RESULTS}")


def rebuild(root: str) -> str:
    """Make the report of a finished evaluation anew, with its drawings and tables; return its URL.

    Nothing is drawn or measured again: the images, scores and numbers are those under the root.

    Raises:
        LookupError: there is no finished evaluation, or its recipe is gone.
        ValueError: its results cannot be read.
    """
    found, store = read(root), open_store(root)
    if not store.exists(layout.RECIPE):
        raise LookupError(f"{root} holds no {layout.RECIPE}: give the root of a run")
    run = config.load(str(store.local(layout.RECIPE)), [f"root={json.dumps(root)}"])
    image_sets, scores = evaluate_sets.read(store), evaluate_sets.scores_of(store)
    pictures.write_report(store, run, found, image_sets, scores)
    return f"{root}/{layout.REPORT}"


def parse(conditions: Sequence[str]) -> list[Gate]:
    """Return the conditions of a command line; errors as `gates.parse`."""
    return [gates.parse(text) for text in conditions]


def conditions_of(arguments: Sequence[str]) -> tuple[list[Gate], list[str]]:
    """Return the conditions among a job's arguments (`--fail-if CONDITION`), and the rest.

    Ends the process with the error's own words where one cannot be read.
    """
    rest: list[str] = []
    found: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == FAIL_IF:
            found.append(next(words, ""))
        elif word.startswith(f"{FAIL_IF}="):
            found.append(word.partition("=")[2])
        else:
            rest.append(word)
    try:
        return parse(found), rest
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def judge(where: str, conditions: Sequence[Gate]) -> tuple[bool, list[str]]:
    """Return whether results keep to all conditions, and a line for each; errors as `read`."""
    if not conditions:
        return True, []
    said = gates.verdicts(conditions, read(where))
    return not any(holds for holds, _ in said), [words for _, words in said]


def exit_code(where: str, conditions: Sequence[Gate]) -> int:
    """Print a line for each condition; return 1 if one holds, 2 if one cannot be judged, else 0."""
    try:
        fine, lines = judge(where, conditions)
    except (LookupError, ValueError) as error:
        print(f"error: {error}")
        return 2
    for line in lines:
        print(line)
    return 0 if fine else 1


def changes(
    first: str, second: str, *, model: str = "", conditions: Sequence[Gate] = ()
) -> tuple[str, Comparison, list[tuple[bool, str]]]:
    """Return the model that was compared, what changed, and each condition's verdict."""
    before, after = read(first), read(second)
    model = model or gates.judged_model(after)
    found = compare(before, after, model)
    table = {change.metric: change.difference for change in found.changes}
    return model, found, gates.verdicts(conditions, after, table)


def line(change: Change) -> tuple[str, ...]:
    """Return the cells of a change: metric, before, after, difference, p, how it was tested."""
    difference = change.difference
    ends = f"{signed(difference['low'])} to {signed(difference['high'])}"
    return (
        change.metric,
        number(change.before),
        number(change.after),
        f"{signed(difference['value'])} ({ends})",
        p_value(change.holm),
        f"{'paired' if change.paired else 'unpaired'}, n {difference['n']}",
    )


def as_json(model: str, found: Comparison) -> str:
    """Return a comparison as JSON."""
    rows = [{**asdict(change), "significant": change.significant} for change in found.changes]
    return json.dumps({"model": model, "changes": rows, "notes": list(found.notes)}, indent=1)


def rated(ratings_csv: Path, items_csv: Path, *, highest: float) -> Mapping[str, Any]:
    """Return people's ratings as LiVO's Table 4; see `evaluation.ratings.table`."""
    known = {key: p.attributes for key, p in PRINCIPLES.items() if p.attributes}
    items = ratings.read_items(items_csv.read_text("utf-8"))
    said = ratings.read_ratings(ratings_csv.read_text("utf-8"), highest=highest)
    return ratings.table(said, items, known)
