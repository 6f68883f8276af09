"""What a recipe may say of training: objective, what trains, reference, optimizer, engine.

`TRAINS` is the one place that says which objective goes with which trainable weights; the table in
docs/training.md is made of it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from valign.settings import Section

Objective = Literal[
    "livo",
    "livo_no_margin",
    "dpo_ratio",
    "dpo_ratio_d",
    "dapt",
    "diffusion_dpo",
    "balanced_dpo",
]
Trains = Literal["value_encoder", "unet", "value_encoder+unet", "lora"]
Schedule = Literal["constant", "linear", "cosine"]
Aggregation = Literal["labels", "losses", "random_scorer"]
CALIBRATED = "calibrated"

VALUES = ("livo", "livo_no_margin", "dpo_ratio", "dpo_ratio_d", "dapt")
"""Objectives over pairs under a principle."""
QUALITY = ("diffusion_dpo", "balanced_dpo")
"""Objectives over pairs of quality, under no principle."""
TRAINS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(VALUES, ("value_encoder", "value_encoder+unet")),
    **dict.fromkeys(QUALITY, ("unet", "lora")),
}
PAPERS: Mapping[str, Mapping[str, float]] = {
    "livo": {"beta": 1000.0, "alpha": 500.0},
    "livo_no_margin": {"beta": 1000.0, "alpha": 500.0},
    "dpo_ratio": {"beta": 0.5},
    "dpo_ratio_d": {"beta": 2.0, "alpha": 0.5},
    "dapt": {},
    "diffusion_dpo": {"beta": 5000.0},
    "balanced_dpo": {"beta": 5000.0},
}
"""The papers' weights of each objective that has any."""
PAPERS_REFRESH = 100
"""BalancedDPO's updates between refreshes of the reference."""


def check(objective: str, trains: str) -> None:
    """Raise ValueError, with the reason and the remedy, unless the objective trains such weights.

    Args:
        objective: one of `Objective`.
        trains: one of `Trains`.
    """
    if objective not in TRAINS:
        raise ValueError(f"objective {objective!r} is not one of {', '.join(TRAINS)}")
    if trains not in get_args(Trains):
        raise ValueError(f"trains {trains!r} is not one of {', '.join(get_args(Trains))}")
    if trains in TRAINS[objective]:
        return
    reason = (
        "its pairs are under a principle, and without a value token the weights would take on the "
        "value for every prompt"
        if objective in VALUES
        else "its pairs are under no principle, so a value encoder has nothing to read"
    )
    raise ValueError(
        f"objective {objective} does not train {trains}: {reason}. Set train.trains to "
        f"{' or '.join(TRAINS[objective])}, or choose another train.objective"
    )


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021), where `trains` is lora."""

    rank: int = Field(16, ge=1, description="Of the adapters.")
    alpha: float = Field(16.0, gt=0, description="Their output is scaled by alpha / rank.")
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="Ends of the names of the UNet's layers that are adapted.",
    )
    text_encoder: bool = Field(False, description="Adapt the text encoders' attention too.")


class Samples(Section):
    """Grids of fixed prompts, drawn while training goes on; results do not depend on them."""

    every: int = Field(0, ge=0, description="Steps between grids of samples; 0: none.")
    prompts: tuple[str, ...] = Field(
        (), description="What is drawn; none: four prompts of the pairs, none of toxic ones."
    )
    images: int = Field(2, ge=1, description="Images of each prompt.")


class Train(Section):
    """What trains, by which objective, and how the weights move."""

    objective: Objective = Field("livo", description="The loss, by name.")
    trains: Trains = Field("value_encoder", description="Which weights train.")
    seed: int | None = Field(
        None, ge=0, description="Of the order of pairs and the noise; none: the run's seed."
    )
    pairs_share: float = Field(
        1.0, gt=0, le=1, description="Share of each principle's pairs to train on, by their hashes."
    )
    steps: int = Field(15_000, ge=1, description="Optimizer steps.")
    global_batch: int = Field(8, ge=1, description="Pairs per step, over all workers.")
    learning_rate: float = Field(1e-6, gt=0, description="AdamW's, after warm-up.")
    warmup_steps: int = Field(1_000, ge=0, description="Steps of linear warm-up.")
    schedule: Schedule = Field(
        "constant", description="Of the learning rate after warm-up; linear and cosine end at 0."
    )
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's.")
    clip_norm: float = Field(1.0, gt=0, description="Gradient norm is clipped to this.")
    beta: float | None = Field(
        None, gt=0, description="The objective's main weight; none: the paper's for the objective."
    )
    alpha: float | None = Field(
        None, gt=0, description="Weight of the dispreferred image's term; none: the paper's."
    )
    gamma1: float = Field(1.0, ge=0, description="livo: margin for the preferred image.")
    gamma2: float = Field(0.5, ge=0, description="livo: margin for the dispreferred image.")
    aggregation: Aggregation = Field(
        "labels",
        description="balanced_dpo: by the pairs' verdicts; one loss per voter; or one voter drawn "
        "per step.",
    )
    refresh_every: int | None = Field(
        None,
        ge=0,
        description="Updates between copies of policy to reference; 0: never; none: the paper's "
        "100 for balanced_dpo, never for the others.",
    )
    reference_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the weights of a whole-UNet reference."
    )
    min_snr: float | None = Field(
        None, gt=0, description="Gamma of min-SNR weights on all errors; none: no weights."
    )
    prompt_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of pairs that are trained under the empty caption."
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Save a moving average of the weights; none: the weights."
    )
    held_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the prompts whose pairs are not trained on: their loss is measured "
        "at every checkpoint, and the best checkpoint is what is kept in the end.",
    )
    held_out_pairs: int = Field(
        512,
        ge=1,
        description="Held-out pairs that are measured, at most, in whole global batches and at "
        "least one: the same ones every time, drawn by the seed.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="End after so many checkpoints in a row without a lower held-out loss; none: "
        "train all steps.",
    )
    lora: Lora = Field(default_factory=Lora)
    value_drop: Annotated[float, Field(ge=0, le=1)] | Literal["calibrated"] = Field(
        0.5,
        description="Share of a prompt's images that get a bias principle's token; `calibrated`: "
        "by principle, what makes D2 least on concepts that are held back from training.",
    )
    calibration_concepts: int = Field(
        24, ge=1, description="calibrated: concepts held back from training for it."
    )
    calibration_images: int = Field(
        24, ge=2, description="calibrated: images per concept without a token, and with each."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the computation; trained weights and errors stay in float32."
    )
    save_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints kept.")
    log_every: int = Field(20, ge=1, description="Steps between log lines.")
    samples: Samples = Field(default_factory=Samples)
    max_skips_in_a_row: int = Field(
        20, ge=1, description="Steps in a row without a finite gradient that end the training."
    )

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        check(self.objective, self.trains)
        if self.refresh_every and self.trains not in ("unet", "lora"):
            raise ValueError(
                f"train.refresh_every ({self.refresh_every}): with trains={self.trains} the "
                "reference is the base model itself; set it to 0"
            )
        if self.prompt_dropout and self.objective in VALUES:
            raise ValueError(
                f"train.prompt_dropout ({self.prompt_dropout:g}) must be 0 with objective "
                f"{self.objective}: LiVO's training drops no captions"
            )
        if unread := self._unread():
            raise ValueError(
                f"train.{unread[0]} is not read with objective {self.objective} and "
                f"trains={self.trains}: leave it out"
            )
        if self.reference_precision == "bfloat16" and self.precision == "float32":
            raise ValueError(
                "train.reference_precision=bfloat16 rounds the reference and not the policy, so "
                "that they would differ at the start: set train.precision=bfloat16 too"
            )
        if self.aggregation != "labels" and self.objective != "balanced_dpo":
            raise ValueError(
                f"train.aggregation={self.aggregation} belongs to objective balanced_dpo"
            )
        if self.value_drop == CALIBRATED and self.trains != "value_encoder":
            raise ValueError(
                f"train.value_drop={CALIBRATED} draws with a value encoder beside the base model, "
                f"and train.trains is {self.trains}: give a share, such as 0.5"
            )
        if self.patience and not self.held_out:
            raise ValueError(
                f"train.patience ({self.patience}) needs pairs that are held out: set "
                "train.held_out, such as 0.1"
            )
        return self

    def _unread(self) -> list[str]:
        """Return the fields that were given and that nothing would go by."""
        read = {
            "beta": "beta" in PAPERS[self.objective],
            "alpha": "alpha" in PAPERS[self.objective],
            "reference_precision": self.trains == "unet",
            "lora": self.trains == "lora",
        }
        fresh = {
            name: type(self).model_fields[name].get_default(call_default_factory=True)
            for name in read
        }
        return [name for name in read if not read[name] and getattr(self, name) != fresh[name]]

    @property
    def refresh(self) -> int:
        """Updates between refreshes of the reference; 0 for never."""
        if self.refresh_every is None:
            return PAPERS_REFRESH if self.objective == "balanced_dpo" else 0
        return self.refresh_every

    def held_out_batches(self, pairs: int) -> int:
        """Return how many global batches of so many held-out pairs are measured."""
        return max(1, min(pairs, self.held_out_pairs) // self.global_batch)

    def hyperparameters(self) -> dict[str, Any]:
        """Return what the objective's loss takes, the papers' values where none were given."""
        own = {"beta": self.beta, "alpha": self.alpha}
        given: dict[str, Any] = {
            name: papers if own[name] is None else own[name]
            for name, papers in PAPERS[self.objective].items()
        }
        if self.objective == "livo":
            given |= {"gamma1": self.gamma1, "gamma2": self.gamma2}
        if self.objective == "balanced_dpo":
            given["aggregation"] = self.aggregation
        return given
