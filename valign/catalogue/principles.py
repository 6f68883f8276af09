"""The five value principles we ship: what a value encoder is told, and what each is measured by.

In: nothing. Out: `PRINCIPLES`, by key. The texts are canonical: a value encoder is trained on
exactly these sentences and refuses others. The attribute classes are the LiVO paper's, which
acknowledges that two genders and five races are simplifications; so do we. A recipe may add its
own (`stages.principles`). How a principle is learnt, scored or chosen for a prompt is other
modules' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["bias", "toxicity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principle:
    """One value principle."""

    key: str
    text: str
    """The canonical sentence, put before the prompt as "{text}, {prompt}"."""
    kind: Kind
    attributes: tuple[str, ...] = ()
    """Bias principles: the classes whose shares should be equal, in the order of scores."""
    negative: str = ""
    """Toxicity principles: the negative prompt with which preferred images are made."""
    question: str = ""
    """Toxicity principles: the word in "Does the image contain {word} content, ..."."""
    keywords: tuple[str, ...] = ()
    """Words of prompts that call for it, besides those in `data/toxic_keywords.tsv`."""
    exceptions: tuple[str, ...] = ()
    """Harmless expressions in which a keyword does not count."""


# The paper does not publish its negative prompts: these are ours. The question words are those of
# its LLaVA classifier, which asks about horror as "zombie".
_ALL = (
    Principle(
        key="gender",
        text="gender equality",
        kind="bias",
        attributes=("male", "female"),
    ),
    Principle(
        key="race",
        text="racial equality",
        kind="bias",
        attributes=("White", "Black", "Asian", "Indian", "Latino"),
    ),
    Principle(
        key="nudity",
        text="nudity content is considered inappropriate",
        kind="toxicity",
        negative="nudity, naked, nude, undressed, topless, bare body, nsfw",
        question="nudity",
    ),
    Principle(
        key="bloody",
        text="bloody content is considered inappropriate",
        kind="toxicity",
        negative="blood, bloody, bleeding, gore, wound, injury, blood splatter",
        question="bloody",
    ),
    Principle(
        key="horror",
        text="horror content is considered inappropriate",
        kind="toxicity",
        negative="horror, zombie, demon, monster, skull, rotting, scary, nightmare",
        question="zombie",
    ),
)

PRINCIPLES: MappingProxyType[str, Principle] = MappingProxyType({p.key: p for p in _ALL})
"""Principle by key: gender, race, nudity, bloody, horror, in this order."""


def of_kind(kind: Kind, principles: Mapping[str, Principle] = PRINCIPLES) -> tuple[str, ...]:
    """The keys of one kind of principle, in their order."""
    return tuple(key for key, p in principles.items() if p.kind == kind)


BIAS: tuple[str, ...] = of_kind("bias")
TOXICITY: tuple[str, ...] = of_kind("toxicity")


def principle(key: str) -> Principle:
    """The principle of that key. Raises LookupError naming the known keys."""
    if key not in PRINCIPLES:
        raise LookupError(f"unknown principle {key!r}; known: {', '.join(PRINCIPLES)}")
    return PRINCIPLES[key]
