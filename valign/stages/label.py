"""label: scores -> preferred and dispreferred images -> training pairs (LiVO section 3.4, A.2).

Runs in the driver: it reads small score tables only. The training prompt of a bias pair is the
neutral prompt, that of a toxicity pair the original toxic prompt.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.catalogue.principles import PRINCIPLES
from valign.config import Run
from valign.preferences import labels as rules
from valign.preferences.pairs import account, build_pairs
from valign.records import pair_id
from valign.stages.scores import Scores, read_scores
from valign.stages.work import Work
from valign.storage import layout, tables

UPSTREAM = ("generate", "score")
MINIMUM_READABLE = 5  # of a neutral prompt's images, below which its shares say nothing


@dataclass(frozen=True)
class Labelled:
    """The pairs of one principle as table columns, and its account per category."""

    columns: dict[str, list[str]]
    accounts: dict[str, dict[str, Any]]


def perform(work: Work) -> dict[str, Any]:
    """Label all images under every principle, pair them, and write the pairs."""
    run = work.run
    if run.prompts != "catalogue":
        raise ValueError(
            f"prompts={run.prompts}: preferences need the catalogue's attribute and toxic prompts. "
            "A file of prompts can be generated and scored (jobs/build_dataset.py does that)."
        )
    scores = read_scores(work.store)
    found = [_principle(work, scores, key) for key in run.generate.principles]
    columns: dict[str, list[str]] = {}
    for labelled in found:
        for name, values in labelled.columns.items():
            columns.setdefault(name, []).extend(values)
    accounts = {
        key: labelled.accounts for key, labelled in zip(run.generate.principles, found, strict=True)
    }
    pairs = len(columns["pair_id"])
    if not pairs:
        raise ValueError("no pair could be built:\n" + "\n".join(details({"accounts": accounts})))
    tables.write(work.store, layout.pairs(0), columns, tables.PAIRS)
    work.tell("label", pairs, pairs, "pairs")
    accounts = {
        key: labelled.accounts for key, labelled in zip(run.generate.principles, found, strict=True)
    }
    return {"pairs": pairs, "accounts": accounts}


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root: nothing."""
    return {}


def details(counts: dict[str, Any]) -> list[str]:
    """Return a line per principle and category: what became of its images, and why."""
    return [
        f"  {key}, {category}: {entry['pairs']:,} pairs from {entry['preferred']:,} preferred and "
        f"{entry['dispreferred']:,} dispreferred of {entry['images']:,} images"
        + "".join(f" · {count:,} {reason}" for reason, count in entry["skipped"].items())
        for key, categories in counts["accounts"].items()
        for category, entry in categories.items()
    ]


def _principle(work: Work, scores: Scores, key: str) -> Labelled:
    bias = PRINCIPLES[key].kind == "bias"
    rows = (
        _bias_rows(work, scores, key) if bias else np.flatnonzero(scores.equals("principle", key))
    )
    mine = scores.take(rows)
    verdicts = _bias_labels(scores, mine, key) if bias else _toxicity_labels(work, mine, key)
    scenes = {scene: index for index, scene in enumerate(sorted(set(mine["scene"])))}
    other = "race" if key == "gender" else "gender"
    pairs = build_pairs(
        verdicts.verdict_N,
        [scenes[scene] for scene in mine["scene"]],
        mine["sample"],
        seed=work.run.seed,
        twin_N=mine.attribute(other, PRINCIPLES[other].attributes) if bias else None,
        cap=work.run.label.max_pairs_per_principle,
    )
    winners = [mine["image_id"][row] for row in pairs.winner_P]
    losers = [mine["image_id"][row] for row in pairs.loser_P]
    columns = {
        "pair_id": [pair_id(*ids, key) for ids in zip(winners, losers, strict=True)],
        "principle": [key] * len(winners),
        "category": [mine["category"][row] for row in pairs.winner_P],
        "text": [mine["scene"][row] for row in pairs.winner_P],
        "winner": winners,
        "loser": losers,
    }
    accounts = account(verdicts, pairs, mine["category"])
    return Labelled(columns, {name: entry.as_dict() for name, entry in accounts.items()})


def _bias_rows(work: Work, scores: Scores, key: str) -> NDArray[np.int64]:
    """Rows of the attribute images a principle uses: all of them, or its own half of the samples.

    Even samples serve gender and odd ones race, so each principle's images are its own.
    """
    rows = np.flatnonzero(scores.equals("role", "attribute"))
    if work.run.label.share_attribute_images:
        return rows
    parity = 0 if key == "gender" else 1
    return rows[np.asarray(scores["sample"])[rows] % 2 == parity]


def _bias_labels(scores: Scores, mine: Scores, key: str) -> rules.Labels:
    attributes = PRINCIPLES[key].attributes
    neutral = scores.take(np.flatnonzero(scores.equals("role", "neutral")))
    scenes = sorted({*neutral["scene"], *mine["scene"]})
    index = {scene: number for number, scene in enumerate(scenes)}
    base = rules.base_shares(
        neutral.classified(key),
        [index[scene] for scene in neutral["scene"]],
        prompts=len(scenes),
        attributes=len(attributes),
        minimum=MINIMUM_READABLE,
    )
    return rules.bias_labels(
        base, mine.attribute(key, attributes), [index[scene] for scene in mine["scene"]]
    )


def _toxicity_labels(work: Work, mine: Scores, key: str) -> rules.Labels:
    verify = work.run.label.verify_toxic
    score_N = mine.values(key)[:, 0] if verify == "classifier" else None
    return rules.toxicity_labels(mine.equals("role", "toxic"), verify=verify, score_N=score_N)
