"""label: scores -> preferred and dispreferred images -> training pairs.

By the recipe's rule: LiVO's (values), a vote of scorers (BalancedDPO), or both on the same pairs.
Runs in the driver: it reads small score tables only. Every ballot is kept beside its pair.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.config import Run
from valign.preferences.statistics import tally
from valign.preferences.votes import Votes
from valign.records import pair_id
from valign.stages import dataset_card, dataset_counts
from valign.stages.label_values import value_pairs
from valign.stages.label_votes import Ballot, Candidates, imported_pairs, prompt_pairs, voters
from valign.stages.scores import Scores, read_scores
from valign.stages.work import Work
from valign.storage import layout, tables

Columns = dict[str, list[Any]]


def perform(work: Work) -> dict[str, Any]:
    """Label all images, pair them, write the pairs and the dataset's card."""
    run = work.run
    if run.prompts != "catalogue" and run.label.rule != "vote":
        raise ValueError(
            f"prompts={run.prompts}, label.rule={run.label.rule}: preferences by value need the "
            "catalogue's attribute and toxic prompts. Set label.rule=vote to let scorers decide "
            "between images of your own prompts."
        )
    scores = read_scores(work.store)
    columns, counts = (
        _by_vote(work, scores) if run.label.rule == "vote" else _by_value(work, scores)
    )
    pairs = sum(columns["verdict"])
    if not pairs:
        raise ValueError("no pair could be built:\n" + "\n".join(_accounts(counts)))
    tables.write(work.store, layout.pairs(0), columns, tables.PAIRS)
    counts = {"pairs": pairs, "undecided": len(columns["verdict"]) - pairs, **counts}
    counts["data"] = dataset_counts.data_table(scores, columns)
    dataset_card.write(work, scores, columns, counts)
    work.tell("label", pairs, pairs, "pairs")
    return counts


def upstream(run: Run) -> tuple[str, ...]:
    """Return the stages that must be finished first."""
    return ("generate", "score")


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root: nothing."""
    return {}


def details(counts: dict[str, Any]) -> list[str]:
    """Return the paper's table with our counts, then what became of the images, and why."""
    return [*dataset_counts.data_lines(counts["data"]), *_accounts(counts)]


def _by_value(work: Work, scores: Scores) -> tuple[Columns, dict[str, Any]]:
    """LiVO's pairs, each principle's after the other; under the rule joint, put to the vote."""
    run = work.run
    joint = Ballot(run, scores) if run.label.rule == "joint" else None
    columns: Columns = {name: [] for name in tables.PAIRS.names}
    accounts, votes = {}, {}
    for key in run.generate.principles:
        found = value_pairs(work, scores, key)
        accounts[key] = found.accounts
        if joint is None:
            made = _value_columns(scores, found.rows_P2, key)
        else:
            pairs = Candidates(found.rows_P2, joint.human(found.rows_P2))
            held = joint.hold(pairs, values=True)
            made = _vote_columns(scores, pairs, held, key, None, run.seed)
            votes[key] = tally(held, pairs.human_P)
        for name, values in made.items():
            columns[name] += values
    if joint is None:
        return columns, {"accounts": accounts}
    return columns, {"accounts": accounts, "votes": votes, "voters": voters(work, joint)}


def _by_vote(work: Work, scores: Scores) -> tuple[Columns, dict[str, Any]]:
    ballot = Ballot(work.run, scores)
    imported = work.store.exists(layout.candidates())
    pairs = imported_pairs(work.store, ballot) if imported else prompt_pairs(ballot)
    if work.run.label.vote.ties == "label" and np.isnan(pairs.human_P).all():
        raise ValueError(
            "label.vote.ties=label, but no pair has a person's label: name a column of scores with "
            "label.vote.human, or import pairs with labels"
        )
    held = ballot.hold(pairs)
    cap = work.run.label.max_pairs_per_principle
    columns = _vote_columns(scores, pairs, held, "", cap, work.run.seed)
    votes = {"": {**tally(held, pairs.human_P), "missing": pairs.missing}}
    return columns, {"accounts": {}, "votes": votes, "voters": voters(work, ballot)}


def _value_columns(scores: Scores, rows_P2: NDArray[np.int64], key: str) -> Columns:
    count = len(rows_P2)
    return {
        **_facts(scores, rows_P2[:, 0], rows_P2[:, 1], key, scores["scene"]),
        "verdict": [1] * count,
        "decided_by": ["livo"] * count,
        "tied": [False] * count,
        "margin": [0.0] * count,
        "voters": [[]] * count,
        "ballots": [[]] * count,
        "differences": [[]] * count,
        "human": [None] * count,
    }


def _vote_columns(
    scores: Scores, pairs: Candidates, held: Votes, key: str, cap: int | None, seed: int
) -> Columns:
    """Return the pairs that were not dropped, everything turned so that the winner is first."""
    kept = np.flatnonzero([not reason for reason in held.dropped_P])
    if cap is not None and len(kept) > cap:
        kept = np.sort(np.random.default_rng(seed).permutation(kept)[:cap])
    turned = held.verdict_P[kept] < 0
    turn_P1 = np.where(turned, -1, 1)[:, None]
    rows_P2 = np.where(turned[:, None], pairs.rows_P2[kept][:, ::-1], pairs.rows_P2[kept])
    human = pairs.human_P[kept] * turn_P1[:, 0]
    return {
        **_facts(scores, rows_P2[:, 0], rows_P2[:, 1], key, scores["scene" if key else "text"]),
        "verdict": np.abs(held.verdict_P[kept]).tolist(),
        "decided_by": [held.decided_P[row] for row in kept],
        "tied": held.tied_P[kept].tolist(),
        "margin": np.abs(held.margin_P[kept]).tolist(),
        "voters": [list(held.voters)] * len(kept),
        "ballots": (held.ballots_PK[kept] * turn_P1).tolist(),
        "differences": (held.differences_PK[kept] * turn_P1 + 0.0).tolist(),  # no -0.0
        "human": [None if np.isnan(label) else int(label) for label in human],
    }


def _facts(
    scores: Scores,
    winner_P: NDArray[np.int64],
    loser_P: NDArray[np.int64],
    key: str,
    texts: list[str],
) -> Columns:
    ids = scores["image_id"]
    winners, losers = [ids[row] for row in winner_P], [ids[row] for row in loser_P]
    return {
        "pair_id": [pair_id(*both, key) for both in zip(winners, losers, strict=True)],
        "principle": [key] * len(winners),
        "category": [scores["category"][row] for row in winner_P],
        "text": [texts[row] for row in winner_P],
        "winner": winners,
        "loser": losers,
    }


def _accounts(counts: dict[str, Any]) -> list[str]:
    lines = [
        f"  {key}, {category}: {entry['pairs']:,} pairs from {entry['preferred']:,} preferred and "
        f"{entry['dispreferred']:,} dispreferred of {entry['images']:,} images"
        + "".join(
            f" · {count:,} ({count / entry['images']:.1%}) {reason}"
            for reason, count in entry["skipped"].items()
        )
        for key, categories in counts["accounts"].items()
        for category, entry in categories.items()
    ]
    return lines + [
        line
        for key, entry in counts.get("votes", {}).items()
        for line in dataset_counts.vote_lines(key, entry)
    ]
