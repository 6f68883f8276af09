"""Images of prompts, by several models that share one generator.

In: image requests, each one image of one prompt, of whatever callers and models. Out: an answer per
request, in their order. What can share a batch does: the same size, steps and guidance, and the
same length of context (without a token, with one, or with one that counts by a strength). Each
image has its own noise and texts, so it is the same alone or in any batch, to rounding.

Which principle a prompt calls for is decided before (`requests`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from valign.pictures import fault

if TYPE_CHECKING:
    from valign.models.generator import Generator, Sampler
    from valign.models.value_encoder import ValueEncoder


GONE = "there is no such model any more, or it knows other principles now"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What callers may know of a model that is served."""

    name: str
    fingerprint: str  # changes whenever its images could
    principles: Mapping[str, str] = field(default_factory=dict)  # key -> canonical text
    drop: Mapping[str, float] = field(default_factory=dict)  # key -> share of images with a token
    steps: int
    guidance: float
    size_px: int
    scale: int  # sizes are multiples of it


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One image."""

    model: str
    prompt: str
    negative: str
    seed: int  # of the noise itself
    steps: int
    guidance: float
    size: tuple[int, int]  # width, height in pixels
    principle: str = ""  # the key whose token the image gets; "" for none
    strength: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAnswer:
    """One image, or why there is none."""

    image_HWC: np.ndarray | None
    fingerprint: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model by its name: the generator alone, or with a value encoder beside it."""

    card: ModelCard
    sampler: "Sampler"  # its solver is every request's
    value_encoder: "ValueEncoder | None" = None


class AlignedModels:
    """A generator, loaded once, and the models that are made of it. Not for several threads."""

    def __init__(self, generator: "Generator", models: Sequence[ServedModel]) -> None:
        self.generator = generator
        self.models = {model.card.name: model for model in models}

    @property
    def cards(self) -> dict[str, ModelCard]:
        """What is served, by name."""
        return {name: model.card for name, model in self.models.items()}

    def kind(self, request: ImageRequest) -> object:
        """Return what requests that can share a batch have in common."""
        model = self.models.get(request.model)
        return None if model is None else _batch_of(request, model.sampler)

    def answer(self, requests: Sequence[ImageRequest]) -> list[ImageAnswer]:
        """Draw every image; one that fails leaves the others alone."""
        answers: list[ImageAnswer | None] = [None] * len(requests)
        groups: dict[object, list[int]] = {}
        for place, request in enumerate(requests):
            model = self.models.get(request.model)
            if model is None or request.principle not in ("", *model.card.principles):
                # the models were replaced while this request was on its way
                answers[place] = ImageAnswer(image_HWC=None, fingerprint="", fault=GONE)
            else:
                groups.setdefault(_batch_of(request, model.sampler), []).append(place)
        for places in groups.values():
            made = self._tolerant([requests[place] for place in places])
            for place, answer in zip(places, made, strict=True):
                answers[place] = answer
        return [answer for answer in answers if answer is not None]

    def _tolerant(self, requests: Sequence[ImageRequest]) -> list[ImageAnswer]:
        """Draw a batch; if that fails, its images one by one."""
        try:
            images = self._draw(requests)
        except (ValueError, LookupError, RuntimeError, MemoryError) as error:
            if len(requests) == 1:
                return [self._answer(requests[0], None, f"it could not be drawn: {_kind(error)}")]
            return [answer for request in requests for answer in self._tolerant([request])]
        return [
            self._answer(request, image_HWC, fault(image_HWC))
            for request, image_HWC in zip(requests, images, strict=True)
        ]

    def _answer(self, request: ImageRequest, image_HWC: np.ndarray | None, why: str) -> ImageAnswer:
        fingerprint = self.models[request.model].card.fingerprint
        return ImageAnswer(image_HWC=None if why else image_HWC, fingerprint=fingerprint, fault=why)

    def _draw(self, requests: Sequence[ImageRequest]) -> np.ndarray:
        """Return uint8 images_BHWC of requests that share a batch."""
        from dataclasses import replace

        from valign.models.aligned import sample_rows

        first = requests[0]
        width, height = first.size
        own = self.models[first.model].sampler
        sampler = replace(
            own, steps=first.steps, guidance=first.guidance, height=height, width=width
        )
        prompts = [request.prompt for request in requests]
        cond = self.generator.condition(prompts, [request.negative for request in requests])
        token_N1D = None
        if _counts(first):
            token_N1D = cond.context_BLD.new_zeros(len(requests), 1, cond.context_BLD.shape[-1])
            for name in {request.model for request in requests}:
                rows = [row for row, request in enumerate(requests) if request.model == name]
                encoder = self.models[name].value_encoder
                if encoder is None:
                    raise LookupError(f"the model {name} has no value tokens")
                keys = [requests[row].principle for row in rows]
                token_N1D[rows] = encoder.token(keys, [prompts[row] for row in rows]).to(token_N1D)
        return sample_rows(
            self.generator,
            cond,
            [request.seed for request in requests],
            sampler,
            batch_size=len(requests),
            token_N1D=token_N1D,
            apply_N=[token_N1D is not None] * len(requests),
            strength_N=[request.strength for request in requests],
        )


def _counts(request: ImageRequest) -> bool:
    return bool(request.principle) and request.strength != 0


def _batch_of(request: ImageRequest, sampler: "Sampler") -> object:
    """Return what requests of one batch have in common."""
    context = "base" if not _counts(request) else "token" if request.strength == 1 else "blend"
    solver = sampler.scheduler, sampler.solver_order, sampler.karras
    return request.size, request.steps, request.guidance, context, solver


def _kind(error: Exception) -> str:
    """Return an error without its words, which may quote a prompt."""
    return type(error).__name__
