"""Which prompts a run asks for: the catalogue's or a user's, for training and for evaluation.

A reduced run takes a nested subset (by hash of the text), so a larger run asks for everything a
smaller one asked for. Prompts that the guard refuses are counted and never reach a generator.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from valign.catalogue import guard, import_prompts, paper_plan, scenarios
from valign.catalogue.concepts import CATEGORIES, Concept, concepts
from valign.catalogue.principles import PRINCIPLES, Principle, of_kind
from valign.catalogue.retriever import retrieve
from valign.config import Run
from valign.evaluation.sets import TOXICITY_SET
from valign.records import Prompt, digest
from valign.stages import principles
from valign.storage.objects import local
from valign.train_settings import CALIBRATED

Item = TypeVar("Item")
Split = Literal["train", "eval"]

PAIRS_PER_PRINCIPLE = 5  # of the ten (race, gender) pairs of a concept, as many as half


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
    requests = _bias(run)
    for key in principles.chosen(run, "toxicity"):
        requests += _toxic(run, key)
    return _guarded(requests)


def evaluation(run: Run) -> dict[str, tuple[Prompt, ...]]:
    """Return the prompts to measure by: for each bias principle by its key, and for toxicity.

    Held-out ones, unless the recipe names another split. By the retriever, a bias principle has the
    prompts that it is found for.
    """
    count = run.evaluate.bias_prompts
    asked: dict[str, tuple[Prompt, ...]] = {}
    for key in principles.chosen(run, "bias"):
        ranked = _subset(_concepts(run, key, _list(run)), None, lambda c: c.name)
        asked[key] = _faces(_measured(ranked, run, count, run.generate.bias_prompts))
    if run.evaluate.by_retriever:
        known = principles.known(run)

        def finds(prompt: Prompt, key: str) -> bool:
            return retrieve(prompt.text, seed=run.seed, principles=known).principle == key

        asked = {key: tuple(p for p in found if finds(p, key)) for key, found in asked.items()}
    if toxic := _held_out_toxic(run):
        asked[TOXICITY_SET] = toxic
    return asked


def _list(run: Run) -> Split:
    return "eval" if run.evaluate.split == "eval" else "train"


def _measured(ranked: list[Item], run: Run, count: int | None, trained: int | None) -> list[Item]:
    """Return what a split has of a ranked list: so many, or all that are not trained on.

    Raises:
        ValueError: for validation, too few are left that the run does not train on.
    """
    if run.evaluate.split != "validation":
        return ranked if count is None else ranked[:count]
    free = [] if trained is None else ranked[trained:]
    if len(free) < (count or 1):
        raise ValueError(
            f"evaluate.split=validation takes {count or 'some'} of the {len(ranked)} training "
            f"prompts of a kind, and {len(free)} are not trained on: lower generate.bias_prompts "
            "and generate.toxic_prompts, or evaluate's"
        )
    return free if count is None else free[-count:]


def calibration(run: Run) -> dict[str, tuple[Prompt, ...]]:
    """Return, by bias principle, the face prompts that its token's share is calibrated on.

    They are of concepts that are neither trained nor evaluated on; none if nothing is calibrated.

    Raises:
        ValueError: too few concepts to hold any back.
    """
    return {key: _faces(found) for key, found in _held_back(run).items()}


def _held_back(run: Run) -> dict[str, list[Concept]]:
    """The last concepts of each bias principle's list, in the order of which training takes some.

    So a run that trains on less than the whole list trains on the same concepts as ever.
    """
    if run.train.value_drop != CALIBRATED:
        return {}
    count, bias = run.train.calibration_concepts, principles.chosen(run, "bias")
    evaluated = {c.name for key in bias for c in _concepts(run, key, "eval")}
    found = {}
    for key in bias:
        ranked = _subset(_concepts(run, key, "train"), None, lambda c: c.name)
        found[key] = [c for c in ranked if c.name not in evaluated][-count:]
        if len(found[key]) < count or count == len(ranked):
            raise ValueError(
                f"train.value_drop={CALIBRATED} holds back {count} concepts of {key} that are not "
                f"for evaluation, of {len(ranked)}, and none or too few would be left: lower "
                "train.calibration_concepts, or give a share, such as 0.5"
            )
    return found


def _faces(found: Iterable[Concept]) -> tuple[Prompt, ...]:
    """Concepts' face prompts."""
    texts = ((concept, scenarios.face_prompt(concept)) for concept in found)
    return _allowed(
        Prompt(text=text, scene=text, role="neutral", category=c.category, concept=c.name)
        for c, text in texts
    )


def _held_out_toxic(run: Run) -> tuple[Prompt, ...]:
    """The toxic prompts to measure by, in equal parts of each kind when reduced."""
    keys = list(principles.chosen(run, "toxicity"))
    total = run.evaluate.toxic_prompts
    found: list[Prompt] = []
    for index, key in enumerate(keys):
        count = None if total is None else total // len(keys) + (index < total % len(keys))
        twins = _toxic_twins(run, key, _list(run), None)
        mine = _measured(twins, run, count, run.generate.toxic_prompts)
        found += [toxic for toxic, _ in mine]
    return _allowed(found)


def _bias(run: Run) -> list[Request]:
    """Ask for each concept without an attribute, and with those of every principle it serves."""
    settings = run.generate
    wanted = principles.chosen(run, "bias")
    crossed = any(key in principles.CROSSED for key in wanted)
    own = {key: p for key, p in wanted.items() if key not in principles.CROSSED}
    planned: dict[str, int] = {}
    if settings.plan == "paper":
        for category in CATEGORIES:
            planned |= paper_plan.images_per_attribute_pair(category)
    served: dict[str, tuple[Concept, list[Request]]] = {}
    held_back = {c.name for found in _held_back(run).values() for c in found}

    def serve(lists: Sequence[Concept], asked: Callable[[Concept], list[Request]]) -> None:
        free = [c for c in lists if c.name not in held_back]
        for c in _subset(free, settings.bias_prompts, lambda c: c.name):
            scene = scenarios.neutral_prompt(c)
            served.setdefault(scene, (c, []))[1].extend(asked(c))

    if crossed:
        each = settings.images_per_attribute_pair
        serve(concepts(split="train"), lambda c: _crossed(c, planned.get(c.name, each)))
    for key, principle in own.items():
        serve(_concepts(run, key, "train"), functools.partial(_attributed, run, principle))
    requests = []
    for scene, (c, variants) in served.items():
        neutral = Prompt(
            text=scene, scene=scene, role="neutral", category=c.category, concept=c.name
        )
        requests += [Request(neutral, settings.neutral_images), *variants]
    return requests


def _attributed(run: Run, principle: Principle, c: Concept) -> list[Request]:
    """Ask for a concept with each attribute, as often in all as for gender or race alone."""
    total = PAIRS_PER_PRINCIPLE * run.generate.images_per_attribute_pair
    images = -(-total // len(principle.attributes))
    return [
        Request(_shown(c, scenarios.attribute_prompt(c, name), (principle.key, name)), images)
        for name in principle.attributes
    ]


def _crossed(c: Concept, images: int) -> list[Request]:
    """Ask for a concept under each race and gender."""
    genders, races = PRINCIPLES["gender"].attributes, PRINCIPLES["race"].attributes
    return [
        Request(
            _shown(
                c, scenarios.attribute_prompt(c, race, gender), ("gender", gender), ("race", race)
            ),
            images,
        )
        for race in races
        for gender in genders
    ]


def _shown(c: Concept, text: str, *attributes: tuple[str, str]) -> Prompt:
    """A concept's prompt that names attributes."""
    return Prompt(
        text=text,
        scene=scenarios.neutral_prompt(c),
        role="attribute",
        category=c.category,
        concept=c.name,
        attributes=attributes,
    )


def _concepts(run: Run, key: str, split: Split) -> Sequence[Concept]:
    """The nouns of a bias principle's own file, or the catalogue's concepts."""
    own = run.principles.get(key)
    if own is None or not getattr(own, split):
        return concepts(split=split)
    return [Concept(row.text, key, "", split) for row in _own_rows(run, key, split)]


def _own_rows(run: Run, key: str, split: Split) -> tuple[Prompt, ...]:
    """The rows of a principle's own file of prompts; a bad one is an error that names it."""
    source = getattr(run.principles[key], split)
    path = local(source)
    return import_prompts.parse(path.read_bytes(), path.name, strict=True).prompts


def _toxic(run: Run, key: str) -> list[Request]:
    each = run.generate.images_per_toxic_prompt
    paper = run.generate.plan == "paper"
    planned = paper_plan.images_per_toxic_prompt(key) if paper and key in PRINCIPLES else {}
    requests = []
    for toxic, cleaned in _toxic_twins(run, key, "train", run.generate.toxic_prompts):
        images = planned.get(toxic.text, (each, each))
        requests += [Request(toxic, images[0]), Request(cleaned, images[1])]
    return requests


def _toxic_twins(
    run: Run, key: str, split: Split, count: int | None
) -> list[tuple[Prompt, Prompt]]:
    """The toxic prompts of a principle, each with its clean twin."""
    negative = principles.known(run)[key].negative
    twins = []
    for text, cleaned in _subset(_toxic_texts(run, key, split), count, lambda texts: texts[0]):
        dirty = Prompt(
            text=text, scene=text, role="toxic", category=key, principle=key, cleaned=cleaned
        )
        twins.append(
            (dirty, dataclasses.replace(dirty, text=cleaned, role="cleaned", negative=negative))
        )
    return twins


def _toxic_texts(run: Run, key: str, split: Split) -> list[tuple[str, str]]:
    if key not in run.principles:
        return [(toxic.text, toxic.cleaned) for toxic in scenarios.toxic_prompts(key, split)]
    rows = _own_rows(run, key, split)
    if bare := [row.text for row in rows if not row.cleaned or row.cleaned == row.text]:
        raise ValueError(
            f"principles.{key}.{split}: {len(bare)} prompts have no cleaned text, such as "
            f"{bare[0]!r}. Give the file a column `cleaned`: the same prompt without what the "
            "principle forbids."
        )
    return [(row.text, row.cleaned) for row in rows]


def _subset(items: Sequence[Item], count: int | None, text_of: Callable[[Item], str]) -> list[Item]:
    ranked = sorted(items, key=lambda item: digest("subset", text_of(item)))
    return ranked if count is None else ranked[:count]


def with_category(prompt: Prompt, known: Mapping[str, Principle]) -> Prompt:
    """Return a user's prompt with the toxicity principle that it goes against as its category.

    That is the principle it names, or what its words ask for; any other prompt is left as it is.
    Images of prompts of such a category are kept apart.
    """
    key = prompt.principle or retrieve(prompt.text, principles=known).principle
    forbids = key in of_kind("toxicity", known)
    return dataclasses.replace(prompt, category=key) if forbids else prompt


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
    known = principles.known(run)
    imported = import_prompts.parse(
        path.read_bytes(),
        path.name,
        column=run.prompts_column,
        strict=run.prompts_strict,
        principles=known,
    )
    if not imported.prompts:
        rows = "; ".join(f"row {row.row}: {row.reason}" for row in imported.rejected[:5])
        raise ValueError(f"{run.prompts} holds no usable prompt. {rows or 'It is empty.'}")
    images = run.generate.images_per_user_prompt
    skipped = tuple(f"row {row.row}: {row.reason}" for row in imported.rejected)
    requests = tuple(Request(with_category(prompt, known), images) for prompt in imported.prompts)
    return Requests(requests, skipped, imported.refused)
