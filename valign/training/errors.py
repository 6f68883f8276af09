"""Denoising errors of policy and reference, and how an objective sums what it makes of them.

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


@dataclass(frozen=True)  # no slots: ZeRO 3 looks for tensors in an output's __dict__
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
            precise(self.policy_w_B) - precise(self.reference_w_B),
            precise(self.policy_l_B) - precise(self.reference_l_B),
        )


def preference_metrics(errors: Errors, gain_w_B: Tensor, gain_l_B: Tensor) -> Metrics:
    """Return the per-sample metrics that every preference objective reports."""
    return {
        "gain_w": gain_w_B,
        "gain_l": gain_l_B,
        "reference_w": errors.reference_w_B,
        "reference_l": errors.reference_l_B,
        "implicit_accuracy": (torch.sign(gain_l_B - gain_w_B) + 1) / 2,
    }


def shares(metrics_B: Metrics, count: float) -> Metrics:
    """Sum per-sample metrics and divide by the normaliser, in one operation for all of them."""
    with torch.no_grad():
        stacked = torch.stack([precise(value_B.detach()) for value_B in metrics_B.values()])
        return dict(zip(metrics_B, (stacked.sum(dim=1) / count).unbind(), strict=True))


def sample_count(errors: Errors, normaliser: float | None) -> float:
    """Return what sums over the samples are divided by.

    Raises:
        ValueError: the normaliser is not above 0.
    """
    if normaliser is None:
        return float(errors.policy_w_B.numel())
    if normaliser <= 0:
        raise ValueError(
            f"the normaliser is the size of the global batch, so above 0: {normaliser}"
        )
    return float(normaliser)


def precise(value: Tensor) -> Tensor:
    """Return the value in float32, or as it is if it is in float64 already."""
    return value if value.dtype is torch.float64 else value.float()
