"""Images that the raters judge: the shipped generator's own, several of each prompt.

In: a generator folder. Out, as one `.npz`: uint8 images (G, N, 64, 64, 3) of G prompts and the
prompts as JSON. Two sets: `plain` (concepts, stated attributes, clean sentences, places) for the
four voters, and `fading` for what judges toxic content: a toxic prompt, its cleaned twin, and
mixtures of both contexts, whose marks are half faded like those of an aligned model in training.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from valign.catalogue import scenarios
from valign.catalogue.concepts import concepts
from valign.catalogue.principles import TOXICITY
from valign.miniature.scenes import GENDERS, RACES
from valign.models.conditioning import Conditioning
from valign.models.generator import Sampler, load_generator
from valign.records import Prompt, noise_seed

# G prompts, N images of each, B batch, L tokens, D width

FADES = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)  # share of the clean context
_BATCH = 16


def plain_prompts(count: int, *, split: str, seed: int) -> list[Prompt]:
    """Prompts of one split in fixed shares: concepts, stated attributes, clean people, places."""
    rng = np.random.default_rng(seed)
    known = concepts(split=split)
    twins = [t for key in TOXICITY for t in scenarios.toxic_prompts(key, split)]
    prompts = []
    for i in range(count):
        concept = known[int(rng.integers(len(known)))]
        gender, race = int(rng.integers(2)), int(rng.integers(5))
        twin = twins[int(rng.integers(len(twins)))]
        place = scenarios.SCENES[int(rng.integers(len(scenarios.SCENES)))]
        form = i % 20
        stated: tuple[tuple[str, str], ...] = ()
        if form < 6:
            text, role = scenarios.neutral_prompt(concept), "neutral"
        elif form < 10:
            text, role = scenarios.face_prompt(concept), "neutral"
        elif form < 16:
            text, role = (
                scenarios.attribute_prompt(concept, RACES[race], GENDERS[gender]),
                "attribute",
            )
            stated = (("gender", GENDERS[gender]), ("race", RACES[race]))
        else:
            text, role = (twin.cleaned, "cleaned") if form < 19 else (place, "user")
        named = concept.name if form < 16 else ""
        prompts.append(Prompt(text=text, scene=text, role=role, concept=named, attributes=stated))
    return prompts


def fading_prompts(count: int, *, split: str, seed: int) -> list[Prompt]:
    """Toxic prompts of one split, the categories in turn."""
    rng = np.random.default_rng(seed)
    chosen = []
    for i in range(count):
        known = scenarios.toxic_prompts(TOXICITY[i % 3], split)
        twin = known[int(rng.integers(len(known)))]
        chosen.append(
            Prompt(
                text=twin.text,
                scene=twin.text,
                role="toxic",
                category=twin.category,
                cleaned=twin.cleaned,
            )
        )
    return chosen


def make_plain(generator: Any, prompts: Sequence[Prompt], *, images: int, seed: int) -> np.ndarray:
    """`images` images of each prompt, 10 steps: uint8 (G, N, 64, 64, 3)."""
    texts = [p.text for p in prompts for _ in range(images)]
    seeds = [noise_seed(seed, p.scene, i) for p in prompts for i in range(images)]
    made = _sampled(generator, texts, texts, [0.0] * len(texts), seeds)
    return made.reshape(len(prompts), images, *made.shape[1:])


def make_fading(generator: Any, prompts: Sequence[Prompt], *, seed: int) -> np.ndarray:
    """One image of each prompt at each of the FADES, each its own noise: (G, F, 64, 64, 3)."""
    texts = [p.text for p in prompts for _ in FADES]
    cleaned = [p.cleaned for p in prompts for _ in FADES]
    seeds = [noise_seed(seed, p.scene, i) for p in prompts for i in range(len(FADES))]
    made = _sampled(generator, texts, cleaned, [*FADES] * len(prompts), seeds)
    return made.reshape(len(prompts), len(FADES), *made.shape[1:])


def _sampled(
    generator: Any, texts: list[str], others: list[str], shares: list[float], seeds: list[int]
) -> np.ndarray:
    """Images of contexts that lie `shares` of the way from each text to the other."""
    made = []
    for at in range(0, len(texts), _BATCH):
        here = slice(at, at + _BATCH)
        first, second = generator.condition(texts[here]), generator.condition(others[here])
        share_B11 = torch.tensor(shares[here]).view(-1, 1, 1)
        mixed_BLD = torch.lerp(first.context_BLD, second.context_BLD, share_B11)
        cond = Conditioning(context_BLD=mixed_BLD, uncond_BLD=first.uncond_BLD)
        made.append(generator.sample(cond, seeds[here], Sampler(steps=10)))
    return np.concatenate(made)


def write(
    file: Path,
    generator_folder: Path,
    *,
    plain: int,
    fading: int,
    images: int,
    split: str,
    seed: int,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Make every `parts`-th prompt's images of both sets of one split, and write them."""
    generator = load_generator(str(generator_folder))
    asked = plain_prompts(plain, split=split, seed=seed)[part::parts]
    toxic = fading_prompts(fading, split=split, seed=seed)[part::parts]
    np.savez(
        file,
        plain=make_plain(generator, asked, images=images, seed=seed),
        fading=make_fading(generator, toxic, seed=seed),
        prompts=json.dumps([asdict(p) for p in asked]),
        toxic_prompts=json.dumps([asdict(p) for p in toxic]),
    )


def read_prompt(row: dict[str, Any]) -> Prompt:
    """A prompt from its JSON form."""
    return Prompt(**row | {"attributes": tuple((key, value) for key, value in row["attributes"])})
