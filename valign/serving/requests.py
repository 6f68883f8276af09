"""A request for images, told apart into single images: model, principle, tokens and seeds.

In: a checked request, the models that are served, and what the retriever found. Out: one
`ImageRequest` per image and what the answer says of it. Seeds and the share of images that get the
token are those of the offline pipeline (`models.aligned`, `records.noise_seed`), so that a request
gives the images that `valign sample` gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from valign.models.value_drop import apply_mask
from valign.records import noise_seed
from valign.serving.aligned import ImageRequest, ModelCard
from valign.serving.errors import RequestError, bad
from valign.serving.tables import AUTO, NONE
from valign.serving.wire import ImagesRequest

NO_TOKENS = "the model has no value tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an answer says of one image."""

    principle: str
    reason: str
    applied: bool  # whether the token was on this image
    value_strength: float
    seed: int  # the request's; with the index it gives the noise
    index: int


def model_of(request: ImagesRequest, models: Mapping[str, ModelCard]) -> ModelCard:
    """Return the model that is asked for, or the first.

    Raises:
        RequestError: 404, there is none of that name.
    """
    if request.model is None:
        return next(iter(models.values()))
    if request.model not in models:
        raise RequestError(
            404,
            f"there is no model of that name; there are {', '.join(models)}",
            "model",
            "model_not_found",
        )
    return models[request.model]


def needs_retriever(request: ImagesRequest, model: ModelCard) -> bool:
    """Say whether the prompt's own principle must be found."""
    return request.principles == AUTO and bool(model.principles)


def principle_of(
    request: ImagesRequest, model: ModelCard, found: tuple[str, str] | None
) -> tuple[str, str]:
    """Return the principle's key ("" for none) and why.

    Args:
        request: what is asked.
        model: which model draws.
        found: the retriever's principle and reason, if it was asked.

    Raises:
        RequestError: 400, the model does not know the principle that was chosen.
    """
    if request.principles == NONE:
        return "", "no principle was asked for"
    if request.principles != AUTO:
        if request.principles not in model.principles:
            known = ", ".join(model.principles) or "none"
            raise bad(
                f"the model {model.name} does not know this principle; it knows {known}",
                "principles",
                "unknown_principle",
            )
        return request.principles, f"principle {request.principles} was asked for"
    if found is None:
        return "", NO_TOKENS
    key, reason = found
    if key and key not in model.principles:
        return "", f"{reason}, but the model {model.name} has no token for it"
    return key, reason


def expand(
    request: ImagesRequest, model: ModelCard, *, principle: str, reason: str, seed: int
) -> list[tuple[ImageRequest, Told]]:
    """Return the single images of a request.

    Args:
        request: what is asked.
        model: which model draws.
        principle: key of the principle, "" for none.
        reason: why.
        seed: the request's own or a drawn one.

    Raises:
        RequestError: 400, a size that the model cannot draw.
    """
    size = request.size or (model.size_px, model.size_px)
    if size[0] % model.scale or size[1] % model.scale:
        raise bad(f"size: width and height must be multiples of {model.scale}", "size")
    applied = [False] * request.n
    if principle and request.value_strength:
        share = model.drop[principle]
        first = noise_seed(seed, request.prompt, 0)  # as `AlignedPipeline` has it
        applied = apply_mask(principle, request.prompt, request.n, share, first).tolist()
    return [
        (
            ImageRequest(
                model=model.name,
                prompt=request.prompt,
                negative=request.negative_prompt,
                seed=noise_seed(seed, request.prompt, index),
                steps=request.steps or model.steps,
                guidance=model.guidance if request.guidance is None else request.guidance,
                size=size,
                principle=principle if applied[index] else "",
                strength=request.value_strength,
            ),
            Told(
                principle=principle,
                reason=reason,
                applied=applied[index],
                value_strength=request.value_strength,
                seed=seed,
                index=index,
            ),
        )
        for index in range(request.n)
    ]
