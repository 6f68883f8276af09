"""BalancedDPO's aggregations: every voter's ballot counts once, abstentions nowhere."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import random_errors
from test_objectives_math import log_sigmoid

from valign.training.dpo_losses import balanced_dpo, chosen_voter, diffusion_dpo
from valign.training.errors import Errors

VOTERS = ("hps", "clip", "pick", "aesthetic")
K, BETA = len(VOTERS), 5000.0


def random_ballots(size: int, *, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (size, K), generator=rng, dtype=torch.int8)


def decided(ballots: torch.Tensor) -> torch.Tensor:
    return (ballots != 0).sum(dim=0)


def vanilla(errors: Errors, ballots: torch.Tensor, **options):
    return balanced_dpo(
        errors, beta=BETA, aggregation="losses", ballots_BK=ballots, voters=VOTERS, **options
    )


@settings(max_examples=25)
@given(size=st.integers(1, 9), seed=st.integers(0, 99))
def test_vanilla_aggregation_equals_eq_10_in_scalars(size, seed):
    """BalancedDPO paper, Eq. 10, voter by voter over the pairs on which it does not abstain."""
    errors, ballots = random_errors(size, seed=seed), random_ballots(size, seed=seed)
    weights = (0.4, 0.3, 0.2, 0.1)
    loss, metrics = vanilla(errors, ballots, weights_K=weights)
    rows = list(zip(*(e.tolist() for e in (*errors.policy, *errors.reference)), strict=True))
    expected = 0.0
    for k, weight in enumerate(weights):
        terms, right = [], []
        for (w, low, ref_w, ref_l), ballot in zip(rows, ballots[:, k].tolist(), strict=True):
            if ballot:
                inside = -(BETA / 2) * ((w - low) - (ref_w - ref_l))
                terms.append(-log_sigmoid(ballot * inside))
                right.append(ballot * inside > 0)
        expected += weight * sum(terms) / len(terms) if terms else 0.0
        share = sum(right) / len(right) if right else 0.0
        assert metrics[f"implicit_accuracy_{VOTERS[k]}"].item() == pytest.approx(share)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert metrics["loss"].item() == loss.item()


def test_identity_is_ln_2_whoever_abstains():
    error_w, error_l = torch.rand(2, 24)
    ballots = random_ballots(24)
    assert (ballots == 0).any(dim=0).all(), "every voter abstains somewhere"
    loss, metrics = vanilla(Errors(error_w, error_l, error_w, error_l), ballots)
    assert loss.item() == pytest.approx(math.log(2))
    assert all(metrics[f"implicit_accuracy_{voter}"] == 0.5 for voter in VOTERS)


def test_unanimous_ballots_make_it_diffusion_dpo_and_reversed_ones_its_mirror():
    errors = random_errors(7)
    ones = torch.ones(7, K)
    plain = diffusion_dpo(errors, beta=BETA)[0]
    mirrored = diffusion_dpo(
        Errors(*reversed(errors.policy), *reversed(errors.reference)), beta=BETA
    )[0]
    assert vanilla(errors, ones)[0].item() == pytest.approx(plain.item())
    assert vanilla(errors, -ones)[0].item() == pytest.approx(mirrored.item())


def test_swapping_images_and_ballots_changes_nothing():
    errors, ballots = random_errors(9), random_ballots(9)
    swapped = Errors(*reversed(errors.policy), *reversed(errors.reference))
    assert vanilla(swapped, -ballots)[0].item() == pytest.approx(vanilla(errors, ballots)[0].item())


def test_opposed_ballots_cancel_at_the_identity():
    """The conflict that the paper names: two voters who disagree give no gradient."""
    policy = [torch.full((1,), 0.3, requires_grad=True) for _ in range(2)]
    errors = Errors(*policy, *torch.full((2, 1), 0.3))
    vanilla(errors, torch.tensor([[1, 1, -1, -1]]))[0].backward()
    assert all(p.grad.abs().item() < 1e-4 for p in policy)
    vanilla(errors, torch.tensor([[1, 1, 1, -1]]))[0].backward()
    assert policy[0].grad.item() > 1


def test_an_abstention_has_no_gradient():
    errors = random_errors(3)
    inputs = [e.clone().requires_grad_() for e in errors.policy]
    ballots = torch.tensor([[1, 1, -1, 1], [0, 0, 0, 0], [1, -1, -1, 1]])
    vanilla(Errors(*inputs, *errors.reference), ballots)[0].backward()
    assert (inputs[0].grad != 0).tolist() == [True, False, True]


def test_gradients_equal_finite_differences():
    errors, ballots = random_errors(6), random_ballots(6)
    inputs = [e.clone().requires_grad_() for e in errors.policy]

    def loss(policy_w: torch.Tensor, policy_l: torch.Tensor) -> torch.Tensor:
        return vanilla(Errors(policy_w, policy_l, *errors.reference), ballots)[0]

    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("aggregation", ["labels", "losses", "random_scorer"])
@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 11), unique=True, max_size=4), seed=st.integers(0, 99))
def test_shards_with_different_abstentions_add_up_to_the_whole(aggregation, cuts, seed):
    errors, ballots = random_errors(12, seed=seed), random_ballots(12, seed=seed)
    weights = [float(k == chosen_voter(seed, 3, K)) for k in range(K)]
    options = {"beta": BETA, "aggregation": aggregation, "voters": VOTERS}
    options |= {"weights_K": weights} if aggregation == "random_scorer" else {}
    inputs, shard_inputs = ([e.clone().requires_grad_() for e in errors.policy] for _ in range(2))
    whole, whole_metrics = balanced_dpo(
        Errors(*inputs, *errors.reference), ballots_BK=ballots, **options
    )
    whole.backward()
    shards = []
    for start, stop in itertools.pairwise([0, *sorted(cuts), 12]):
        loss, metrics = balanced_dpo(
            Errors(*(e[start:stop] for e in (*shard_inputs, *errors.reference))),
            ballots_BK=ballots[start:stop],
            decided_K=decided(ballots),
            normaliser=12,
            **options,
        )
        loss.backward()
        shards.append(metrics)
    for mine, theirs in zip(shard_inputs, inputs, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for name, value in whole_metrics.items():
        assert sum(m[name] for m in shards).item() == pytest.approx(value.item(), abs=1e-12)


def test_a_mean_over_shards_would_not_be_the_whole():
    """What the global denominator is for: shards that divide by their own counts differ."""
    errors = random_errors(4)
    ballots = torch.tensor([[1] * K, [0] * K, [0] * K, [-1] * K])
    ballots[1] = 1
    whole = vanilla(errors, ballots)[0].item()
    halves = [
        vanilla(Errors(*(e[part] for e in (*errors.policy, *errors.reference))), ballots[part])[0]
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert sum(halves).item() / 2 != pytest.approx(whole, rel=1e-3)


def test_the_random_scorer_is_one_voters_loss():
    errors, ballots = random_errors(9), random_ballots(9)
    for voter in range(K):
        weights = [float(k == voter) for k in range(K)]
        found = balanced_dpo(
            errors,
            beta=BETA,
            aggregation="random_scorer",
            ballots_BK=ballots,
            weights_K=weights,
            voters=VOTERS,
        )[0]
        rows = ballots[:, voter] != 0
        signs = ballots[rows, voter]
        sides = [e[rows] for e in (*errors.policy, *errors.reference)]
        ordered = [torch.where(signs > 0, sides[i], sides[i ^ 1]) for i in range(4)]
        assert found.item() == pytest.approx(diffusion_dpo(Errors(*ordered), beta=BETA)[0].item())


def test_the_random_scorer_is_drawn_from_seed_and_step():
    drawn = [chosen_voter(7, step, K) for step in range(400)]
    assert drawn == [chosen_voter(7, step, K) for step in range(400)]
    assert drawn != [chosen_voter(8, step, K) for step in range(400)]
    assert all(60 < drawn.count(voter) < 140 for voter in range(K)), "uniform over the voters"


def test_labels_measure_the_ballots_and_keep_diffusion_dpos_loss():
    errors, ballots = random_errors(9), random_ballots(9)
    loss, metrics = balanced_dpo(errors, beta=BETA, ballots_BK=ballots, voters=VOTERS)
    plain, plain_metrics = diffusion_dpo(errors, beta=BETA)
    assert torch.equal(loss, plain)
    assert plain_metrics.items() <= metrics.items()
    assert set(metrics) - set(plain_metrics) == {f"implicit_accuracy_{v}" for v in VOTERS}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errors_are_computed_in_float32(dtype):
    errors, ballots = random_errors(32, dtype=dtype), random_ballots(32)
    loss, metrics = vanilla(errors, ballots)
    assert loss.dtype is torch.float32
    assert all(value.dtype is torch.float32 for value in metrics.values())
    exact = Errors(*(e.double() for e in (*errors.policy, *errors.reference)))
    assert loss.item() == pytest.approx(vanilla(exact, ballots)[0].item(), rel=1e-4)


def test_what_does_not_fit_is_refused():
    errors = random_errors(3)
    with pytest.raises(ValueError, match="is not one of labels, losses, random_scorer"):
        balanced_dpo(errors, beta=BETA, aggregation="median")
    with pytest.raises(ValueError, match="needs every voter's ballots"):
        balanced_dpo(errors, beta=BETA, aggregation="losses")
    with pytest.raises(ValueError, match="one ballot per pair and voter"):
        vanilla(errors, random_ballots(2))
    with pytest.raises(ValueError, match="give one per voter"):
        vanilla(errors, random_ballots(3), weights_K=(1.0, 1.0))
