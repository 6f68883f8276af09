"""Draw one prompt without and with its value token: what `valign sample` shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from valign.catalogue import guard
from valign.catalogue.principles import PRINCIPLES, Principle, of_kind
from valign.catalogue.retriever import retrieve
from valign.records import noise_seed
from valign.stages import principles
from valign.stages.device import prepare
from valign.stages.image_files import png
from valign.storage import layout
from valign.storage.objects import open_store, resolve

SHOWN_PX = 192  # smaller images are enlarged to about this, pixel by pixel


@dataclass(frozen=True, slots=True)
class Drawn:
    """A PNG grid (upper row base, lower row aligned) and why this principle was applied."""

    png: bytes
    reason: str


def toxic(prompt: str, principle: str, *, model: str) -> str:
    """Say why images of this prompt may be toxic, or return an empty string.

    Goes by the catalogue's principles and the model's own.

    Raises:
        ValueError: the guard refuses the prompt, whoever wants to see it.
        LookupError: there is no aligned model.
    """
    _refuse(prompt)
    return _forbidden(prompt, principle, PRINCIPLES) or _forbidden(
        prompt, principle, principles.of_model(aligned_folder(model))
    )


def _forbidden(prompt: str, principle: str, known: Mapping[str, Principle]) -> str:
    forbidding = of_kind("toxicity", known)
    found = retrieve(prompt, principles=known)
    if found.principle in forbidding:
        return f"this prompt {found.reason}"
    return f"principle {principle} is about toxic content" if principle in forbidding else ""


def draw(prompt: str, *, model: str, principle: str, images: int, seed: int) -> Drawn:
    """Draw `images` of a prompt twice, from the same noise.

    Args:
        prompt: what to draw.
        model: a run's root, or an aligned model's folder.
        principle: a key of the catalogue, or `auto`.
        images: images per row.
        seed: the noise's.

    Raises:
        ValueError: the guard refuses the prompt, or the principle is unknown.
        LookupError: there is no aligned model.
    """
    from valign.models.aligned import AlignedPipeline
    from valign.models.generator import GeneratorOptions

    _refuse(prompt)
    key, reason = principle, f"principle {principle} was asked for"
    folder = aligned_folder(model)
    if principle == "auto":
        retrieved = retrieve(prompt, principles=principles.of_model(folder))
        key, reason = retrieved.principle, retrieved.reason
    pipeline = AlignedPipeline.from_pretrained(
        folder, options=GeneratorOptions(device=prepare()), resolve=resolve
    )
    if key and pipeline.value_encoder.drop.get(key, 1.0) < 1:
        reason += f"; the token is on {pipeline.value_encoder.drop[key]:.0%} of the lower row"
    seeds = [noise_seed(seed, prompt, sample) for sample in range(images)]
    rows = [pipeline([prompt] * images, [used] * images, seeds) for used in ("", key)]
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    scale = max(1, SHOWN_PX // rows[0].shape[1])
    return Drawn(png(grid.repeat(scale, axis=0).repeat(scale, axis=1)), reason)


def _refuse(prompt: str) -> None:
    if refusal := guard.refuse(prompt):
        raise ValueError(f"this prompt is refused: {refusal.reason}")


def aligned_folder(model: str) -> Path:
    """Return the folder of the aligned model that a run's root or a folder holds."""
    here = Path(model)
    if (here / "valign.json").is_file():
        return here
    store = open_store(model)
    if not store.exists(f"{layout.ALIGNED}/valign.json"):
        raise LookupError(
            f"{model} holds no aligned model. Make one with `valign demo` or `valign run all "
            f"root={model}`, or name another with --model."
        )
    return store.local(layout.ALIGNED)
