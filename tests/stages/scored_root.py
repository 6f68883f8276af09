"""A root whose images are noise and whose scores a test chooses, for the stages after `score`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from valign import config
from valign.config import Run
from valign.records import Prompt
from valign.stages import generate, image_files, images
from valign.stages.inline import Inline
from valign.stages.work import Work
from valign.storage import layout, tables
from valign.storage.objects import open_store

SIZE_PX = 16


def work(root: Path, *overrides: str) -> Work:
    """Return the work of a run under this root, done inline and told to nobody."""
    run = config.load("miniature", [f"root={root}", *overrides])
    store = open_store(str(root))
    return Work(run, store.url, store, Inline(), lambda *_: None)


def planned(run: Run, prompts: Sequence[tuple[Prompt, int]]) -> list[images.PlannedImage]:
    """Return so many images of each prompt."""
    return [generate.planned(run, p, sample, "weights") for p, n in prompts for sample in range(n)]


def fill(work: Work, prompts: Sequence[tuple[Prompt, int]], scores: Mapping[str, Sequence]) -> None:
    """Write plan, images and scores, a row of each score per image: one value, or one per class."""
    rows = planned(work.run, prompts)
    columns = images.columns(rows)
    tables.write(work.store, layout.plan("generate"), columns, tables.PLAN)
    noise = np.random.default_rng(0).integers(0, 256, (len(rows), SIZE_PX, SIZE_PX, 3), np.uint8)
    columns["generator"] = ["weights"] * len(rows)
    columns["image"] = [{"bytes": image_files.png(image), "path": "x.png"} for image in noise]
    tables.write(work.store, layout.part("generate", 0), columns, tables.IMAGES)
    made = {name: np.reshape(values, (len(rows), -1)).tolist() for name, values in scores.items()}
    made["image_id"] = columns["image_id"]
    tables.write(work.store, layout.part("score", 0), made, tables.scores(made))


def pairs(work: Work) -> list[dict]:
    """Return the pairs that were written, as rows."""
    return tables.read(work.store, layout.pairs(), tables.PAIRS).to_pylist()
