"""Which prompts a run asks for: the catalogue's or a user's, for training and for evaluation.

A reduced run takes a nested subset (by hash of the text), so a larger run asks for everything a
smaller one asked for. Prompts that the guard refuses are counted and never reach a generator.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from valign.catalogue import guard, import_prompts, paper_plan, scenarios
from valign.catalogue.concepts import CATEGORIES, concepts
from valign.catalogue.principles import BIAS, PRINCIPLES, TOXICITY
from valign.catalogue.retriever import retrieve
from valign.config import Run
from valign.records import Prompt, digest
from valign.storage.objects import local

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how many images of it are wanted."""

    prompt: Prompt
    images: int


@dataclass(frozen=True)
class Requests:
    """The prompts of a run, and what was left out and why."""

    requests: tuple[Request, ...]
    skipped: tuple[str, ...] = ()
    refused: int = 0  # by the guard; their text is not kept


def training(run: Run) -> Requests:
    """Return the prompts whose images the preference data is made of."""
    if run.prompts != "catalogue":
        return _imported(run)
    wanted = run.generate.principles
    requests = []
    if any(key in wanted for key in BIAS):
        requests += _bias(run)
    for key in (key for key in TOXICITY if key in wanted):
        requests += _toxic(run, key)
    return _guarded(requests)


def evaluation_bias(run: Run) -> tuple[Prompt, ...]:
    """Return the held-out face prompts of the bias principles."""
    chosen = _subset(concepts(split="eval"), run.evaluate.bias_prompts, lambda c: c.name)
    texts = ((concept, scenarios.face_prompt(concept)) for concept in chosen)
    return _allowed(
        Prompt(text=text, scene=text, role="neutral", category=c.category, concept=c.name)
        for c, text in texts
    )


def evaluation_toxic(run: Run) -> tuple[Prompt, ...]:
    """Return the held-out toxic prompts, in equal parts of each kind when reduced."""
    keys = [key for key in TOXICITY if key in run.generate.principles]
    total = run.evaluate.toxic_prompts
    prompts: list[Prompt] = []
    for index, key in enumerate(keys):
        count = None if total is None else total // len(keys) + (index < total % len(keys))
        prompts += [toxic for toxic, _ in _toxic_twins(key, "eval", count)]
    return _allowed(prompts)


def _bias(run: Run) -> list[Request]:
    settings = run.generate
    genders, races = PRINCIPLES["gender"].attributes, PRINCIPLES["race"].attributes
    planned: dict[str, int] = {}
    if settings.plan == "paper":
        for category in CATEGORIES:
            planned |= paper_plan.images_per_attribute_pair(category)
    requests = []
    for c in _subset(concepts(split="train"), settings.bias_prompts, lambda c: c.name):
        scene = scenarios.neutral_prompt(c)
        neutral = Prompt(
            text=scene, scene=scene, role="neutral", category=c.category, concept=c.name
        )
        requests.append(Request(neutral, settings.neutral_images))
        for race in races:
            for gender in genders:
                prompt = Prompt(
                    text=scenarios.attribute_prompt(c, race, gender),
                    scene=scene,
                    role="attribute",
                    category=c.category,
                    concept=c.name,
                    attributes=(("gender", gender), ("race", race)),
                )
                images = planned.get(c.name, settings.images_per_attribute_pair)
                requests.append(Request(prompt, images))
    return requests


def _toxic(run: Run, key: str) -> list[Request]:
    each = run.generate.images_per_toxic_prompt
    paper = run.generate.plan == "paper"
    planned = paper_plan.images_per_toxic_prompt(key) if paper else {}
    requests = []
    for toxic, cleaned in _toxic_twins(key, "train", run.generate.toxic_prompts):
        images = planned.get(toxic.text, (each, each))
        requests += [Request(toxic, images[0]), Request(cleaned, images[1])]
    return requests


def _toxic_twins(
    key: str, split: Literal["train", "eval"], count: int | None
) -> list[tuple[Prompt, Prompt]]:
    twins = []
    for toxic in _subset(scenarios.toxic_prompts(key, split), count, lambda t: t.text):
        dirty = Prompt(
            text=toxic.text,
            scene=toxic.text,
            role="toxic",
            category=key,
            principle=key,
            cleaned=toxic.cleaned,
        )
        clean = dataclasses.replace(
            dirty, text=toxic.cleaned, role="cleaned", negative=PRINCIPLES[key].negative
        )
        twins.append((dirty, clean))
    return twins


def _subset(items: Sequence[Item], count: int | None, text_of: Callable[[Item], str]) -> list[Item]:
    ranked = sorted(items, key=lambda item: digest("subset", text_of(item)))
    return ranked if count is None else ranked[:count]


def with_category(prompt: Prompt) -> Prompt:
    """Return a user's prompt with the toxicity principle that it goes against as its category.

    That is the principle it names, or what its words ask for; any other prompt is left as it is.
    Images of prompts of such a category are kept apart.
    """
    key = prompt.principle or retrieve(prompt.text).principle
    return dataclasses.replace(prompt, category=key) if key in TOXICITY else prompt


def refusals(texts: Iterable[str]) -> dict[str, str]:
    """Return why the guard refuses each of the texts that it refuses."""
    found = ((text, guard.refuse(text)) for text in sorted(texts))
    return {text: f"refused: {refusal.reason}" for text, refusal in found if refusal}


def _allowed(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    asked = tuple(prompts)
    refused = refusals({prompt.text for prompt in asked})
    return tuple(prompt for prompt in asked if prompt.text not in refused)


def _guarded(requests: list[Request]) -> Requests:
    refused_texts = refusals({request.prompt.text for request in requests})
    allowed = tuple(r for r in requests if r.prompt.text not in refused_texts)
    refused = len(requests) - len(allowed)
    return Requests(allowed, refused=refused)


def _imported(run: Run) -> Requests:
    path = local(run.prompts)
    imported = import_prompts.parse(
        path.read_bytes(), path.name, column=run.prompts_column, strict=run.prompts_strict
    )
    if not imported.prompts:
        rows = "; ".join(f"row {row.row}: {row.reason}" for row in imported.rejected[:5])
        raise ValueError(f"{run.prompts} holds no usable prompt. {rows or 'It is empty.'}")
    images = run.generate.images_per_user_prompt
    skipped = tuple(f"row {row.row}: {row.reason}" for row in imported.rejected)
    requests = tuple(Request(with_category(prompt), images) for prompt in imported.prompts)
    return Requests(requests, skipped, imported.refused)
