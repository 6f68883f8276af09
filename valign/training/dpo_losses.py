"""Diffusion-DPO and BalancedDPO: errors and ballots in, a loss and metrics out.

See `errors` for the form that the objectives share. Where scores or votes of several scorers are
aggregated before training (majority, a single scorer, weighted or z-scored sums), the result is the
order of w and l in a pair, and the loss is Diffusion-DPO's. Where they are aggregated in the loss
(BalancedDPO paper, Eq. 10, and the random scorer of its Table III), it needs every voter's ballot.

Shapes: B samples (pairs) of one shard, K voters; w and l are the preferred and dispreferred image.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from valign.train_settings import Aggregation
from valign.training.errors import (
    Errors,
    Metrics,
    precise,
    preference_metrics,
    sample_count,
    shares,
)
from valign.training.noise import VOTER_STREAM, generator

AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


def diffusion_dpo(
    errors: Errors, *, beta: float, normaliser: float | None = None
) -> tuple[Tensor, Metrics]:
    """Diffusion-DPO's loss (Wallace et al. 2023, Eq. 14; BalancedDPO paper, Eq. 3).

        inside = -(beta / 2) * [ (L_theta(w) - L_theta(l)) - (L_r(w) - L_r(l)) ]
        loss = mean( -log sigma(inside) )

    The log-sigmoid is taken before the mean. At policy = reference the loss is ln 2.

    Args:
        errors: B samples.
        beta: in 1 / squared error; the papers' 5000 (2500 where the half is left out).
        normaliser: number of samples in the global batch; None for B.

    Returns:
        The loss (scalar) and detached metrics: `loss`, `inside` (the logit), `gain_w`, `gain_l`,
        `reference_w`, `reference_l` and `implicit_accuracy`, as in `losses.livo`.
    """
    inside_B = _inside(errors, beta)
    loss_B = -logsigmoid(inside_B)
    count = sample_count(errors, normaliser)
    metrics = _metrics(errors, loss_B, inside_B)
    return loss_B.sum() / count, shares(metrics, count)


def balanced_dpo(
    errors: Errors,
    *,
    beta: float,
    aggregation: str = "labels",
    ballots_BK: Tensor | None = None,
    decided_K: Tensor | None = None,
    weights_K: Sequence[float] | None = None,
    voters: Sequence[str] = (),
    normaliser: float | None = None,
) -> tuple[Tensor, Metrics]:
    """BalancedDPO's loss under one of its aggregations.

    `labels` is the paper's own (BalancedDPO paper, Eq. 8): s * l_theta with s the verdict over the
    voters, which the order of w and l holds, so the loss is `diffusion_dpo`. The reference being
    refreshed is the engine's part. The same serves every aggregation of scores made before.

    `losses` is vanilla aggregation (BalancedDPO paper, Eq. 10): one Diffusion-DPO loss per voter,
    each with that voter's own winner, summed with weights (b is the ballot):

        sum_k weights_K[k] / decided_K[k] * sum_i [b_ik != 0] * -log sigma(b_ik * inside_i)

    A voter who abstains on a pair takes no part in it, and is left out of the *global* denominator
    `decided_K`: shards with different numbers of abstentions still add up to the whole batch's loss
    and gradient. `random_scorer` is the same with the weight on one voter (`chosen_voter`).

    Args:
        errors: B samples.
        beta: as in `diffusion_dpo`.
        aggregation: one of `AGGREGATIONS`.
        ballots_BK: +1 where a voter prefers w, -1 where it prefers l, 0 where it abstains. With
            `labels` they are optional and only measured.
        decided_K: number of the global batch's ballots that are no abstentions; None counts these.
        weights_K: weight per voter; None for 1 / K each. With them summing to 1 the loss is ln 2 at
            policy = reference.
        voters: the voters' names, for the metrics.
        normaliser: number of samples in the global batch; None for B.

    Returns:
        The loss (scalar) and `diffusion_dpo`'s metrics, with `implicit_accuracy_<voter>` (over the
        ballots that are no abstentions) where there are ballots.

    Raises:
        ValueError: the aggregation is unknown or needs ballots; ballots and voters do not fit.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation {aggregation!r} is not one of {', '.join(AGGREGATIONS)}")
    if ballots_BK is None:
        if aggregation != "labels":
            raise ValueError(
                f"aggregation {aggregation!r} needs every voter's ballots: label the pairs by a "
                "vote, or use aggregation 'labels'"
            )
        return diffusion_dpo(errors, beta=beta, normaliser=normaliser)
    inside_B = _inside(errors, beta)
    decided_BK, per_K = _decided(errors, ballots_BK, decided_K, voters, inside_B.dtype)
    if aggregation == "labels":
        loss_B = -logsigmoid(inside_B)
        count = sample_count(errors, normaliser)
        loss, metrics = loss_B.sum() / count, _metrics(errors, loss_B, inside_B)
    else:
        each_BK = -logsigmoid(ballots_BK * inside_B[:, None]) * decided_BK
        loss = (each_BK * _weights(weights_K, per_K) / per_K).sum()
        count = sample_count(errors, normaliser)
        metrics = _metrics(errors, torch.zeros_like(inside_B), inside_B)
    reduced = shares(metrics, count) | {"loss": precise(loss.detach())}
    with torch.no_grad():
        agrees_BK = (torch.sign(ballots_BK * inside_B[:, None]) + 1) / 2 * decided_BK
        agrees_K = agrees_BK.sum(dim=0) / per_K
    reduced |= {f"implicit_accuracy_{n}": a for n, a in zip(voters, agrees_K, strict=True)}
    return loss, reduced


def chosen_voter(seed: int, step: int, voters: int) -> int:
    """Return which voter decides a step under a random scorer: a function of (seed, step) only.

    It is drawn once per step, so all samples of a global batch and all workers share it.
    """
    return int(generator(seed, step, stream=VOTER_STREAM).integers(voters))


def _inside(errors: Errors, beta: float) -> Tensor:
    gain_w_B, gain_l_B = errors.gains()
    return -(beta / 2) * (gain_w_B - gain_l_B)


def _metrics(errors: Errors, loss_B: Tensor, inside_B: Tensor) -> Metrics:
    return {
        "loss": loss_B,
        "inside": inside_B,
        **preference_metrics(errors, *errors.gains()),
    }


def _decided(
    errors: Errors,
    ballots_BK: Tensor,
    decided_K: Tensor | None,
    voters: Sequence[str],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return which ballots are no abstentions, and their number in the global batch, at least 1."""
    if ballots_BK.shape != (len(errors.policy_w_B), len(voters)):
        raise ValueError(
            f"ballots of shape {tuple(ballots_BK.shape)} for {len(errors.policy_w_B)} pairs and "
            f"{len(voters)} voters: give one ballot per pair and voter"
        )
    decided_BK = (ballots_BK != 0).to(dtype)
    per_K = decided_BK.sum(dim=0) if decided_K is None else decided_K.to(decided_BK)
    return decided_BK, per_K.clamp(min=1)


def _weights(weights_K: Sequence[float] | None, like_K: Tensor) -> Tensor:
    if weights_K is None:
        return torch.full_like(like_K, 1 / len(like_K))
    if len(weights_K) != len(like_K):
        raise ValueError(f"{len(weights_K)} weights for {len(like_K)} voters: give one per voter")
    return torch.as_tensor(weights_K, dtype=like_K.dtype, device=like_K.device)
