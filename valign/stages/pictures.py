"""The report of an evaluation: choose pictures, render the page, and write page and table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from valign.catalogue.principles import Principle
from valign.evaluation.pictures import Grid, Picture
from valign.evaluation.report import render, table_csv
from valign.evaluation.sets import TOXICITY_SET
from valign.records import TOXIC_ABOVE, Prompt
from valign.stages import principles
from valign.stages.images import PlannedImage
from valign.stages.scores import Scores
from valign.stages.train_log import read_metrics
from valign.stages.work import Work, part_keys
from valign.storage import layout, tables
from valign.storage.objects import Store

if TYPE_CHECKING:
    from valign.stages.evaluate import ImageSet

PER_ROW = 8
CURVES = {"loss": "training loss", "implicit_accuracy": "pairs told apart"}


def write_report(
    work: Work,
    results: Mapping[str, object],
    image_sets: "Sequence[ImageSet]",
    scores: Scores,
    shares: Mapping[str, float],
) -> None:
    """Write `evaluate/report.html` and `evaluate/results.csv`."""
    grids = choose(work, image_sets, scores, shares)
    log = read_metrics(work.store)
    curves = {
        label: [(row["step"], row[name]) for row in log if name in row]
        for name, label in CURVES.items()
    }
    settings = work.run.model_dump(mode="json", exclude={"root", "resources"})
    page = render(results, grids, settings, curves=curves)
    work.store.write(layout.REPORT, page.encode())
    work.store.write(layout.RESULTS_CSV, table_csv(results).encode())


def choose(
    work: Work, image_sets: "Sequence[ImageSet]", scores: Scores, shares: Mapping[str, float]
) -> list[Grid]:
    """Return grids of the first prompts of each kind: the same noise under each model."""
    by_name: dict[str, list[ImageSet]] = {}
    for images in image_sets:
        by_name.setdefault(images.name, []).append(images)
    wanted = [
        (name, prompt, group)
        for name, group in by_name.items()
        for prompt in shown(group[0].prompts, name, work.run.evaluate.report_prompts)
    ]
    rows = {id(p): [_rows(images, p) for images in group] for _, p, group in wanted}
    ids = {row.image_id for sides in rows.values() for side in sides for row in side}
    encoded = read_pictures(work.store, ids)
    row_of = {image: index for index, image in enumerate(scores["image_id"])}
    known = principles.known(work.run)
    grids = []
    for name, prompt, group in wanted:
        sides = rows[id(prompt)]
        complete = [
            column
            for column in zip(*sides, strict=True)
            if all(row.image_id in encoded and row.image_id in row_of for row in column)
        ]
        grids.append(
            Grid(
                group=_heading(name, prompt),
                prompt=prompt.text,
                rows={
                    images.model: [
                        Picture(
                            encoded[column[side].image_id],
                            _caption(column[side], known.get(name), scores, row_of),
                            toxic=name == TOXICITY_SET
                            and _toxic(column[side], scores, row_of) is not False,
                        )
                        for column in complete
                    ]
                    for side, images in enumerate(group)
                },
                note=_note(name, shares),
            )
        )
    return grids


def shown(prompts: Sequence[Prompt], name: str, count: int) -> list[Prompt]:
    """Return the first prompts, of each toxicity principle in turn."""
    if name != TOXICITY_SET:
        return list(prompts[:count])
    keys = dict.fromkeys(prompt.principle for prompt in prompts)
    each = max(1, count // len(keys))
    return [p for key in keys for p in [q for q in prompts if q.principle == key][:each]]


def read_pictures(store: Store, ids: set[str]) -> dict[str, bytes]:
    """Return the encoded images of these ids."""
    found: dict[str, bytes] = {}
    for key in part_keys(store, "evaluate/images"):
        part = tables.read(store, key, tables.IMAGES, ["image_id", "image"])
        for row in part.to_pylist():
            if row["image_id"] in ids:
                found[row["image_id"]] = row["image"]["bytes"]
    return found


def _rows(images: "ImageSet", prompt: Prompt) -> Sequence[PlannedImage]:
    first = images.prompts.index(prompt) * images.samples
    return images.rows[first : first + min(PER_ROW, images.samples)]


def _heading(name: str, prompt: Prompt) -> str:
    if name == TOXICITY_SET:
        return f"{prompt.principle.capitalize()} content"
    return name.capitalize()


def _note(name: str, shares: Mapping[str, float]) -> str:
    if name == TOXICITY_SET:
        return "The token is applied to every image."
    return (
        f"The token is applied to {shares[name]:.0%} of the aligned model's images; the others are "
        "the base model's own."
    )


def _toxic(row: PlannedImage, scores: Scores, row_of: Mapping[str, int]) -> bool | None:
    """Say whether the classifier, or the oracle if there is one, finds the image toxic."""
    names = (row.prompt.principle, f"oracle.{row.prompt.principle}")
    found = [
        scores.scored[name][row_of[row.image_id], 0] for name in names if name in scores.scored
    ]
    if any(value > TOXIC_ABOVE for value in found):
        return True
    return None if any(np.isnan(found)) else False


def _caption(
    row: PlannedImage, bias: Principle | None, scores: Scores, row_of: Mapping[str, int]
) -> str:
    if bias is None:
        read = {True: "toxic", False: "clean", None: "not readable"}[_toxic(row, scores, row_of)]
    else:
        label = int(scores.classified(bias.key)[row_of[row.image_id]])
        read = bias.attributes[label] if label >= 0 else "not readable"
    token = f", {row.token} token" if row.token else ""
    return f"sample {row.sample}: {read}{token}"
