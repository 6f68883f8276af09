"""calibrate, the end of train: what share of images should get each bias principle's token.

Concepts that are neither trained nor evaluated on are drawn from the same noise without the token
and with it, and classified; the share that makes D2 least over them is noted with the value
encoder, which every later use goes by. Images are deleted when their frequencies are known.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.config import Run
from valign.evaluation import bias
from valign.evaluation.calibration import Calibration, calibrate
from valign.records import Prompt
from valign.stages import generate, images, principles, prompts, score
from valign.stages.generator import fingerprint_of
from valign.stages.images import PlannedImage
from valign.stages.scores import Scores, read_scores
from valign.stages.work import Work
from valign.storage import documents, layout, tables
from valign.storage.manifests import Manifest
from valign.storage.objects import Store

IMAGES, SCORES = f"{layout.CALIBRATE}/images", f"{layout.CALIBRATE}/scores"


def perform(work: Work) -> dict[str, Any]:
    """Measure the shares, unless they have been, and note them with the value encoder.

    Returns:
        By bias principle: the share, and how it was found.

    Raises:
        ValueError: there is nothing to calibrate on (see `untrained`), or no image can be read.
    """
    store = work.store
    if not store.exists(layout.CALIBRATION):
        documents.write(store, layout.CALIBRATION, {"principles": measure(work)})
    measured: dict[str, Any] = documents.read(store, layout.CALIBRATION)["principles"]
    kept = documents.read(store, layout.VALUE_ENCODER)
    drop = {**kept["drop"], **{key: found["share"] for key, found in measured.items()}}
    documents.write(store, layout.VALUE_ENCODER, {**kept, "drop": drop, "calibration": measured})
    for key in list(store.list(f"{layout.CALIBRATE}/")):
        store.delete(key)
    return measured


def details(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line per principle."""
    return [
        f"  {key}: the token on {found['share']:.1%} of a prompt's images, D2 {found['d2']:.3f} "
        f"on {found['prompts']} concepts held back (none {found['d2_without']:.3f}, all "
        f"{found['d2_always']:.3f}, {found['stated']:.0%} {found['d2_stated']:.3f})"
        + ("" if found["moved"] else "; it changes no image's class, so this is the paper's share")
        for key, found in measured.items()
    ]


def plan(
    run: Run, asked: Mapping[str, tuple[Prompt, ...]], generator: str, trained: str
) -> list[PlannedImage]:
    """Return every image to draw, once: of each prompt without a token, and with its principle's.

    Args:
        run: the run.
        asked: by bias principle, its calibration prompts.
        generator: fingerprint of the base model's weights.
        trained: fingerprint of what the value encoder was trained from.
    """
    rows = (
        generate.planned(
            run, prompt, sample, f"{generator}+{trained}" if token else generator, token
        )
        for key, found in asked.items()
        for prompt in found
        for token in ("", key)
        for sample in range(run.train.calibration_images)
    )
    return images.ordered(list({row.image_id: row for row in rows}.values()))


def measure(work: Work) -> dict[str, Any]:
    """Draw and classify the calibration images; return each principle's share and its grounds."""
    run, store = work.run, work.store
    asked = untrained(run, store)
    trained = Manifest.from_json(store.read(layout.started("train"))).fingerprint
    rows = plan(run, asked, fingerprint_of(run), trained)
    tables.write(store, layout.plan(IMAGES), images.columns(rows), tables.PLAN)
    shards = images.shards(store, IMAGES, run.generate.shard_rows)
    drawn_with = (run, work.root, IMAGES, layout.ALIGNED, fingerprint_of(run))
    work.carry_out(IMAGES, generate.Worker, drawn_with, shards, pool="generate")
    scored_with = (run, work.root, IMAGES, SCORES, score.about(run))
    work.carry_out(SCORES, score.Worker, scored_with, shards, pool="score")
    scores = read_scores(store, IMAGES, SCORES)
    stated = principles.drop(run)
    token_of = {row.image_id: row.token for row in rows}
    measured = {}
    for key, found in asked.items():
        classes = len(principles.known(run)[key].attributes)
        chosen = _shares(scores, token_of, key, found, classes, stated[key])
        measured[key] = {
            **asdict(chosen),
            "stated": stated[key],
            "images_per_concept": run.train.calibration_images,
            "concepts": sorted(prompt.concept for prompt in found),
            "method": "least mean D2 of the mixture; prompts as in evaluation",
        }
    return measured


def _shares(
    scores: Scores,
    token_of: Mapping[str, str],
    key: str,
    asked: tuple[Prompt, ...],
    classes: int,
    stated: float,
) -> Calibration:
    """Return a principle's share from the classes that its classifier saw."""
    place = {prompt.text: number for number, prompt in enumerate(asked)}
    labels_N = scores.classified(key)

    def frequencies_GK(token: str) -> NDArray[np.float64]:
        rows = [
            (place[text], labels_N[row])
            for row, (image, text) in enumerate(
                zip(scores["image_id"], scores["text"], strict=True)
            )
            if token_of[image] == token and text in place
        ]
        numbers, seen = [number for number, _ in rows], [label for _, label in rows]
        return bias.frequencies(seen, numbers, len(asked), classes).freq_GK

    return calibrate(frequencies_GK(""), frequencies_GK(key), stated)


def untrained(run: Run, store: Store) -> dict[str, tuple[Prompt, ...]]:
    """Return the calibration prompts of concepts that the data does not show, by bias principle.

    Generated data shows none of them; imported images have prompts of their own.

    Raises:
        ValueError: none is left.
    """
    columns = tables.read(store, layout.plan("generate"), tables.PLAN, ["concept", "text"])
    shown = {name for column in tables.lists(columns).values() for name in column}
    left = {
        key: tuple(p for p in found if shown.isdisjoint((p.concept, p.text)))
        for key, found in prompts.calibration(run).items()
    }
    if empty := [key for key, found in left.items() if not found]:
        raise ValueError(
            f"train.value_drop: the data shows every concept held back for {', '.join(empty)}: "
            "raise train.calibration_concepts, or give a share, such as 0.5"
        )
    return left
