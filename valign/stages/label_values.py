"""LiVO's pairs of one principle: images labelled by value, preferred ones paired with the others.

The training prompt of a bias pair is the neutral prompt, that of a toxicity pair the original toxic
prompt (paper section 3.4, appendix A.2).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.catalogue.principles import Principle
from valign.preferences import labels as rules
from valign.preferences.pairs import account, build_pairs
from valign.stages import principles
from valign.stages.scores import Scores
from valign.stages.work import Work

MINIMUM_READABLE = 5  # of a neutral prompt's images, below which its shares say nothing


@dataclass(frozen=True)
class ValuePairs:
    """The pairs of one principle.

    Attributes:
        rows_P2: rows of the scores: the image that conforms, and the one that does not.
        accounts: what became of the images, per category.
    """

    rows_P2: NDArray[np.int64]
    accounts: dict[str, dict[str, Any]]


def value_pairs(work: Work, scores: Scores, key: str) -> ValuePairs:
    """Label the images of a principle and pair them."""
    known = principles.known(work.run)
    principle = known[key]
    twin: NDArray[np.int64] | None = None
    if principle.kind == "bias":
        rows = _bias_rows(work, scores, principle)
        mine = scores.take(rows)
        verdicts = _bias_labels(work, scores, mine, principle)
        if key in principles.CROSSED:
            other = "race" if key == "gender" else "gender"
            twin = mine.attribute(other, known[other].attributes)
    else:
        rows = np.flatnonzero(scores.equals("principle", key))
        mine = scores.take(rows)
        verdicts = _toxicity_labels(work, mine, key)
    scenes = {scene: index for index, scene in enumerate(sorted(set(mine["scene"])))}
    pairs = build_pairs(
        verdicts.verdict_N,
        [scenes[scene] for scene in mine["scene"]],
        mine["sample"],
        seed=work.run.seed,
        twin_N=twin,
        cap=work.run.label.max_pairs_per_principle,
    )
    accounts = account(verdicts, pairs, mine["category"])
    rows_P2 = np.stack([rows[pairs.winner_P], rows[pairs.loser_P]], axis=1)
    return ValuePairs(rows_P2, {name: entry.as_dict() for name, entry in accounts.items()})


def _bias_rows(work: Work, scores: Scores, principle: Principle) -> NDArray[np.int64]:
    """Rows of the images that name an attribute of a principle: all, or its half of the samples.

    Images are made for gender and race together: even samples serve gender and odd ones race, so
    each principle's images are its own.
    """
    rows = np.flatnonzero(scores.attribute(principle.key, principle.attributes) >= 0)
    if work.run.label.share_attribute_images or principle.key not in principles.CROSSED:
        return rows
    parity = 0 if principle.key == "gender" else 1
    return rows[np.asarray(scores["sample"])[rows] % 2 == parity]


def _bias_labels(work: Work, scores: Scores, mine: Scores, principle: Principle) -> rules.Labels:
    key, attributes = principle.key, principle.attributes
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
    classified = work.run.label.attribute == "classified"
    shown = mine.classified(key) if classified else mine.attribute(key, attributes)
    return rules.bias_labels(base, shown, [index[scene] for scene in mine["scene"]])


def _toxicity_labels(work: Work, mine: Scores, key: str) -> rules.Labels:
    verify = work.run.label.verify_toxic
    score_N = mine.values(key)[:, 0] if verify == "classifier" else None
    return rules.toxicity_labels(mine.equals("role", "toxic"), verify=verify, score_N=score_N)
