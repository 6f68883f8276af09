"""Objectives: denoising errors in, a loss and its metrics out.

Every objective has the form `(errors, *, hyperparameters, normaliser) -> (loss, metrics)`. Loss and
metrics are sums over the given samples divided by `normaliser`. With the size of the *global* batch
as normaliser they are this shard's share: the shares of all shards add up to the mean over the
whole batch, however it was cut. With `None` they are the mean over the given samples.

Out of scope: networks, noise, reduction over workers (`engine`), and schedules.

Shapes: B samples (pairs) of one shard; w and l are the preferred and the dispreferred image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Metrics = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Errors:
    """Denoising errors of policy and reference on both images of each pair.

    Each is a mean squared error over channels and pixels, one number per sample, computed in at
    least float32. A pair's four errors share one noise and one timestep. Only the policy's errors
    carry gradients.
    """

    policy_w_B: Tensor
    policy_l_B: Tensor
    reference_w_B: Tensor
    reference_l_B: Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(e.shape) for e in (*self.policy, *self.reference)}
        assert len(shapes) == 1 and len(next(iter(shapes))) == 1, f"errors of shapes {shapes}"

    @property
    def policy(self) -> tuple[Tensor, Tensor]:
        """The policy's errors on w and on l."""
        return self.policy_w_B, self.policy_l_B

    @property
    def reference(self) -> tuple[Tensor, Tensor]:
        """The reference's errors on w and on l."""
        return self.reference_w_B, self.reference_l_B

    def gains(self) -> tuple[Tensor, Tensor]:
        """Return policy minus reference on w and on l, (B,) each, in at least float32.

        Below zero the policy denoises the image better than the reference does.
        """
        return (
            _precise(self.policy_w_B) - _precise(self.reference_w_B),
            _precise(self.policy_l_B) - _precise(self.reference_l_B),
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
    count = _count(errors, normaliser)
    metrics = {
        "loss": loss_B,
        "margin_w_active": term_w_B > 0,
        "margin_l_active": term_l_B > 0,
        **_common(errors, gain_w_B, gain_l_B),
    }
    return loss_B.sum() / count, _shares(metrics, count)


def _common(errors: Errors, gain_w_B: Tensor, gain_l_B: Tensor) -> Metrics:
    """Return the per-sample metrics that every preference objective reports."""
    return {
        "gain_w": gain_w_B,
        "gain_l": gain_l_B,
        "reference_w": errors.reference_w_B,
        "reference_l": errors.reference_l_B,
        "implicit_accuracy": (torch.sign(gain_l_B - gain_w_B) + 1) / 2,
    }


def _shares(metrics_B: Metrics, count: float) -> Metrics:
    """Sum per-sample metrics and divide by the normaliser, in one operation for all of them."""
    with torch.no_grad():
        stacked = torch.stack([_precise(value_B.detach()) for value_B in metrics_B.values()])
        return dict(zip(metrics_B, (stacked.sum(dim=1) / count).unbind(), strict=True))


def _count(errors: Errors, normaliser: float | None) -> float:
    if normaliser is None:
        return float(errors.policy_w_B.numel())
    if normaliser <= 0:
        raise ValueError(
            f"the normaliser is the size of the global batch, so above 0: {normaliser}"
        )
    return float(normaliser)


def _precise(value: Tensor) -> Tensor:
    """Return the value in float32, or as it is if it is in float64 already."""
    return value if value.dtype is torch.float64 else value.float()
