"""Case grids: the same prompts and noise under every method, framed by what was read from them.

Like LiVO's Figures 5 and 7 to 13 and BalancedDPO's 2 to 7 and 11. Of each set the first prompts,
not chosen ones; the images are those that the evaluations' reports keep.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from valign.evaluation.sets import TOXICITY_SET
from valign.records import TOXIC_ABOVE, Prompt
from valign.reproduction import runs, work
from valign.reproduction.rows import TEST, Row
from valign.reproduction.runs import Place
from valign.reproduction.tables import ACROSS, BALANCED_ROWS, OURS
from valign.stages import evaluate_sets, pictures
from valign.stages.evaluate_sets import ImageSet
from valign.stages.image_files import pixels
from valign.stages.scores import Scores
from valign.storage.objects import open_store

COLUMNS = pictures.PER_ROW
SIDE, FRAME, LABEL = 64, 3, 120  # pixels
TOXIC, CLEAN, PLAIN = (200, 40, 40), (60, 150, 80), (210, 210, 210)
ATTRIBUTES = ((60, 100, 200), (230, 150, 40), (120, 80, 160), (40, 160, 160), (200, 90, 140))
CASES = {
    "livo": ("sd", "dapt", "dpo", "dpo_d", *OURS[:1]),
    "ablations": ("sd", "livo_wo_v", "livo_wo_t", "livo_wo_m", "livo_w_u", "livo"),
    "balanced": ("sd", *BALANCED_ROWS),
    "across": ACROSS,
}


def write(place: Place) -> list[str]:
    """Draw every case of which two methods are finished; return the pages' keys of what was drawn.

    Prompts of toxic content come last in a grid, and what they show is abstract marks.
    """
    drawn = []
    for name, wanted in CASES.items():
        rows = [place.tables.rows[one] for one in wanted]
        ready = [row for row in rows if row.cell == TEST and work.done(place, row, 0)]
        plain = name in ("balanced", "across")
        lines = [line for row in ready for line in [_lines(place, row, plain=plain)]]
        if len(lines) < 2:
            continue
        image = _stacked([(row.title, line) for row, line in zip(ready, lines, strict=True)])
        data = io.BytesIO()
        image.save(data, "PNG", optimize=True)
        place.store.write(f"page/cases_{name}.png", data.getvalue())
        drawn.append(f"page/cases_{name}.png")
    return drawn


Line = Mapping[str, Sequence[np.ndarray]]
"""A prompt, and a method's framed images of it."""


def _lines(place: Place, row: Row, *, plain: bool) -> Line:
    """Return a method's framed images of the cases' prompts."""
    at = runs.evaluated_at(row.name, None if row.model == "base" else 0, TEST)
    store = open_store(f"{place.root}/{at}")
    model = "base" if row.model == "base" else row.name
    sets = [one for one in evaluate_sets.read(store) if one.model == model]
    scores = evaluate_sets.scores_of(store)
    chosen = [(one, p) for one in sets if one.plain == plain for p in _prompts(one)]
    rows = {(s.name, p.text): pictures.samples(s, p) for s, p in chosen}
    images = pictures.read_pictures(store, {r.image_id for found in rows.values() for r in found})
    row_of = {image: index for index, image in enumerate(scores["image_id"])}
    framed: dict[str, list[np.ndarray]] = {}
    for one, prompt in chosen:
        found = [r.image_id for r in rows[one.name, prompt.text] if r.image_id in images]
        framed[f"{one.name}: {prompt.text}"] = [
            _framed(pixels(images[image]), _colour(one, prompt, scores, row_of.get(image)))
            for image in found
        ]
    return framed


def _prompts(one: ImageSet) -> Sequence[Prompt]:
    return pictures.shown(one.prompts, one.name, 3 if one.name == TOXICITY_SET else 1)


def _colour(one: ImageSet, prompt: Prompt, scores: Scores, at: int | None) -> tuple[int, int, int]:
    if one.plain or at is None:
        return PLAIN
    if one.name == TOXICITY_SET:
        return TOXIC if scores.values(prompt.principle)[at, 0] > TOXIC_ABOVE else CLEAN
    if one.name not in scores.scored:
        return PLAIN
    label = int(scores.classified(one.name)[at])
    return ATTRIBUTES[label] if 0 <= label < len(ATTRIBUTES) else PLAIN


def _framed(image_HWC: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return the image at SIDE pixels within a frame of a colour."""
    small = Image.fromarray(image_HWC).resize((SIDE, SIDE))
    framed = Image.new("RGB", (SIDE + 2 * FRAME, SIDE + 2 * FRAME), colour)
    framed.paste(small, (FRAME, FRAME))
    return np.asarray(framed)


def _stacked(methods: Sequence[tuple[str, Line]]) -> Image.Image:
    """Return one image: a block for each prompt, in it a line for each method."""
    cell = SIDE + 2 * FRAME
    asked = list(methods[0][1])
    tall, head = cell + 2, 18
    size = (LABEL + COLUMNS * cell, len(asked) * (head + tall * len(methods)))
    sheet = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    y = 0
    for text in asked:
        pen.text((4, y + 3), text, fill=(0, 0, 0))
        y += head
        for title, line in methods:
            pen.text((4, y + cell // 2 - 6), title[:18], fill=(0, 0, 0))
            for column, image in enumerate(line.get(text, ())):
                sheet.paste(Image.fromarray(image), (LABEL + column * cell, y))
            y += tall
    return sheet
