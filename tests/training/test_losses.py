"""LiVO's loss: identity, signs, finite differences, a re-derivation in scalars, sharding."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from valign.training.errors import Errors
from valign.training.losses import livo

PAPER = {"beta": 1000.0, "alpha": 500.0, "gamma1": 1.0, "gamma2": 0.5}


def random_errors(size: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Errors:
    """Errors around 0.3 whose gains straddle both margins of the paper's setting (1e-3)."""
    rng = torch.Generator().manual_seed(seed)
    reference = 0.3 + 0.1 * torch.rand(2, size, generator=rng, dtype=torch.float64)
    policy = reference + 0.002 * torch.randn(2, size, generator=rng, dtype=torch.float64)
    policy, reference = policy.to(dtype), reference.to(dtype)
    return Errors(policy[0], policy[1], reference[0], reference[1])


def rederived(errors: Errors, *, beta: float, alpha: float, gamma1: float, gamma2: float) -> float:
    """Eq. 6 on plain numbers."""
    total = 0.0
    rows = zip(
        *(e.tolist() for e in (*errors.policy, *errors.reference)),
        strict=True,
    )
    for policy_w, policy_l, reference_w, reference_l in rows:
        total += max(0.0, gamma1 + beta * (policy_w - reference_w))
        total += max(0.0, gamma2 + alpha * (reference_l - policy_l))
    return total / len(errors.policy_w_B)


def test_identity_is_the_sum_of_the_margins():
    error_w, error_l = torch.rand(2, 8)
    loss, metrics = livo(Errors(error_w, error_l, error_w, error_l), **PAPER)
    assert loss.item() == 1.5
    assert metrics["margin_w_active"] == metrics["margin_l_active"] == 1
    assert metrics["gain_w"] == metrics["gain_l"] == 0
    assert metrics["implicit_accuracy"] == 0.5


def test_gradients_lower_the_winners_error_and_raise_the_losers():
    reference = torch.full((1,), 0.3)
    policy_w, policy_l = (reference.clone().requires_grad_() for _ in range(2))
    livo(Errors(policy_w, policy_l, reference, reference), **PAPER)[0].backward()
    assert policy_w.grad.item() == pytest.approx(1000)
    assert policy_l.grad.item() == pytest.approx(-500)


def test_a_reached_margin_stops_its_own_term_only():
    policy_w = torch.tensor([0.3 - 0.0011, 0.3 - 0.0009]).requires_grad_()
    policy_l = torch.tensor([0.3 + 0.0009, 0.3 + 0.0011]).requires_grad_()
    reference = torch.full((2,), 0.3)
    loss, metrics = livo(Errors(policy_w, policy_l, reference, reference), **PAPER)
    loss.backward()
    assert (policy_w.grad != 0).tolist() == [False, True]
    assert (policy_l.grad != 0).tolist() == [True, False]
    assert metrics["margin_w_active"] == metrics["margin_l_active"] == 0.5
    assert metrics["implicit_accuracy"] == 1


def test_gradients_equal_finite_differences():
    errors = random_errors(12)
    inputs = [e.clone().requires_grad_() for e in errors.policy]

    def loss(policy_w: torch.Tensor, policy_l: torch.Tensor) -> torch.Tensor:
        return livo(Errors(policy_w, policy_l, *errors.reference), **PAPER)[0]

    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-3, rtol=1e-5)
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    assert all(0 < (g == 0).sum() < 12 for g in gradients), "both sides of both clamps are tried"


@given(
    size=st.integers(1, 9),
    seed=st.integers(0, 99),
    beta=st.floats(1, 5000),
    alpha=st.floats(1, 5000),
    gamma1=st.floats(0, 2),
    gamma2=st.floats(0, 2),
)
def test_equals_the_formula_in_scalars(size, seed, **hyperparameters):
    errors = random_errors(size, seed=seed)
    loss, metrics = livo(errors, **hyperparameters)
    assert loss.item() == pytest.approx(rederived(errors, **hyperparameters), rel=1e-12, abs=1e-12)
    assert metrics["loss"].item() == pytest.approx(loss.item())


@given(cuts=st.lists(st.integers(1, 11), unique=True, max_size=4), seed=st.integers(0, 99))
def test_shares_of_any_sharding_add_up_to_the_whole(cuts, seed):
    errors = random_errors(12, seed=seed)
    whole_inputs = [e.clone().requires_grad_() for e in errors.policy]
    whole, whole_metrics = livo(Errors(*whole_inputs, *errors.reference), **PAPER)
    whole.backward()

    shard_inputs = [e.clone().requires_grad_() for e in errors.policy]
    shares, shares_metrics = [], []
    for start, stop in itertools.pairwise([0, *sorted(cuts), 12]):
        part = slice(start, stop)
        shard = Errors(*(e[part] for e in (*shard_inputs, *errors.reference)))
        loss, metrics = livo(shard, **PAPER, normaliser=12)
        loss.backward()
        shares.append(loss.detach())
        shares_metrics.append(metrics)

    assert sum(shares).item() == pytest.approx(whole.item())
    for whole_input, shard_input in zip(whole_inputs, shard_inputs, strict=True):
        torch.testing.assert_close(shard_input.grad, whole_input.grad)
    for name, value in whole_metrics.items():
        assert sum(m[name] for m in shares_metrics).item() == pytest.approx(value.item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errors_are_subtracted_in_float32(dtype):
    errors = random_errors(64, dtype=dtype)
    loss, metrics = livo(errors, **PAPER)
    assert loss.dtype is torch.float32
    exact = Errors(*(e.double() for e in (*errors.policy, *errors.reference)))
    assert loss.item() == pytest.approx(livo(exact, **PAPER)[0].item(), rel=1e-5)
    assert all(value.dtype is torch.float32 for value in metrics.values())


def test_a_normaliser_that_counts_nothing_is_refused():
    with pytest.raises(ValueError, match="size of the global batch"):
        livo(random_errors(2), **PAPER, normaliser=0)
