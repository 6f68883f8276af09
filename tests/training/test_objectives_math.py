"""Every objective but LiVO's own: identity, signs, finite differences, scalars, sharding, dtypes.

LiVO's margin loss has its tests in `test_losses`, the ballots of BalancedDPO in `test_ballots`.
"""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import random_errors

from valign.training.dpo_losses import balanced_dpo, diffusion_dpo
from valign.training.errors import Errors
from valign.training.losses import dapt, dpo_ratio, dpo_ratio_d, livo_no_margin

OBJECTIVES = {
    "livo_no_margin": functools.partial(livo_no_margin, beta=1000.0, alpha=500.0),
    "dpo_ratio": functools.partial(dpo_ratio, beta=0.5),
    "dpo_ratio_d": functools.partial(dpo_ratio_d, beta=2.0, alpha=0.5),
    "dapt": dapt,
    "diffusion_dpo": functools.partial(diffusion_dpo, beta=5000.0),
    "balanced_dpo": functools.partial(balanced_dpo, beta=5000.0),
}
AT_IDENTITY = {
    "livo_no_margin": 0.0,
    "dpo_ratio": math.log(2),
    "dpo_ratio_d": math.log(2),
    "diffusion_dpo": math.log(2),
    "balanced_dpo": math.log(2),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def one_sample(name: str, w: float, low: float, ref_w: float, ref_l: float) -> float:
    """The formulas on plain numbers, written from the papers."""
    match name:
        case "livo_no_margin":  # LiVO paper, Eq. 20
            return 1000 * (w - ref_w) + 500 * (ref_l - low)
        case "dpo_ratio":  # LiVO paper, Eq. 13
            return -log_sigmoid(0.5 * math.log(ref_w / w) - 0.5 * math.log(ref_l / low))
        case "dpo_ratio_d":  # LiVO paper, Eq. 14
            return -log_sigmoid(2 * math.log(ref_w / w) - 0.5 * math.log(ref_l / low))
        case "dapt":
            return w
        case _:  # Diffusion-DPO; BalancedDPO paper, Eq. 8 with s = +1
            return -log_sigmoid(-(5000 / 2) * ((w - low) - (ref_w - ref_l)))


@pytest.mark.parametrize("name", AT_IDENTITY)
def test_identity_values(name):
    error_w, error_l = 0.1 + torch.rand(2, 8)
    loss, metrics = OBJECTIVES[name](Errors(error_w, error_l, error_w, error_l))
    assert loss.item() == pytest.approx(AT_IDENTITY[name], abs=1e-7)
    assert metrics["loss"] == loss
    assert metrics["gain_w"] == metrics["gain_l"] == 0
    assert metrics["implicit_accuracy"] == 0.5


@every_objective
def test_gradients_lower_the_winners_error_and_raise_the_losers(name):
    reference = torch.full((1,), 0.3)
    policy_w, policy_l = (reference.clone().requires_grad_() for _ in range(2))
    loss, _ = OBJECTIVES[name](Errors(policy_w, policy_l, reference, reference))
    loss.backward()
    assert policy_w.grad.item() > 0
    if name == "dapt":
        assert policy_l.grad is None, "it does not look at the dispreferred image"
    else:
        assert policy_l.grad.item() < 0


@every_objective
def test_gradients_equal_finite_differences(name):
    errors = random_errors(6)
    inputs = [e.clone().requires_grad_() for e in errors.policy]

    def loss(policy_w: torch.Tensor, policy_l: torch.Tensor) -> torch.Tensor:
        return OBJECTIVES[name](Errors(policy_w, policy_l, *errors.reference))[0]

    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-3, rtol=1e-5)


@every_objective
@settings(max_examples=25)
@given(size=st.integers(1, 9), seed=st.integers(0, 99))
def test_equals_the_formula_in_scalars(name, size, seed):
    errors = random_errors(size, seed=seed)
    rows = list(zip(*(e.tolist() for e in (*errors.policy, *errors.reference)), strict=True))
    loss, metrics = OBJECTIVES[name](errors)
    expected = sum(one_sample(name, *row) for row in rows) / size
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    right = [((low - ref_l) - (w - ref_w)) > 0 for w, low, ref_w, ref_l in rows]
    assert metrics["implicit_accuracy"].item() == pytest.approx(sum(right) / size)


@every_objective
@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 11), unique=True, max_size=4), seed=st.integers(0, 99))
def test_shares_of_any_sharding_add_up_to_the_whole(name, cuts, seed):
    errors = random_errors(12, seed=seed)
    inputs, shard_inputs = ([e.clone().requires_grad_() for e in errors.policy] for _ in range(2))
    whole, whole_metrics = OBJECTIVES[name](Errors(*inputs, *errors.reference))
    whole.backward()
    shards = []
    for start, stop in itertools.pairwise([0, *sorted(cuts), 12]):
        parts = (e[start:stop] for e in (*shard_inputs, *errors.reference))
        loss, metrics = OBJECTIVES[name](Errors(*parts), normaliser=12)
        loss.backward()
        shards.append(metrics)
    for mine, theirs in zip(shard_inputs, inputs, strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad)
    for metric, value in whole_metrics.items():
        assert sum(m[metric] for m in shards).item() == pytest.approx(value.item(), abs=1e-12)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errors_are_computed_in_float32(name, dtype):
    errors = random_errors(64, dtype=dtype)
    loss, metrics = OBJECTIVES[name](errors)
    assert loss.dtype is torch.float32
    assert all(value.dtype is torch.float32 for value in metrics.values())
    exact = Errors(*(e.double() for e in (*errors.policy, *errors.reference)))
    assert loss.item() == pytest.approx(OBJECTIVES[name](exact)[0].item(), rel=1e-4)


@every_objective
def test_a_normaliser_that_counts_nothing_is_refused(name):
    with pytest.raises(ValueError, match="size of the global batch"):
        OBJECTIVES[name](random_errors(2), normaliser=0)


@pytest.mark.parametrize("beta", [500.0, 2000.0, 5000.0])
def test_diffusion_dpo_on_predictions_equals_an_independent_derivation(beta):
    """From predictions to the loss, against the reference implementation's order of operations.

    That order (one batch of winners and losers, `model_losses.chunk(2)`, `-0.5 * beta * (model_diff
    - ref_diff)`, log-sigmoid, mean) is stated anew in float64.
    """
    rng = torch.Generator().manual_seed(int(beta))
    target, model, ref = (
        torch.randn(2, 6, 4, 8, 8, generator=rng, dtype=torch.float64) * scale
        for scale in (1.0, 0.1, 0.1)
    )
    target[1] = target[0]  # one noise per pair
    model, ref = target + model, target + model + 0.2 * ref
    errors = Errors(*(p.sub(t).square().mean(dim=(1, 2, 3)) for p, t in _sides(model, ref, target)))
    loss, metrics = diffusion_dpo(errors, beta=beta)

    model_losses = ((model.flatten(0, 1) - target.flatten(0, 1)) ** 2).flatten(1).mean(1)
    ref_losses = ((ref.flatten(0, 1) - target.flatten(0, 1)) ** 2).flatten(1).mean(1)
    model_w, model_l = model_losses.chunk(2)
    ref_w, ref_l = ref_losses.chunk(2)
    logits = [
        -0.5 * beta * ((a - b) - (c - d))
        for a, b, c, d in zip(*(x.tolist() for x in (model_w, model_l, ref_w, ref_l)), strict=True)
    ]
    expected = sum(-log_sigmoid(x) for x in logits) / len(logits)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics["implicit_accuracy"].item() == sum(x > 0 for x in logits) / len(logits)
    assert max(map(abs, logits)) > 0.05, "the logits are not all about zero"


def _sides(model, ref, target):
    return ((model[0], target[0]), (model[1], target[1]), (ref[0], target[0]), (ref[1], target[1]))


def test_log_sigmoid_comes_before_the_mean():
    """The reverse order gives another number on logits that differ."""
    errors = Errors(torch.tensor([0.3, 0.3]), torch.tensor([0.302, 0.29]), *torch.full((2, 2), 0.3))
    logits = torch.tensor([5.0, -25.0])
    loss, _ = diffusion_dpo(errors, beta=5000.0)
    assert loss.item() == pytest.approx(torch.nn.functional.softplus(-logits).mean().item(), 1e-3)
    assert loss.item() != pytest.approx(torch.nn.functional.softplus(-logits.mean()).item(), 1e-2)


def test_dpo_ratio_is_not_moved_by_the_errors_scale_and_diffusion_dpo_is():
    errors = random_errors(5)
    scaled = Errors(*(3 * e for e in (*errors.policy, *errors.reference)))
    ratio = OBJECTIVES["dpo_ratio"]
    assert ratio(scaled)[0].item() == pytest.approx(ratio(errors)[0].item())
    difference = OBJECTIVES["diffusion_dpo"]
    assert difference(scaled)[0].item() != pytest.approx(difference(errors)[0].item(), rel=1e-2)


@pytest.mark.parametrize("name", ["dpo_ratio", "dpo_ratio_d", "diffusion_dpo"])
def test_large_logits_stay_finite(name):
    errors = Errors(*(torch.tensor([value]) for value in (9.0, 1e-6, 1e-6, 9.0)))
    policy = [e.requires_grad_() for e in errors.policy]
    loss, _ = OBJECTIVES[name](Errors(*policy, *errors.reference))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(torch.isfinite(p.grad).all() for p in policy)
