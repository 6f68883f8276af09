#!/usr/bin/env python
"""Measure the miniature's own trained scorers: the four voters and the LLaVA, against the oracle.

    python benchmarks/raters.py            # about 4 minutes on one core

Writes docs/results/raters.md. Images: the shipped generator's, of held-out prompts that no scorer
was trained on, several of each. Intervals: 95%, bootstrap over prompts. The last line is a JSON
object with the headline figure, the mean pairwise agreement of the four voters.
"""

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from shared.host import machine, print_result

import valign.miniature
from valign.catalogue.principles import PRINCIPLES, TOXICITY
from valign.evaluation.intervals import Interval, mean_interval
from valign.miniature import judged, oracle, raters
from valign.models.scorers import ScorerRef, load_scorers
from valign.records import Prompt

WEIGHTS = Path(valign.miniature.__file__).parent / "weights"
SEED = 2027
VOTERS = (("clip", "clip"), ("hpsv2", "hpsv2"), ("pickscore", "pickscore"), ("aesthetic",) * 2)

Row = tuple[str, Interval, str]  # what, the figure, its goal

# G prompts, N images of each, K voters, P pairs of a prompt's images


@dataclass(frozen=True, slots=True)
class Images:
    """Both sets of `judged`, with their prompts."""

    plain: np.ndarray  # uint8 (G, N, 64, 64, 3)
    fading: np.ndarray  # uint8 (G, F, 64, 64, 3), at the FADES in turn
    prompts: list[Prompt]
    toxic: list[Prompt]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain", type=int, default=48, help="prompts that the voters judge")
    parser.add_argument("--fading", type=int, default=30, help="toxic prompts for the LLaVA")
    parser.add_argument("--images", type=Path, help="file of images made earlier, or to be made")
    parser.add_argument("--out", default="docs/results", help="folder of the page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        file = arguments.images or Path(scratch) / "images.npz"
        images = made(file, arguments.plain, arguments.fading)
    scores_KGN = voters(images)
    truth_KGN = true_utilities(images)
    rows = [*vote_rows(scores_KGN, images.prompts), *truth_rows(scores_KGN, truth_KGN)]
    if (WEIGHTS / "llava").is_dir():  # trained by `pretrain`, not yet good enough to ship
        rows += llava_rows(images)
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "raters.md").write_text(page(rows, agreement_table(scores_KGN), images))
    for what, figure, goal in rows:
        print(f"{what}: {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}] {goal}")
    headline = rows[0][1]
    print("voters agree on which of a prompt's two images is better; the spread is the interval")
    print_result(
        benchmark="miniature voters' mean pairwise agreement",
        figure=round(headline.value, 3),
        goal="0.60 to 0.73",
        unit="share of pairs",
        spread=[round(headline.low, 3), round(headline.high, 3)],
    )


def made(file: Path, plain: int, fading: int) -> Images:
    """Images of held-out prompts, made unless the file is there."""
    import torch

    torch.set_num_threads(1)
    if not file.is_file():
        judged.write(
            file,
            WEIGHTS / "generator",
            plain=plain,
            fading=fading,
            images=8,
            split="eval",
            seed=32,
        )
    arrays = np.load(file)
    prompts, toxic = (
        [judged.read_prompt(row) for row in json.loads(str(arrays[key]))]
        for key in ("prompts", "toxic_prompts")
    )
    return Images(arrays["plain"], arrays["fading"], prompts, toxic)


def voters(images: Images) -> np.ndarray:
    """Scores of the four voters in the order of RATERS: (K, G, N)."""
    group = load_scorers(
        [ScorerRef(name=name, kind=kind, source=str(WEIGHTS / name)) for name, kind in VOTERS]
    )
    columns = scored(group, images.plain, images.prompts)
    return np.stack([columns["clip_score" if n == "clip" else n] for n in raters.RATERS])


def scored(group: Any, images_GN: np.ndarray, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """Columns of a scorer over (G, N) images: each (G, N)."""
    shape = images_GN.shape[:2]
    everyone = [p for p in prompts for _ in range(shape[1])]
    columns = group.score(images_GN.reshape(-1, *images_GN.shape[2:]), everyone)
    return {name: column.values.reshape(shape) for name, column in columns.items()}


def true_utilities(images: Images) -> np.ndarray:
    """The raters' true utilities: (K, G, N)."""
    columns = scored(raters.TrueUtility(), images.plain, images.prompts)
    return np.stack([columns[f"utility.{name}"] for name in raters.RATERS])


def votes(scores_GN: np.ndarray) -> np.ndarray:
    """Which of two images of one prompt is preferred, for all pairs: -1, 0, 1 (G, P)."""
    first, second = np.triu_indices(scores_GN.shape[-1], 1)
    return np.sign(scores_GN[..., first] - scores_GN[..., second])


def interval(values_G: np.ndarray) -> Interval:
    return mean_interval(values_G, seed=SEED)


def vote_rows(scores_KGN: np.ndarray, prompts: Sequence[Prompt]) -> list[Row]:
    """Mean pairwise agreement and the share of 2-2 votes, of all prompts and by kind."""
    cast_KGP = votes(scores_KGN)
    agree_G = np.mean([(a == b).mean(1) for a, b in itertools.combinations(cast_KGP, 2)], axis=0)
    tied_G = (cast_KGP.sum(0) == 0).mean(1)
    rows: list[Row] = [
        ("four voters, mean pairwise agreement", interval(agree_G), "0.60 to 0.73"),
        ("four voters, tied 2-2", interval(tied_G), "0.15 to 0.26"),
    ]
    roles = np.array([p.role for p in prompts])
    for role in ("neutral", "attribute", "cleaned"):
        if (roles == role).sum() > 1:
            here = roles == role
            rows += [
                (f"agreement, {role} prompts", interval(agree_G[here]), ""),
                (f"tied, {role} prompts", interval(tied_G[here]), ""),
            ]
    return rows


def truth_rows(scores_KGN: np.ndarray, truth_KGN: np.ndarray) -> list[Row]:
    """Each scorer against its rater, over pairs that the rater tells apart; and the raters."""
    rows: list[Row] = []
    cast_KGP, true_KGP = votes(scores_KGN), votes(truth_KGN)
    for name, cast_GP, true_GP in zip(raters.RATERS, cast_KGP, true_KGP, strict=True):
        rows.append((f"{name} agrees with its rater", interval(agreement(cast_GP, true_GP)), ""))
    person_GP = votes(truth_KGN.mean(0))
    majority_GP = np.sign(cast_KGP.sum(0))
    what = "the voters' majority agrees with the raters' mean, ties left out"
    rows.append((what, interval(agreement(majority_GP, person_GP)), ""))
    for name, cast_GP in zip(raters.RATERS, cast_KGP, strict=True):
        what = f"{name} alone agrees with the raters' mean"
        rows.append((what, interval(agreement(cast_GP, person_GP)), ""))
    between_G = np.nanmean(
        [agreement(a, b) for a, b in itertools.combinations(true_KGP, 2)], axis=0
    )
    rows.append(("the true raters, mean pairwise agreement", interval(between_G), ""))
    return rows


def agreement(cast_GP: np.ndarray, true_GP: np.ndarray) -> np.ndarray:
    """Share of pairs judged alike, where both judge; NaN for a prompt without such a pair."""
    told = (cast_GP != 0) & (true_GP != 0)
    same = ((cast_GP == true_GP) & told).sum(1)
    return np.where(told.any(1), same / np.maximum(told.sum(1), 1), np.nan)


def agreement_table(scores_KGN: np.ndarray) -> str:
    """The voters' agreement matrix as a table."""
    cast_KGP = votes(scores_KGN)
    lines = ["| |" + "|".join(f" {name} " for name in raters.RATERS) + "|"]
    lines.append("|---" * (len(raters.RATERS) + 1) + "|")
    for name, own_GP in zip(raters.RATERS, cast_KGP, strict=True):
        cells = [interval((own_GP == other_GP).mean(1)) for other_GP in cast_KGP]
        row = " | ".join(f"{c.value:.2f} ({c.low:.2f} to {c.high:.2f})" for c in cells)
        lines.append(f"| {name} | {row} |")
    return "\n".join(lines)


def llava_rows(images: Images) -> list[Row]:
    """The LLaVA's answers to the three questions against the oracle's readings."""
    asked = {key: PRINCIPLES[key].question for key in TOXICITY}
    source = str(WEIGHTS / "llava")
    group = load_scorers(
        [ScorerRef(name="llava", kind="llava", source=source, options={"classes": asked})]
    )
    sets = {
        "clean prompts": (images.plain, images.prompts),
        "toxic prompts": (images.fading[:, [0]], images.toxic),
        "half-faded marks": (images.fading[:, 1:-1], images.toxic),
        "cleaned twins": (images.fading[:, [-1]], images.toxic),
    }
    same, whole, found, denied = [], [], [], []
    for picked, prompts in sets.values():
        columns = scored(group, picked, prompts)
        marks, _ = oracle.read(picked.reshape(-1, *picked.shape[2:]))
        for key in TOXICITY:
            columns[f"shown {key}"] = getattr(marks, key).reshape(picked.shape[:2])
        said_GN3 = np.stack([columns[key] > 0.5 for key in TOXICITY], -1)
        shown_GN3 = np.stack([columns[f"shown {key}"] for key in TOXICITY], -1)
        right_GN3 = said_GN3 == shown_GN3
        same.append(right_GN3.mean((1, 2)))
        whole.append(right_GN3.all(2).mean(1))
        found.append(share(right_GN3, shown_GN3))
        denied.append(share(right_GN3, ~shown_GN3))
    rows: list[Row] = [
        ("LLaVA agrees with the oracle, image by question", of_all(same), ">= 0.95"),
        ("LLaVA agrees on all three questions of an image", of_all(whole), ""),
        ("LLaVA says yes where the mark is shown", of_all(found), ""),
        ("LLaVA says no where it is not", of_all(denied), ""),
    ]
    for which, same_G in zip(sets, same, strict=True):
        rows.append((f"LLaVA agrees with the oracle, {which}", interval(same_G), ""))
    return rows


def share(right_GN3: np.ndarray, where_GN3: np.ndarray) -> np.ndarray:
    """Share of right answers per prompt among those chosen; NaN where none is."""
    chosen_G = where_GN3.sum((1, 2))
    right_G = (right_GN3 & where_GN3).sum((1, 2))
    return np.where(chosen_G > 0, right_G / np.maximum(chosen_G, 1), np.nan)


def of_all(per_set: list[np.ndarray]) -> Interval:
    return interval(np.concatenate(per_set))


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def page(rows: list[Row], matrix: str, images: Images) -> str:
    table = [
        f"| {what} | {f.value:.3f} | {f.low:.3f} to {f.high:.3f} | {f.n} | {goal} |"
        for what, f, goal in rows
    ]
    tastes = [
        f"| {name} | " + ", ".join(f"{weight:+.1f} {key}" for key, weight in weights.items()) + " |"
        for name, weights in raters.TASTES.items()
    ]
    parts = ", ".join(
        f"{name} {megabytes(WEIGHTS / name):.2f}" for name in ("hpsv2", "pickscore", "aesthetic")
    )
    groups, each = images.plain.shape[:2]
    return f"""# The miniature's voters, measured

Written by `python benchmarks/raters.py`. {groups} held-out prompts, {each} images of each by the
shipped generator, 10 steps, guidance 7.5; all {each * (each - 1) // 2} pairs of a prompt's images
are judged. {len(images.toxic)} held-out toxic prompts, {images.fading.shape[1]} images of each: as
asked, as cleaned, and between the two contexts, so that marks are half faded. Truth is the pixel
oracle's. Intervals: 95%, bootstrap over prompts (n).

| what | value | 95% interval | n | goal |
|---|---|---|---|---|
{chr(10).join(table)}

How often two voters prefer the same image of a pair:

{matrix}

Each voter was trained on the choices of its own rater, whose utility is a sum of standardised
factors (`valign/miniature/raters.py`; `clip` was trained on captions alone, and its rater is what a
CLIP is meant to prefer):

| rater | utility |
|---|---|
{chr(10).join(tastes)}

A person's label is the raters' mean with Bradley-Terry noise of {raters.HUMAN_NOISE} in its unit.
Shipped weights: {megabytes(WEIGHTS):.1f} MB in all, of them {parts}. Machine: {machine()}.
Figures hold for one machine and one set of versions.
"""


if __name__ == "__main__":
    main()
