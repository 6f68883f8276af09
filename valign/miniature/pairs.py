"""Batches that CLIP is trained on: images, captions, and hard negatives that differ in one mark.

In: a random generator, the tokenizer and the autoencoder. Out: `Batch`. Attributes are balanced
here: CLIP judges, so it must not learn the generator's bias. Half the images are shown as the
autoencoder returns them, because generated ones look like that.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from valign.catalogue import scenarios
from valign.catalogue.concepts import FIELDS, concepts
from valign.catalogue.principles import TOXICITY
from valign.miniature import text, vae
from valign.miniature.captions import Caption, sample
from valign.miniature.renderer import Scene, render
from valign.miniature.scenes import GENDERS, RACES, Meaning, badge, draw

# B batch, T texts (captions, then hard negatives), L tokens

MARKS = (
    "gender", "race", "glyph", "colour", "frame", "fill", "thing", "setting", "style", *TOXICITY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """Images, the texts beside them, and what is true of which."""

    images: Tensor  # -1..1 (B, 3, 64, 64)
    ids: Tensor  # captions, then hard negatives (2B, L)
    holds: Tensor  # bool (B, 2B): the text is true of the image
    marks: Tensor  # int64 (B, len(MARKS)), 0 = absent


def _caption(rng: np.random.Generator) -> Caption:
    """Half the grammar's own mix, half evaluation sentences with an attribute appended."""
    if rng.random() < 0.5:
        caption = sample(rng)
        return caption if caption.text and caption.meaning.person >= 0 else _caption(rng)
    concept = concepts()[int(rng.integers(len(concepts())))]
    template = (scenarios.neutral_prompt, scenarios.face_prompt)[int(rng.integers(2))]
    meaning = Meaning(person=1, **badge(concept))
    form = int(rng.integers(5))
    if form == 0:
        return Caption(template(concept), meaning, concept)
    if form < 3:
        gender = int(rng.integers(2))
        return Caption(
            f"{template(concept)}, {GENDERS[gender]}", replace(meaning, gender=gender), concept
        )
    race = int(rng.integers(5))
    return Caption(f"{template(concept)}, {RACES[race]}", replace(meaning, race=race), concept)


def _swapped(caption: Caption, rng: np.random.Generator) -> Caption:
    """The same sentence made false: another gender, race or concept, else any caption."""
    meaning, parts = caption.meaning, caption.text.split(" ")
    for key, names in (("gender", GENDERS), ("race", RACES)):
        value = getattr(meaning, key)
        if (
            value >= 0
            and names[value] in parts
            and (key == "race" or meaning.race < 0 or rng.random() < 0.5)
        ):
            other = int((value + rng.integers(1, len(names))) % len(names))
            words = [names[other] if word == names[value] else word for word in parts]
            return replace(caption, text=" ".join(words), meaning=replace(meaning, **{key: other}))
    if caption.concept:
        same = [
            c for c in concepts() if c.field == FIELDS[meaning.glyph] and c is not caption.concept
        ]
        other_concept = same[int(rng.integers(len(same)))]
        words_changed = caption.text.replace(caption.concept.name, other_concept.name)
        return Caption(words_changed, replace(meaning, **badge(other_concept)), other_concept)
    return _caption(rng)


def _compatible(scenes: list[Scene], meanings: list[Meaning]) -> Tensor:
    """Whether each meaning (T) is true of each scene (B): bool (B, T)."""
    holds = np.ones((len(scenes), len(meanings)), dtype=bool)
    for key in ("gender", "race", "glyph", "colour", "frame", "fill", "setting", "style"):
        shown_B1 = np.array([getattr(s, key) for s in scenes])[:, None]
        said_T = np.array([getattr(m, key) for m in meanings])
        holds &= (said_T < 0) | (said_T == shown_B1)
    for key in TOXICITY:
        holds &= (
            np.array([getattr(m, key) for m in meanings])
            == np.array([getattr(s, key) for s in scenes])[:, None]
        )
    person = np.array([s.gender >= 0 for s in scenes])[:, None]
    said = np.array([m.person for m in meanings])
    holds &= (said < 0) | (said == person)
    thing_B1 = np.array([s.thing if s.gender < 0 else -1 for s in scenes])[:, None]
    said_T = np.array([m.thing for m in meanings])
    return torch.from_numpy(holds & ((said_T < 0) | (said_T == thing_B1)))


@torch.no_grad()
def as_generated(images_BCHW: Tensor, autoencoder: Any, rng: np.random.Generator) -> Tensor:
    """Half the batch through the autoencoder's eyes, with slightly noisy latents."""
    half = len(images_BCHW) // 2
    latents = autoencoder.encode(images_BCHW[:half]).latent_dist.mean
    latents = latents + 0.1 * float(rng.random()) * latents.std() * torch.randn_like(latents)
    decoded = autoencoder.decode(latents).sample.clamp(-1, 1)
    return torch.cat([decoded, images_BCHW[half:]])


def make_batch(size: int, tokenizer: Any, autoencoder: Any, rng: np.random.Generator) -> Batch:
    """Captions with a scene each, unstated attributes balanced, and their hard negatives."""
    captions = [_caption(rng) for _ in range(size)]
    scenes = [
        draw(c.meaning if c.meaning.person == 0 else replace(
            c.meaning,
            gender=c.meaning.gender if c.meaning.gender >= 0 else int(rng.integers(2)),
            race=c.meaning.race if c.meaning.race >= 0 else int(rng.integers(5)),
        ), rng)
        for c in captions
    ]  # fmt: skip
    captions += [_swapped(c, rng) for c in captions]
    ids_TL = text.token_ids(tokenizer, [c.text for c in captions])
    longest = int((ids_TL != tokenizer.pad_token_id).sum(1).max())
    images = as_generated(vae.to_tensor(np.stack([render(s) for s in scenes])), autoencoder, rng)
    marks = [[int(_shown(s, key)) + (key not in TOXICITY) for key in MARKS] for s in scenes]
    holds = _compatible(scenes, [c.meaning for c in captions])
    return Batch(images, ids_TL[:, :longest], holds, torch.tensor(marks))


def _shown(scene: Scene, key: str) -> int:
    """A mark as drawn, -1 where absent."""
    if key in ("colour", "frame", "fill") and scene.glyph < 0:
        return -1
    return -1 if key == "thing" and scene.gender >= 0 else getattr(scene, key)
