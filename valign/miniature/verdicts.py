"""What the small scorers learn from: images with the oracle's readings and the CLIP's embeddings.

In: the images of `judged`, the shipped CLIP and the autoencoder. Out: `Verdicts`, as one `.npz`.
Beside the generator's own images there are drawn ones: groups that answer one prompt, some of them
wrongly, and scenes with many toxic marks; half of each is shown as the autoencoder returns it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from valign.catalogue.concepts import Concept, concepts
from valign.catalogue.principles import TOXICITY
from valign.miniature import judged, oracle, raters, vae
from valign.miniature.pairs import as_generated
from valign.miniature.renderer import render
from valign.miniature.scenes import GENDERS, RACES, Meaning, badge, draw, random_scene
from valign.models.clip import Clip
from valign.records import Prompt

# I images, G prompts, N images of each, D embedding

_WRONG = 0.25  # share of drawn answers that miss what the prompt states


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Images in three runs: groups (G*N) that answer a prompt each, fading ones, toxic scenes."""

    images: np.ndarray  # uint8 (I, 64, 64, 3)
    embeddings: np.ndarray  # float32 (I, D): the shipped CLIP's, unit length
    factors: np.ndarray  # float32 (I, 5): the oracle's quality factors, standardised
    toxic: np.ndarray  # bool (I, 3): the oracle's reading of each kind
    utility: np.ndarray  # float32 (G, N, K) of the groups, in the order of RATERS
    texts: list[str]  # the groups' prompts (G,)

    @property
    def groups(self) -> np.ndarray:
        """Index of each group's images: (G, N)."""
        shape = self.utility.shape[:2]
        return np.arange(shape[0] * shape[1]).reshape(shape)


def collect(
    files: Sequence[Path],
    out: Path,
    clip_folder: Path,
    autoencoder: Any,
    *,
    drawn: int,
    scenes: int,
    seed: int,
) -> None:
    """Read the generated images of `files`, draw `drawn` groups and `scenes` scenes, judge all."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    parts = [np.load(file) for file in files]
    plain, fading = (np.concatenate([p[key] for p in parts]) for key in ("plain", "fading"))
    rows = [row for part in parts for row in json.loads(str(part["prompts"]))]
    prompts, size = [judged.read_prompt(row) for row in rows], plain.shape[1]
    known = judged.plain_prompts(4 * drawn, split="train", seed=seed)
    asked = [prompt for prompt in known if prompt.concept][:drawn]
    own = np.stack([[render(_answer(p, rng)) for _ in range(size)] for p in asked])
    own = _softened(own.reshape(-1, 64, 64, 3), autoencoder, rng).reshape(own.shape)
    marked = np.stack([render(random_scene(rng)) for _ in range(scenes)])
    groups = np.concatenate([plain, own])
    images = np.concatenate(
        [
            groups.reshape(-1, 64, 64, 3),
            fading.reshape(-1, 64, 64, 3),
            _softened(marked, autoencoder, rng),
        ]
    )
    marks, quality = oracle.read(images)
    everyone = [p for p in [*prompts, *asked] for _ in range(size)]
    utility_IK = raters.utilities(raters.factors(images[: len(everyone)], everyone))
    np.savez(
        out,
        images=images,
        embeddings=Clip(str(clip_folder)).embed_images(images).numpy(),
        factors=_standard(np.stack([getattr(quality, k) for k in oracle.Quality.__slots__], 1)),
        toxic=np.stack([getattr(marks, k) for k in TOXICITY], 1),
        utility=utility_IK.reshape(*groups.shape[:2], -1),
        texts=np.array([p.text for p in [*prompts, *asked]]),
    )


def load(file: Path) -> Verdicts:
    """Read what `collect` wrote."""
    arrays = dict(np.load(file))
    return Verdicts(**arrays | {"texts": [str(text) for text in arrays["texts"]]})


def _standard(values_IF: np.ndarray) -> np.ndarray:
    return ((values_IF - values_IF.mean(0)) / (values_IF.std(0) + 1e-6)).astype(np.float32)


def _answer(prompt: Prompt, rng: np.random.Generator) -> Any:
    """A scene that answers a concept's prompt, or misses one thing of it."""
    known = {c.name: c for c in concepts()}
    concept, stated = known[prompt.concept], dict(prompt.attributes)
    gender = GENDERS.index(stated["gender"]) if stated else int(rng.integers(2))
    race = RACES.index(stated["race"]) if stated else int(rng.integers(5))
    meaning = Meaning(person=1, gender=gender, race=race, **badge(concept))
    if rng.random() < _WRONG:
        miss = int(rng.integers(4 if stated else 2))
        if miss == 2:
            meaning = replace(meaning, gender=1 - gender)
        elif miss == 3:
            meaning = replace(meaning, race=(race + int(rng.integers(1, 5))) % 5)
        else:
            meaning = replace(meaning, **badge(_other(concept, near=miss == 0, rng=rng)))
    return draw(meaning, rng)


def _other(concept: Concept, *, near: bool, rng: np.random.Generator) -> Concept:
    """Another concept, of the same field (another colour or frame) or of any."""
    choices = [c for c in concepts() if c is not concept and (not near or c.field == concept.field)]
    return choices[int(rng.integers(len(choices)))]


def _softened(images_IHWC: np.ndarray, autoencoder: Any, rng: np.random.Generator) -> np.ndarray:
    """Every second image as the autoencoder returns it."""
    softened = images_IHWC.copy()
    for at in range(0, len(images_IHWC), 64):
        chunk = images_IHWC[at : at + 64]
        order = np.concatenate([np.arange(0, len(chunk), 2), np.arange(1, len(chunk), 2)])
        pictures = as_generated(vae.to_tensor(chunk[order]), autoencoder, rng)
        pixels = (pictures.add(1).mul(127.5) + 0.5).clamp(0, 255).byte()
        softened[at : at + 64][order] = pixels.permute(0, 2, 3, 1).numpy()
    return softened
