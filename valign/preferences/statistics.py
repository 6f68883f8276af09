"""What a vote was like: how often it tied, who voted with whom, and with a person.

In: the votes on pairs. Out: plain numbers for a manifest and a dataset's card. Shares are 0..1 and
None where nothing was counted.

Shapes: P pairs, K voters.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.preferences.labels import count_reasons
from valign.preferences.votes import UNDECIDED, Votes


def tally(votes: Votes, human_P: ArrayLike | None = None) -> dict[str, Any]:
    """Count what became of the pairs that were voted on, and compare the voters.

    Args:
        votes: the votes on all candidate pairs, dropped ones included.
        human_P: a person's label per pair: +1, -1, 0 for a tie, NaN for none.

    Returns:
        `candidates`: pairs voted on; `decided`: how many by what; `undecided`; `dropped`: how many
        for which reason; `tie_share`: ties among the pairs that were not dropped; `voters`: share
        of ballots cast, of those with the verdict, and of those with the person; `agreement`: see
        `agreement`; `mean_agreement`: its mean over the pairs of voters.
    """
    kept = np.array([not reason for reason in votes.dropped_P], bool)
    decided = [name for name, keep in zip(votes.decided_P, kept, strict=True) if keep]
    matrix = agreement(votes.ballots_PK)
    off_diagonal = [
        value for i, row in enumerate(matrix) for value in row[i + 1 :] if value is not None
    ]
    human = np.zeros(len(votes)) if human_P is None else np.nan_to_num(np.asarray(human_P, float))
    voters = {
        name: {
            "cast": _share(ballots != 0),
            "with_verdict": _agree(ballots, votes.verdict_P),
            "with_person": _agree(ballots, human),
        }
        for name, ballots in zip(votes.voters, votes.ballots_PK.T, strict=True)
    }
    return {
        "candidates": len(votes),
        "decided": count_reasons(decided),
        "undecided": decided.count(UNDECIDED),
        "dropped": count_reasons(votes.dropped_P),
        "tie_share": _share(votes.tied_P[kept]),
        "voters": voters,
        "with_person": _agree(votes.verdict_P, human),
        "agreement": matrix,
        "mean_agreement": round(sum(off_diagonal) / len(off_diagonal), 6) if off_diagonal else None,
    }


def agreement(ballots_PK: NDArray[np.int8]) -> list[list[float | None]]:
    """Return how often each two voters agree, among the pairs on which neither abstained."""
    columns = ballots_PK.T
    return [[_agree(one, other) for other in columns] for one in columns]


def _agree(one: Sequence[int] | NDArray[Any], other: Sequence[int] | NDArray[Any]) -> float | None:
    product = np.asarray(one, np.float64) * np.asarray(other, np.float64)
    return _share(product[product != 0] > 0)


def _share(true_N: NDArray[np.bool_]) -> float | None:
    return round(float(true_N.mean()), 6) if true_N.size else None
