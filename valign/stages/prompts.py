"""Which prompts a run asks for: the catalogue's or a user's, for training and for evaluation.

A reduced run takes a nested subset (by hash of the text), so a larger run asks for everything a
smaller one asked for. Prompts that the guard refuses are counted and never reach a generator.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from valign.catalogue import guard, import_prompts, scenarios
from valign.catalogue.concepts import concepts
from valign.catalogue.principles import BIAS, PRINCIPLES, TOXICITY
from valign.config import Run
from valign.records import Prompt, digest
from valign.storage.objects import local


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
    return tuple(
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
    return tuple(prompts)


def _bias(run: Run) -> list[Request]:
    settings = run.generate
    genders, races = PRINCIPLES["gender"].attributes, PRINCIPLES["race"].attributes
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
                requests.append(Request(prompt, settings.images_per_attribute_pair))
    return requests


def _toxic(run: Run, key: str) -> list[Request]:
    images = run.generate.images_per_toxic_prompt
    twins = _toxic_twins(key, "train", run.generate.toxic_prompts)
    return [Request(prompt, images) for pair in twins for prompt in pair]


def _toxic_twins(
    key: str, split: Literal["train", "eval"], count: int | None
) -> list[tuple[Prompt, Prompt]]:
    twins = []
    for toxic in _subset(scenarios.toxic_prompts(key, split), count, lambda t: t.text):
        shared = {"scene": toxic.text, "category": key, "principle": key, "cleaned": toxic.cleaned}
        dirty = Prompt(text=toxic.text, role="toxic", **shared)
        clean = Prompt(
            text=toxic.cleaned, role="cleaned", negative=PRINCIPLES[key].negative, **shared
        )
        twins.append((dirty, clean))
    return twins


def _subset(items, count, text_of):  # type: ignore[no-untyped-def]
    ranked = sorted(items, key=lambda item: digest("subset", text_of(item)))
    return ranked if count is None else ranked[:count]


def _guarded(requests: list[Request]) -> Requests:
    allowed = tuple(request for request in requests if guard.refuse(request.prompt.text) is None)
    refused = len(requests) - len(allowed)
    return Requests(allowed, refused=refused)


def _imported(run: Run) -> Requests:
    path = local(run.prompts)
    imported = import_prompts.parse(path.read_bytes(), PurePosixPath(path).name)
    if not imported.prompts:
        raise ValueError(f"{run.prompts} holds no usable prompt; see `valign run --help`")
    images = run.generate.images_per_user_prompt
    skipped = tuple(f"row {row.row}: {row.reason}" for row in imported.rejected)
    requests = tuple(Request(prompt, images) for prompt in imported.prompts)
    return Requests(requests, skipped, imported.refused)
