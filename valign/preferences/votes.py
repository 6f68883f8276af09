"""Several scorers vote on which image of a pair is better (BalancedDPO sections III-B and IV).

In: two images' scores per voter. Out: every voter's ballot, a verdict per pair, and why a pair has
none. A ballot is the sign of a difference of scores, so it does not depend on a scorer's scale; a
voter abstains where it has no score, or the same score twice. Everything is position-symmetric:
swapping the images of a pair negates ballots and verdict. The exception is the mode `paper`, which
keeps the paper's own wording. Left out: which images meet (`candidates`), and what it is used for.

Shapes: P pairs, K voters, N images. +1 is for the first image, -1 for the second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.records import digest

Mode = Literal["majority", "paper", "single", "random", "sum", "normalized"]
Ties = Literal["skip", "label", "margin", "random"]
MODES: tuple[str, ...] = get_args(Mode)
TIES: tuple[str, ...] = get_args(Ties)

VOTE, LABEL, MARGIN, RANDOM, UNDECIDED = "vote", "label", "margin", "random", ""
NO_QUORUM = "too few voters that did not abstain"
NO_SCORE = "a voter has no score, and scores are summed"
VETOED = "won by the image that conforms less"

_SUMS = ("sum", "normalized")
_ROUNDING = 1e-12  # a sum this small, relative to its terms, is zero


@dataclass(frozen=True, slots=True)
class Voter:
    """A scorer with a vote; a negative weight says that lower scores are better.

    The weight's size counts in sums only: in a majority every voter has one vote.
    """

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight or not math.isfinite(self.weight):
            raise ValueError(f"voter {self.name}: weight {self.weight} must be finite and not 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How ballots and scores become a verdict.

    Attributes:
        mode: `majority`: the sign of the ballots' sum (paper Eq. 8). `paper`: the same, but a
            voter's tie counts for the first image and a tie of votes for the second, as the
            paper's words say. `single`: one voter decides. `random`: one voter per pair, drawn
            among those who did not abstain. `sum`: the weighted sum of score differences (the
            paper's vanilla aggregation). `normalized`: the same of z-scores.
        ties: what happens to a tie: `skip` leaves it undecided; `label` takes a person's label;
            `margin` the sign of the weighted sum of z-scored differences; `random` a coin.
        quorum: voters that must not have abstained; pairs with fewer are dropped.
        single: the deciding voter's name, for the mode `single`.
        seed: of the coin and of the drawn voters.
    """

    mode: Mode = "majority"
    ties: Ties = "skip"
    quorum: int = 1
    single: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.ties not in TIES:
            raise ValueError(f"ties {self.ties!r} is not one of {', '.join(TIES)}")
        if self.quorum < 1:
            raise ValueError(f"quorum {self.quorum} must be at least 1")


@dataclass(frozen=True, slots=True)
class Votes:
    """What was voted on each pair.

    Attributes:
        voters: names of the voters, in the order of the columns.
        ballots_PK: int8, +1 for the first image, -1 for the second, 0 for an abstention.
        differences_PK: float64, first score minus second; NaN where one is missing.
        verdict_P: int8, +1 the first image won, -1 the second, 0 nobody.
        margin_P: float64, the quantity whose sign is the rule's verdict: a count of ballots, or a
            sum of scores. 0 for a tie.
        tied_P: whether the rule itself found a tie.
        decided_P: VOTE, or what broke the tie (LABEL, MARGIN, RANDOM), or UNDECIDED.
        dropped_P: why a pair cannot be used; "" for the others. Dropped pairs have no verdict.
    """

    voters: tuple[str, ...]
    ballots_PK: NDArray[np.int8]
    differences_PK: NDArray[np.float64]
    verdict_P: NDArray[np.int8]
    margin_P: NDArray[np.float64]
    tied_P: NDArray[np.bool_]
    decided_P: tuple[str, ...]
    dropped_P: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.verdict_P)


def vote(
    first_PK: ArrayLike,
    second_PK: ArrayLike,
    names_P2: Sequence[tuple[str, str]],
    *,
    voters: Sequence[Voter],
    rule: Rule,
    spread_K: ArrayLike | None = None,
    human_P: ArrayLike | None = None,
) -> Votes:
    """Hold the vote on every pair.

    Args:
        first_PK: the first images' scores, NaN where there is none.
        second_PK: the second images' scores.
        names_P2: both images' ids, which chance is drawn from.
        voters: who votes, in the order of the columns.
        rule: how the verdict is found.
        spread_K: standard deviation of each voter's scores over the dataset, for z-scores; see
            `spreads`. Needed by the mode `normalized` and by ties `margin`.
        human_P: a person's label per pair: +1, -1, 0 for a tie, NaN for none. Needed by ties
            `label`.

    Raises:
        ValueError: arrays do not fit together, or what the rule needs is missing.
    """
    first, second = (_finite(scores) for scores in (first_PK, second_PK))
    shape = (len(names_P2), len(voters))
    if first.shape != shape or second.shape != shape:
        raise ValueError(f"scores of {first.shape} and {second.shape}; expected {shape} of both")
    _check(voters, rule, spread_K, human_P)
    differences = first - second
    weights = np.array([voter.weight for voter in voters])
    ballots = np.sign(np.nan_to_num(differences) * np.sign(weights))
    if rule.mode == "paper":
        ballots[differences == 0] = 1
    z_scored = None if spread_K is None else _z_scored(differences, spread_K) * weights
    margin = _margin(ballots, differences * weights, z_scored, names_P2, voters, rule)
    dropped = np.full(shape[0], "", dtype=object)
    dropped[(ballots != 0).sum(axis=1) < rule.quorum] = NO_QUORUM
    if rule.mode in _SUMS:
        dropped[np.isnan(differences).any(axis=1)] = NO_SCORE
    usable = dropped == ""
    verdict = np.where(usable, np.sign(margin), 0)
    tied = usable & (verdict == 0)
    decided = np.where(verdict != 0, VOTE, UNDECIDED).astype(object)
    if rule.mode == "paper":
        verdict[tied], decided[tied] = -1, VOTE
    elif rule.ties != "skip":
        broken = _tie_break(rule, names_P2, human_P, z_scored)
        verdict[tied] = broken[tied]
        decided[tied & (broken != 0)] = rule.ties
    return Votes(
        tuple(voter.name for voter in voters),
        ballots.astype(np.int8),
        differences,
        verdict.astype(np.int8),
        np.where(usable, margin, 0.0),
        tied,
        tuple(decided.tolist()),
        tuple(dropped.tolist()),
    )


def veto(votes: Votes, conformity_P: ArrayLike) -> Votes:
    """Drop the pairs that were won by the image that conforms less to its principle.

    Args:
        votes: the vote of the other voters.
        conformity_P: how much better the first image conforms; below zero: the second does; 0 or
            NaN: no veto.
    """
    conformity = np.nan_to_num(np.asarray(conformity_P, np.float64))
    against = votes.verdict_P * np.sign(conformity) < 0
    return replace(
        votes,
        verdict_P=np.where(against, 0, votes.verdict_P).astype(np.int8),
        decided_P=tuple(np.where(against, UNDECIDED, votes.decided_P).tolist()),
        dropped_P=tuple(np.where(against, VETOED, votes.dropped_P).tolist()),
    )


def spreads(scores_NK: ArrayLike) -> NDArray[np.float64]:
    """Return the standard deviation of each voter's scores, NaN for one that has none."""
    scores = np.asarray(scores_NK, np.float64)
    columns = (scores[np.isfinite(scores[:, k]), k] for k in range(scores.shape[1]))
    return np.array([column.std() if len(column) else np.nan for column in columns])


def _check(
    voters: Sequence[Voter], rule: Rule, spread_K: ArrayLike | None, human_P: ArrayLike | None
) -> None:
    names = [voter.name for voter in voters]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"voters {names} must be at least one, each named once")
    if rule.mode == "single" and rule.single not in names:
        raise ValueError(f"the single voter {rule.single!r} is not among {', '.join(names)}")
    if rule.quorum > len(names):
        raise ValueError(f"quorum {rule.quorum} is more than the {len(names)} voters")
    if spread_K is None and (rule.mode == "normalized" or rule.ties == "margin"):
        raise ValueError("mode normalized and ties margin need each voter's spread; see spreads()")
    if human_P is None and rule.ties == "label":
        raise ValueError("ties label needs a person's label per pair")


def _finite(scores: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(scores, np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _z_scored(differences_PK: NDArray[np.float64], spread_K: ArrayLike) -> NDArray[np.float64]:
    """Differences of z-scores: the means cancel. A voter without spread makes no difference."""
    spread = np.asarray(spread_K, np.float64)
    varies = np.where(spread > 0, spread, np.inf)
    return differences_PK / varies


def _margin(
    ballots_PK: NDArray[np.float64],
    weighted_PK: NDArray[np.float64],
    z_scored_PK: NDArray[np.float64] | None,
    names_P2: Sequence[tuple[str, str]],
    voters: Sequence[Voter],
    rule: Rule,
) -> NDArray[np.float64]:
    if rule.mode == "sum":
        return _sums(weighted_PK)
    if rule.mode == "normalized":
        assert z_scored_PK is not None
        return _sums(z_scored_PK)
    if rule.mode == "single":
        column = [voter.name for voter in voters].index(rule.single)
        return ballots_PK[:, column] * np.abs(np.nan_to_num(weighted_PK[:, column]))
    if rule.mode == "random":
        drawn = [
            _drawn(names, row, voters, rule.seed)
            for names, row in zip(names_P2, ballots_PK, strict=True)
        ]
        return np.array(drawn, np.float64)
    return ballots_PK.sum(axis=1)


def _drawn(
    names: tuple[str, str], ballots_K: NDArray[np.float64], voters: Sequence[Voter], seed: int
) -> float:
    """Return the ballot of a voter drawn by hash among those who voted; 0 if nobody did."""
    voted = [
        (digest("voter", seed, sorted(names), voter.name), float(ballot))
        for voter, ballot in zip(voters, ballots_K, strict=True)
        if ballot
    ]
    return max(voted)[1] if voted else 0.0


def _sums(terms_PK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum each row, exactly and so in any order; what only rounding keeps from zero is zero."""
    totals = [math.fsum(row) for row in np.nan_to_num(terms_PK)]
    size_P = np.abs(np.nan_to_num(terms_PK)).sum(axis=1)
    return np.where(np.abs(totals) <= _ROUNDING * size_P, 0.0, totals)


def _tie_break(
    rule: Rule,
    names_P2: Sequence[tuple[str, str]],
    human_P: ArrayLike | None,
    z_scored_PK: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    if rule.ties == "label":
        return np.sign(np.nan_to_num(np.asarray(human_P, np.float64)))
    if rule.ties == "margin":
        assert z_scored_PK is not None
        return np.sign(_sums(z_scored_PK))
    coins = (
        [digest("tie", rule.seed, sorted(names), name) for name in names] for names in names_P2
    )
    return np.array([(a > b) - (a < b) for a, b in coins], np.float64)
