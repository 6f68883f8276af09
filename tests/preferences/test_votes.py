"""Votes: the rules by hand, and what must hold for any scores."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.preferences.votes import (
    LABEL,
    MARGIN,
    MODES,
    NO_QUORUM,
    NO_SCORE,
    RANDOM,
    TIES,
    UNDECIDED,
    VETOED,
    VOTE,
    Rule,
    Voter,
    Votes,
    spreads,
    veto,
    vote,
)

K = 4
VOTERS = [Voter("hps"), Voter("clip", 2.0), Voter("pick", 0.5), Voter("aesthetic", -1.0)]

# Small whole numbers make ties common and all arithmetic exact.
score = st.one_of(st.integers(-4, 4).map(float), st.just(np.nan))
pair_scores = st.lists(
    st.tuples(st.lists(score, min_size=K, max_size=K), st.lists(score, min_size=K, max_size=K)),
    min_size=1,
    max_size=12,
)
rules = st.builds(
    Rule,
    mode=st.sampled_from(MODES),
    ties=st.sampled_from(TIES),
    quorum=st.integers(1, K),
    single=st.just("clip"),
    seed=st.integers(0, 5),
)


def hold(pairs: list, rule: Rule, voters: list = VOTERS, human: list | None = None) -> Votes:
    """Vote on pairs of score lists; images are named by their place."""
    first, second = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    names = [(f"a{i}", f"b{i}") for i in range(len(pairs))]
    return vote(
        first,
        second,
        names,
        voters=voters,
        rule=rule,
        spread_K=spreads(np.concatenate([first, second])),
        human_P=human or [(-1, 0, 1, np.nan)[i % 4] for i in range(len(pairs))],
    )


def swapped(pairs: list, rule: Rule) -> Votes:
    """Hold the same vote with the two images of every pair swapped."""
    first, second = (np.array([pair[side] for pair in pairs]) for side in (1, 0))
    return vote(
        first,
        second,
        [(f"b{i}", f"a{i}") for i in range(len(pairs))],
        voters=VOTERS,
        rule=rule,
        spread_K=spreads(np.concatenate([first, second])),
        human_P=[(1, 0, -1, np.nan)[i % 4] for i in range(len(pairs))],
    )


@given(pair_scores, rules)
def test_swapping_the_images_negates_everything_but_paper_mode(pairs: list, rule: Rule) -> None:
    if rule.mode == "paper":
        return
    one, other = hold(pairs, rule), swapped(pairs, rule)
    assert np.array_equal(one.verdict_P, -other.verdict_P)
    assert np.array_equal(one.ballots_PK, -other.ballots_PK)
    assert np.array_equal(one.margin_P, -other.margin_P)
    np.testing.assert_array_equal(one.differences_PK, -other.differences_PK)
    assert (one.decided_P, one.dropped_P) == (other.decided_P, other.dropped_P)


@given(pair_scores, rules, st.permutations(range(K)))
def test_the_order_of_the_voters_changes_nothing(pairs: list, rule: Rule, order: list) -> None:
    moved = [tuple([side[k] for k in order] for side in pair) for pair in pairs]
    one, other = hold(pairs, rule), hold(moved, rule, [VOTERS[k] for k in order])
    assert np.array_equal(one.verdict_P, other.verdict_P)
    assert np.array_equal(one.margin_P, other.margin_P)
    assert (one.decided_P, one.dropped_P) == (other.decided_P, other.dropped_P)
    assert np.array_equal(one.ballots_PK[:, order], other.ballots_PK)


@given(
    pair_scores,
    rules,
    st.lists(st.sampled_from([0.1, 0.5, 3.0, 70.0]), min_size=K, max_size=K),
    st.lists(st.integers(-100, 100), min_size=K, max_size=K),
)
def test_a_voters_scale_changes_nothing_unless_raw_scores_are_summed(
    pairs: list, rule: Rule, scale: list, shift: list
) -> None:
    if rule.mode == "sum":
        return
    scaled = [
        tuple([x * a + b for x, a, b in zip(side, scale, shift, strict=True)] for side in pair)
        for pair in pairs
    ]
    one = hold(pairs, rule)
    # 0.1 has no exact binary fraction: equal scores stay equal, others differ by rounding only.
    other = hold(scaled, rule)
    assert np.array_equal(one.verdict_P, other.verdict_P)
    assert np.array_equal(one.ballots_PK, other.ballots_PK)
    assert (one.decided_P, one.dropped_P) == (other.decided_P, other.dropped_P)


def test_a_voters_scale_does_change_raw_sums() -> None:
    pairs = [([3.0, 0.0], [0.0, 1.0])]
    voters = [Voter("a"), Voter("b")]
    assert hold(pairs, Rule(mode="sum"), voters).verdict_P.tolist() == [1]
    scaled = [([3.0, 0.0], [0.0, 10.0])]
    assert hold(scaled, Rule(mode="sum"), voters).verdict_P.tolist() == [-1]
    for mode in ("majority", "normalized"):
        rule = Rule(mode=mode)
        verdicts = [hold(p, rule, voters).verdict_P.tolist() for p in (pairs, scaled)]
        assert verdicts[0] == verdicts[1]


@given(pair_scores, rules)
def test_missing_scores_abstain_and_the_quorum_holds(pairs: list, rule: Rule) -> None:
    votes = hold(pairs, rule)
    missing = np.array([np.isnan(a) | np.isnan(b) for a, b in np.array(pairs)])
    assert (votes.ballots_PK[missing] == 0).all()
    assert np.array_equal(np.isnan(votes.differences_PK), missing)
    voted = (votes.ballots_PK != 0).sum(axis=1)
    for i, reason in enumerate(votes.dropped_P):
        if rule.mode in ("sum", "normalized") and missing[i].any():
            assert reason == NO_SCORE
        else:
            assert reason == (NO_QUORUM if voted[i] < rule.quorum else "")
        if reason:
            assert (votes.verdict_P[i], votes.decided_P[i]) == (0, UNDECIDED)


@given(pair_scores, rules)
def test_decisions_are_told_apart(pairs: list, rule: Rule) -> None:
    votes = hold(pairs, rule)
    for verdict, margin, tied, decided in zip(
        votes.verdict_P, votes.margin_P, votes.tied_P, votes.decided_P, strict=True
    ):
        assert (verdict == 0) == (decided == UNDECIDED)
        if decided == VOTE and rule.mode != "paper":
            assert verdict == np.sign(margin)
            assert not tied
        if decided in (LABEL, MARGIN, RANDOM):
            assert tied
            assert decided == rule.ties
    if rule.ties == "random" and rule.mode != "paper":
        assert all(d or reason for d, reason in zip(votes.decided_P, votes.dropped_P, strict=True))


def test_every_pattern_of_four_ballots() -> None:
    """Three against one decides, two against two is a tie, an abstention makes a tie one short."""
    voters = [Voter(name) for name in "abcd"]
    for ballots in itertools.product([-1, 0, 1], repeat=4):
        votes = hold([(list(map(float, ballots)), [0.0] * 4)], Rule(), voters)
        assert votes.ballots_PK.tolist() == [list(ballots)]
        assert votes.verdict_P[0] == np.sign(sum(ballots))
        assert votes.margin_P[0] == sum(ballots)
        assert votes.dropped_P[0] == ("" if any(ballots) else NO_QUORUM)


def test_paper_mode_keeps_the_papers_words() -> None:
    voters = [Voter(name) for name in "abcd"]
    rule = Rule(mode="paper", ties="random")
    zero = [0.0] * 4
    all_equal = hold([(zero, zero)], rule, voters)
    assert all_equal.ballots_PK.tolist() == [[1, 1, 1, 1]]
    assert all_equal.verdict_P.tolist() == [1]
    two_two = hold([([1.0, 1.0, -1.0, -1.0], zero)], rule, voters)
    assert (two_two.verdict_P[0], two_two.tied_P[0], two_two.decided_P[0]) == (-1, True, VOTE)
    flipped = hold([([-1.0, -1.0, 1.0, 1.0], zero)], rule, voters)
    assert flipped.verdict_P[0] == -1  # not negated: that is what the mode is known for
    assert hold([([np.nan] * 4, zero)], rule, voters).dropped_P == (NO_QUORUM,)


def test_the_ways_to_break_a_tie() -> None:
    voters = [Voter("a"), Voter("b")]
    pairs = [([3.0, 0.0], [0.0, 1.0]), ([0.0, 4.0], [1.0, 0.0])]  # one against one, twice
    labels = [-1.0, np.nan]
    kept = hold(pairs, Rule(ties="skip"), voters)
    assert kept.verdict_P.tolist() == [0, 0]
    assert kept.tied_P.all()
    by_label = hold(pairs, Rule(ties="label"), voters, labels)
    assert (by_label.verdict_P.tolist(), by_label.decided_P) == ([-1, 0], (LABEL, UNDECIDED))
    by_margin = vote(
        [[3.0, 0.0]], [[0.0, 1.0]], [("x", "y")], voters=voters, rule=Rule(ties="margin"),
        spread_K=[1.0, 0.1],
    )  # fmt: skip
    assert (by_margin.verdict_P.tolist(), by_margin.decided_P) == ([-1], (MARGIN,))
    many = [([1.0, 0.0], [0.0, 1.0])] * 200
    coins = [hold(many, Rule(ties="random", seed=s), voters).verdict_P for s in (1, 1, 2)]
    assert np.array_equal(coins[0], coins[1])
    assert not np.array_equal(coins[0], coins[2])
    assert 60 < (coins[0] == 1).sum() < 140


def test_a_drawn_voter_decides_and_all_are_drawn() -> None:
    voters = [Voter(name) for name in "abc"]
    votes = hold([([1.0, -1.0, np.nan], [0.0] * 3)] * 300, Rule(mode="random"), voters)
    assert set(votes.verdict_P.tolist()) == {1, -1}  # never the abstaining one
    assert 100 < (votes.verdict_P == 1).sum() < 200
    alone = hold([([0.0, 0.0, -5.0], [0.0] * 3)], Rule(mode="random"), voters)
    assert alone.verdict_P.tolist() == [-1]


def test_a_negative_weight_turns_a_voter_round() -> None:
    votes = hold([([1.0], [0.0])], Rule(), [Voter("toxic", -1.0)])
    assert (votes.ballots_PK.tolist(), votes.verdict_P.tolist()) == ([[-1]], [-1])
    assert votes.differences_PK.tolist() == [[1.0]]


def test_one_voter_alone_decides_and_the_others_ballots_are_kept() -> None:
    votes = hold([([5.0, 0.0, 5.0, 5.0], [0.0, 1.0, 0.0, 0.0])], Rule(mode="single", single="clip"))
    assert votes.verdict_P.tolist() == [-1]
    assert votes.ballots_PK.tolist() == [[1, -1, 1, -1]]
    assert votes.voters == ("hps", "clip", "pick", "aesthetic")


def test_weights_count_in_sums_only() -> None:
    heavy = [Voter("a", 10.0), Voter("b"), Voter("c")]
    pairs = [([1.0, 0.0, 0.0], [0.0, 1.0, 1.0])]
    assert hold(pairs, Rule(), heavy).verdict_P.tolist() == [-1]
    assert hold(pairs, Rule(mode="sum"), heavy).verdict_P.tolist() == [1]


def test_what_conforms_less_cannot_win() -> None:
    voters = [Voter("a")]
    pairs = [([1.0], [0.0])] * 3 + [([0.0], [0.0])]
    votes = veto(hold(pairs, Rule(), voters), [-2, 2, np.nan, -1])
    assert votes.dropped_P == (VETOED, "", "", NO_QUORUM)
    assert votes.verdict_P.tolist() == [0, 1, 1, 0]
    assert votes.decided_P == (UNDECIDED, VOTE, VOTE, UNDECIDED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": Rule(mode="normalized")}, "spread"),
        ({"rule": Rule(ties="margin")}, "spread"),
        ({"rule": Rule(ties="label")}, "person's label"),
        ({"rule": Rule(quorum=2)}, "quorum 2 is more than the 1"),
        ({"rule": Rule(mode="single", single="x")}, "'x' is not among a"),
        ({"voters": [Voter("a"), Voter("a")]}, "expected"),
    ],
)
def test_what_a_rule_lacks_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vote([[1.0]], [[0.0]], [("x", "y")], **{"voters": [Voter("a")], "rule": Rule(), **change})
    with pytest.raises(ValueError, match="weight"):
        Voter("a", 0.0)
    with pytest.raises(ValueError, match="majority"):
        Rule(mode="plurality")  # type: ignore[arg-type]
