"""What a recipe may say of value principles of a user's own: their words, classes and prompts."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from valign.settings import SHIPPED, Scorer, Section

RESERVED = ("toxicity", "bias", "quality", "oracle", "values", "user", "concept")
_KEY = re.compile(r"[a-z][a-z0-9_]*")


class Classifier(Section):
    """What finds out whether an image keeps to a principle: a scorer named after it."""

    kind: str = Field(
        description="zero_shot (bias); llava or zero_shot_toxicity (toxicity); or another scorer's "
        "kind, if it gives a column of the principle's name."
    )
    source: str = Field("", description="Of its weights, as of any scorer.")
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="Of the network; scores are float32."
    )
    options: dict[str, Any] = Field(
        {}, description="More of a kind's own, such as zero_shot_toxicity's toxic and harmless."
    )


class OwnPrinciple(Section):
    """A value principle that the catalogue does not have."""

    kind: Literal["bias", "toxicity"] = Field(
        description="bias: attributes should be shown evenly; toxicity: content should be absent."
    )
    text: str = Field(min_length=1, description="The sentence that the value encoder is given.")
    attributes: tuple[str, ...] = Field(
        (), description="bias: the classes, as they stand before a noun (an old doctor)."
    )
    negative: str = Field(
        "", description="toxicity: negative prompt with which preferred images are made."
    )
    question: str = Field(
        "", description="toxicity: word that its classifier is asked about; none: the key."
    )
    keywords: tuple[str, ...] = Field(
        (), description="Words of prompts that call for it; a * at the end is any ending."
    )
    exceptions: tuple[str, ...] = Field(
        (), description="Harmless expressions in which a keyword does not count."
    )
    train: str = Field(
        "",
        description="File of prompts to learn from. bias: a noun per line; none: the catalogue's "
        "concepts. toxicity: columns prompt and cleaned, the same without the toxic words.",
    )
    eval: str = Field("", description="File of held-out prompts, likewise.")
    classifier: Classifier | None = Field(
        None, description="Its scorer; none: score.scorers has one that gives its column."
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "OwnPrinciple":
        if self.kind == "toxicity":
            if self.attributes:
                raise ValueError("attributes are for kind bias; toxicity has none")
            if not (self.train and self.eval):
                raise ValueError("kind toxicity needs files of prompts: set train and eval")
            return self
        if self.negative or self.question:
            raise ValueError("negative and question are for kind toxicity; bias has attributes")
        if len(self.attributes) < 2 or len(set(self.attributes)) < len(self.attributes):
            raise ValueError(f"kind bias needs two different attributes or more, {self.attributes}")
        if bad := [name for name in self.attributes if not name.strip() or set(name) & set(";=")]:
            raise ValueError(f"attributes must be words without ; and =, not {bad}")
        return self


def check(own: Mapping[str, OwnPrinciple], chosen: tuple[str, ...]) -> None:
    """Make sure that the principles' keys can be told apart and that the chosen ones exist.

    Raises:
        ValueError: a key is taken or malformed, or a chosen principle does not exist.
    """
    for key in own:
        if key in SHIPPED or key in RESERVED or not _KEY.fullmatch(key):
            raise ValueError(
                f"principles.{key}: choose another name, of small letters, digits and _; taken are "
                f"{', '.join((*SHIPPED, *RESERVED))}"
            )
    if unknown := [key for key in chosen if key not in SHIPPED and key not in own]:
        raise ValueError(
            f"generate.principles: {', '.join(unknown)} not known; there are "
            f"{', '.join((*SHIPPED, *own))}. Describe others under principles."
        )


def classifier(key: str, principle: OwnPrinciple) -> Scorer | None:
    """Return the scorer of a principle's classifier, if it states one."""
    if principle.classifier is None:
        return None
    stated = principle.classifier.model_dump()
    if principle.kind == "bias":
        return Scorer(name=key, classes=principle.attributes, **stated)
    if stated["kind"] in ("llava", "zero_shot_toxicity"):
        stated["options"] = {"classes": {key: principle.question or key}, **stated["options"]}
    return Scorer(name=key, **stated)
