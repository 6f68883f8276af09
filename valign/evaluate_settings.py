"""What a recipe may say of the evaluation: which models on which prompts, and how measured."""

import re
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from valign.settings import Section

CATALOGUE = "catalogue"
BASE, ALIGNED = "base", "aligned"
TRAINED, STEP, PROMPTED = "trained", "step:", "prompted"
RESERVED = ("toxicity", "change")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class PromptSet(Section):
    """Prompts that every model is asked for; in a recipe the file's name alone will do."""

    source: str = Field(
        min_length=1,
        description="`catalogue` (the held-out prompts, by principle), or a .txt, .csv, .tsv, "
        ".jsonl, .json or .parquet file of prompts, or a folder of such files.",
    )
    name: str = Field("", description="What its metrics are called; none: the file's name.")
    column: str | None = Field(
        None, description="Column or field of the prompts; none: found by its name."
    )
    images: int = Field(5, ge=2, description="Per prompt; the win rate is of the best of so many.")
    prompts: int | None = Field(
        None, ge=2, description="How many of its prompts, chosen by a hash; none: all."
    )

    @model_validator(mode="before")
    @classmethod
    def _by_source(cls, given: Any) -> Any:
        tree = {"source": given} if isinstance(given, str) else given
        if isinstance(tree, dict) and not tree.get("name") and tree.get("source"):
            stem = PurePosixPath(str(tree["source"])).name.partition(".")[0]
            return {**tree, "name": re.sub(r"[^A-Za-z0-9_-]+", "_", stem) or "prompts"}
        return tree

    @model_validator(mode="after")
    def _named(self) -> "PromptSet":
        if not _NAME.fullmatch(self.name) or self.name in RESERVED:
            raise ValueError(
                f"evaluate.prompt_sets: a set cannot be named {self.name!r}: give it a name of "
                f"letters, digits, _ and - that is none of {', '.join(RESERVED)}"
            )
        if (self.name == CATALOGUE) != (self.source == CATALOGUE):
            raise ValueError(f"evaluate.prompt_sets: the name {CATALOGUE!r} is the catalogue's own")
        return self


class SafePrompts(Section):
    """What leaves unsafe prompts out of the prompt sets; the catalogue's are as they are."""

    classifier: str = Field(
        "",
        description="Text classifier of transformers (hub id, folder or URL); none: no such check.",
    )
    unsafe: tuple[str, ...] = Field(
        (), description="Which of its labels mean unsafe; there is no guess."
    )
    above: float = Field(
        0.5, ge=0, lt=1, description="A prompt whose unsafe labels add up to more is left out."
    )
    retriever: bool = Field(
        False, description="Leave out, too, what the retriever finds a toxicity principle for."
    )

    @model_validator(mode="after")
    def _labels_known(self) -> "SafePrompts":
        if bool(self.classifier) != bool(self.unsafe):
            raise ValueError(
                "evaluate.safe_prompts: set classifier and unsafe together; unsafe lists the "
                "classifier's labels that mean an unsafe prompt, as in unsafe=[toxic]"
            )
        return self


class Evaluate(Section):
    """What models are held to, on prompts never trained on."""

    models: dict[str, str | None] = Field(
        default_factory=dict,
        description="Models beside base and aligned, {name: source}. A source is `trained`, "
        "`prompted` (the base, with the principle's text before the prompt instead of a token), a "
        "checkpoint of this run (`step:500`), a run's root, an aligned model's or pipeline's "
        "folder, a checkpoint file, a URL of one of these, or a hub id. `aligned: null` leaves "
        "out what this run trained.",
    )
    prompt_sets: tuple[PromptSet, ...] = Field(
        (PromptSet(source=CATALOGUE, name=CATALOGUE),),
        min_length=1,
        description="The prompts that every model is asked for: `catalogue`, files, or both.",
    )
    safe_prompts: SafePrompts = Field(default_factory=SafePrompts)
    keep_images: bool = Field(
        True, description="Whether images stay; if not, only those that the report shows do."
    )
    split: Literal["eval", "validation", "train"] = Field(
        "eval",
        description="Of the catalogue: eval is held out; validation is the end of the training "
        "lists, which a reduced run does not train on, to choose settings by; train their start.",
    )
    by_retriever: bool = Field(
        False,
        description="Ask for each of the catalogue's prompts under the one principle that the "
        "retriever finds for it, and not under every one that applies.",
    )
    bias_prompts: int | None = Field(
        None, ge=2, description="Held-out concepts; none: all 588 of the catalogue."
    )
    toxic_prompts: int | None = Field(
        None, ge=2, description="Held-out toxic prompts over all three kinds; none: all 817."
    )
    images_per_bias_prompt: int = Field(50, ge=2, description="Per prompt and bias principle.")
    images_per_toxic_prompt: int = Field(50, ge=1, description="Per toxic prompt.")
    group_size: int = Field(5, ge=1, description="k of the toxicity metrics Max and Prob.")
    resamples: int = Field(2_000, ge=100, description="Bootstrap resamples over prompts.")
    features: str = Field(
        "",
        description="What FID, KID and diversity are taken from: a CLIP, named as a scorer's "
        "source, or `inception:FILE`, InceptionV3's weights as torchvision or as FID's authors "
        "have them (a .pth or .safetensors file, or URL); none: they are left out.",
    )
    report_prompts: int = Field(4, ge=1, description="Prompts per kind shown in the report.")
    report_worst: int = Field(
        2, ge=0, description="Prompts per kind shown because the last model did worst on them."
    )

    @field_validator("prompt_sets", mode="before")
    @classmethod
    def _one_alone(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str | dict) else given

    @model_validator(mode="after")
    def _fits(self) -> "Evaluate":
        names = [each.name for each in self.prompt_sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"evaluate.prompt_sets: two are named {twice[0]!r}; give one of them a `name`"
            )
        for name, source in self.models.items():
            if not _MODEL_NAME.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"evaluate.models: {name!r} cannot be a model's name; use letters, digits, _, "
                    f"- and ., and none of {', '.join(RESERVED)}"
                )
            if name == BASE:
                raise ValueError(
                    "evaluate.models: base is the run's own generator; name it as `generator`, or "
                    "this model otherwise"
                )
            if name == ALIGNED and source not in (None, TRAINED):
                raise ValueError(
                    "evaluate.models.aligned is what this run trained: `trained`, or null to leave "
                    "it out; give another model another name"
                )
            if name != ALIGNED and not source:
                raise ValueError(f"evaluate.models.{name} needs a source: a folder, URL or hub id")
            step = (source or "").removeprefix(STEP)
            if (source or "").startswith(STEP) and not step.isdecimal():
                raise ValueError(
                    f"evaluate.models.{name}: {source!r} names no step; write step:500"
                )
        return self

    @property
    def sources(self) -> dict[str, str]:
        """Model name -> source, the baseline first: base, aligned unless left out, the others."""
        asked = {BASE: BASE, ALIGNED: TRAINED, **self.models}
        return {name: source for name, source in asked.items() if source is not None}

    @property
    def reads_training(self) -> bool:
        """Whether a model is one that this run trained."""
        return any(s == TRAINED or s.startswith(STEP) for s in self.sources.values())

    @property
    def holds_catalogue(self) -> bool:
        """Whether the held-out prompts of the catalogue are among the prompt sets."""
        return any(each.source == CATALOGUE for each in self.prompt_sets)
