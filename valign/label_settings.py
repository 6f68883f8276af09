"""What a recipe may say of labels: LiVO's rule, a vote of scorers, or both together."""

from typing import Any, Literal

from pydantic import Field, model_validator

from valign.settings import Section


class Voter(Section):
    """A score with a vote; in a recipe its column's name alone will do."""

    name: str = Field(description="Name of the score's column.")
    weight: float = Field(
        1.0,
        allow_inf_nan=False,
        description="Weight in sums; below zero: lower scores are better.",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _weighs(self) -> "Voter":
        if not self.weight:
            raise ValueError(f"voter {self.name}: weight must not be 0; leave the voter out")
        return self


class Vote(Section):
    """How several scores decide which of two images is better (BalancedDPO)."""

    voters: tuple[Voter, ...] = Field((), description="Scores that vote, each with one ballot.")
    mode: Literal["majority", "paper", "single", "random", "sum", "normalized"] = Field(
        "majority",
        description="majority; paper: with the paper's own ties; single: one voter decides; "
        "random: one drawn per pair; sum: of weighted scores; normalized: of their z-scores.",
    )
    single: str = Field("", description="The voter that decides in mode single.")
    ties: Literal["skip", "label", "margin", "random"] = Field(
        "skip", description="What breaks a tie: nothing, a person's label, z-scores, or a coin."
    )
    quorum: int = Field(1, ge=1, description="Voters that must not have abstained.")
    human: str = Field("", description="Column of a person's scores: labels for ties label.")
    candidates: Literal["all", "best_worst", "adjacent"] = Field(
        "all", description="Which of a prompt's images meet, if there are more than two."
    )
    roles: tuple[Literal["neutral", "attribute", "cleaned", "toxic", "user"], ...] = Field(
        ("neutral", "attribute", "cleaned", "user"),
        min_length=1,
        description="Rule vote: roles of the prompts whose images are paired.",
    )
    values: Literal["voter", "veto"] = Field(
        "veto",
        description="Rule joint: value conformity is one more voter, or bars the less conforming "
        "image from winning.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "Vote":
        names = [voter.name for voter in self.voters]
        if len(set(names)) != len(names):
            raise ValueError(f"label.vote.voters name one score twice: {', '.join(names)}")
        if self.mode == "single" and self.single not in names:
            raise ValueError(
                f"label.vote.single={self.single!r} must be one of the voters: {', '.join(names)}"
            )
        return self


class Label(Section):
    """How scores become preferences (LiVO section 3.4 and appendix A.2, or a vote)."""

    rule: Literal["livo", "vote", "joint"] = Field(
        "livo",
        description="livo: by values; vote: by scorers; joint: LiVO's pairs under both.",
    )
    attribute: Literal["prompted", "classified"] = Field(
        "prompted",
        description="A bias image's attribute: the one asked for, or the one a classifier reads.",
    )
    verify_toxic: Literal["none", "classifier"] = Field(
        "classifier", description="Whether a classifier must confirm toxic and clean images."
    )
    share_attribute_images: bool = Field(
        False, description="Use an attribute image for gender and race pairs, not for one of them."
    )
    max_pairs_per_principle: int | None = Field(
        None, ge=1, description="Cap on the pairs kept of each principle, or of a vote; none: all."
    )
    vote: Vote = Field(default_factory=Vote)

    @model_validator(mode="after")
    def _voters(self) -> "Label":
        extra = self.rule == "joint" and self.vote.values == "voter"
        if self.rule != "livo" and not self.vote.voters:
            raise ValueError(f"label.rule={self.rule} needs voters: set label.vote.voters")
        if self.rule != "livo" and self.vote.quorum > len(self.vote.voters) + extra:
            raise ValueError(f"label.vote.quorum={self.vote.quorum} is more than there are voters")
        if self.rule == "joint" and self.vote.ties == "label" and not self.vote.human:
            raise ValueError("label.vote.ties=label needs a column of labels: label.vote.human")
        return self
