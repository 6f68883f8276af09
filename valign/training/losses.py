"""LiVO's objective and the ones its paper compares it with: errors in, a loss and metrics out.

See `errors` for the form that they share; the Diffusion-DPO family is in `dpo_losses`. Equation
numbers are those of the LiVO paper (Embedding an Ethical Mind).

Shapes: B samples (pairs) of one shard; w and l are the preferred and the dispreferred image.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from valign.training.errors import (
    Errors,
    Metrics,
    precise,
    preference_metrics,
    sample_count,
    shares,
)


def livo(
    errors: Errors,
    *,
    beta: float,
    alpha: float,
    gamma1: float,
    gamma2: float,
    normaliser: float | None = None,
) -> tuple[Tensor, Metrics]:
    """LiVO's margin preference loss (LiVO paper, Eq. 6 = Eq. 21), clamped per sample and per term.

        max(0, gamma1 + beta * (L_theta(w) - L_r(w)))
        + max(0, gamma2 + alpha * (L_r(l) - L_theta(l)))

    The first term asks the policy to denoise the preferred image better than the reference by a
    margin of gamma1 / beta, the second to denoise the dispreferred one worse by gamma2 / alpha. A
    sample that has its margin gives no gradient; that is what keeps the images' quality. At policy
    = reference the loss is gamma1 + gamma2. The paper's values: beta 1000, alpha 500, gamma1 1.0,
    gamma2 0.5.

    Args:
        errors: B samples.
        beta: weight of the preferred term, in 1 / squared error.
        alpha: weight of the dispreferred term, in 1 / squared error.
        gamma1: margin of the preferred term, in units of the loss.
        gamma2: margin of the dispreferred term, in units of the loss.
        normaliser: number of samples in the global batch; None for B.

    Returns:
        The loss (scalar) and detached metrics: `loss`, `margin_w_active` and `margin_l_active`
        (shares of samples whose margin is not reached yet), `gain_w` and `gain_l` (policy minus
        reference error), `reference_w` and `reference_l` (the reference's errors), and
        `implicit_accuracy` (share of pairs whose gain is on the right side, ties one half).
    """
    gain_w_B, gain_l_B = errors.gains()
    term_w_B = torch.clamp(gamma1 + beta * gain_w_B, min=0)
    term_l_B = torch.clamp(gamma2 - alpha * gain_l_B, min=0)
    loss_B = term_w_B + term_l_B
    count = sample_count(errors, normaliser)
    metrics = {
        "loss": loss_B,
        "margin_w_active": term_w_B > 0,
        "margin_l_active": term_l_B > 0,
        **preference_metrics(errors, gain_w_B, gain_l_B),
    }
    return loss_B.sum() / count, shares(metrics, count)


def livo_no_margin(
    errors: Errors, *, beta: float, alpha: float, normaliser: float | None = None
) -> tuple[Tensor, Metrics]:
    """LiVO without its margins, "w/o m" (LiVO paper, Eq. 20): unbounded, so quality collapses.

        beta * (L_theta(w) - L_r(w)) + alpha * (L_r(l) - L_theta(l))

    At policy = reference it is 0. Arguments and metrics as in `livo`, without the margins'.
    """
    gain_w_B, gain_l_B = errors.gains()
    return _reduced(errors, beta * gain_w_B - alpha * gain_l_B, normaliser)


def dpo_ratio(
    errors: Errors, *, beta: float, normaliser: float | None = None
) -> tuple[Tensor, Metrics]:
    """DPO on log ratios of errors (LiVO paper, Eq. 13), not Diffusion-DPO's on their differences.

        -log sigma( beta * log(L_r(w) / L_theta(w)) - beta * log(L_r(l) / L_theta(l)) )

    At policy = reference it is ln 2. The paper's beta is 0.5, at a learning rate of 1e-7.

    Args:
        errors: B samples, all errors above 0.
        beta: weight of the log ratios, dimensionless.
        normaliser: number of samples in the global batch; None for B.

    Returns:
        The loss (scalar) and detached metrics, as in `livo` without the margins'.
    """
    return dpo_ratio_d(errors, beta=beta, alpha=beta, normaliser=normaliser)


def dpo_ratio_d(
    errors: Errors, *, beta: float, alpha: float, normaliser: float | None = None
) -> tuple[Tensor, Metrics]:
    """DPO on log ratios with two weights, the paper's DPO-d (LiVO paper, Eq. 14).

        -log sigma( beta * log(L_r(w) / L_theta(w)) - alpha * log(L_r(l) / L_theta(l)) )

    At policy = reference it is ln 2. The paper's values: beta 2 on w, alpha 0.5 on l. Otherwise as
    `dpo_ratio`.
    """
    policy_w_B, policy_l_B = (precise(error_B).log() for error_B in errors.policy)
    reference_w_B, reference_l_B = (precise(error_B).log() for error_B in errors.reference)
    inside_B = beta * (reference_w_B - policy_w_B) - alpha * (reference_l_B - policy_l_B)
    return _reduced(errors, -logsigmoid(inside_B), normaliser)


def dapt(errors: Errors, *, normaliser: float | None = None) -> tuple[Tensor, Metrics]:
    """Domain-adaptive training on the preferred images alone: L_theta(w) (LiVO paper, DAPT).

    The paper's learning rate is 1e-5. Metrics as in `livo` without the margins'.
    """
    return _reduced(errors, precise(errors.policy_w_B), normaliser)


def _reduced(errors: Errors, loss_B: Tensor, normaliser: float | None) -> tuple[Tensor, Metrics]:
    count = sample_count(errors, normaliser)
    metrics = {"loss": loss_B, **preference_metrics(errors, *errors.gains())}
    return loss_B.sum() / count, shares(metrics, count)
