"""Objectives by name: the loss of each as the loop calls it, and a table of what each may train.

What may train by which objective is said in `train_settings`, which needs no torch.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from torch import Tensor

from valign.train_settings import TRAINS, Trains
from valign.training import dpo_losses, losses
from valign.training.batch import Batch
from valign.training.errors import Errors, Metrics

LOSSES: Mapping[str, Callable[..., tuple[Tensor, Metrics]]] = {
    "livo": losses.livo,
    "livo_no_margin": losses.livo_no_margin,
    "dpo_ratio": losses.dpo_ratio,
    "dpo_ratio_d": losses.dpo_ratio_d,
    "dapt": losses.dapt,
    "diffusion_dpo": dpo_losses.diffusion_dpo,
    "balanced_dpo": dpo_losses.balanced_dpo,
}


def build(
    objective: str,
    *,
    normaliser: float,
    seed: int = 0,
    voters: Sequence[str] = (),
    **hyperparameters: Any,
) -> Callable[[Errors, Batch, int], tuple[Tensor, Metrics]]:
    """Return an objective as the loop calls it: errors, batch and step in.

    Args:
        objective: one of `LOSSES`.
        normaliser: number of pairs in the global batch.
        seed: the run's seed, from which a random scorer is drawn per step.
        voters: names of those who cast the batch's ballots.
        hyperparameters: the objective's own, as in `train_settings.Train.hyperparameters`.
    """
    loss = functools.partial(LOSSES[objective], normaliser=normaliser, **hyperparameters)
    if objective != "balanced_dpo":
        return lambda errors, batch, step: loss(errors)
    drawn = hyperparameters.get("aggregation") == "random_scorer"

    def balanced(errors: Errors, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        more: dict[str, Any] = {}
        if drawn and voters:
            voter = dpo_losses.chosen_voter(seed, step, len(voters))
            more["weights_K"] = [float(number == voter) for number in range(len(voters))]
        return loss(
            errors,
            ballots_BK=batch.ballots_BK,
            decided_K=batch.decided_K,
            voters=voters,
            **more,
        )

    return balanced


def table() -> str:
    """Return which objective trains what, as a Markdown table."""
    columns = get_args(Trains)
    head = ["objective", *(f"`{name}`" for name in columns)]
    rows = [
        [f"`{name}`", *("yes" if trains in TRAINS[name] else "–" for trains in columns)]
        for name in LOSSES
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
