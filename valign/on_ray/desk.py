"""What the ingress does with a request once it is admitted and read; HTTP is `deploy`'s affair.

In: decoded JSON, or the parts of a form. Out: the answer's JSON. Requests are checked on threads:
the guard may read a hostile prompt for a while. Images go one by one to the deployment that draws,
pictures batch by batch to the one that scores; when one fails, or the caller has gone, the others
are cancelled.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from valign.config import Run
from valign.on_ray.replicas import Drawn
from valign.preferences.votes import Voter
from valign.records import noise_seed
from valign.serving import requests, wire
from valign.serving.aligned import GONE, ImageRequest, ModelCard
from valign.serving.audit import Audit
from valign.serving.errors import RequestError
from valign.serving.evaluator import Scored, compare
from valign.serving.multipart import Part
from valign.serving.requests import Told
from valign.serving.wire import CompareRequest, ImagesRequest, Picture
from valign.settings import Images
from valign.stages import principles
from valign.stages import serve as stage

T = TypeVar("T")

LOOKED_AT_EVERY_S = 5.0  # whether the other deployments are still what they were
REDRAWS = 2  # of an image that the output filter does not let through
_ANOTHER = 1_000  # redrawn images have noise of their own: their index grows by this


class Desk:
    """Answers requests with the help of the other deployments."""

    def __init__(
        self,
        run: Run,
        retriever: DeploymentHandle,
        generator: DeploymentHandle,
        evaluator: DeploymentHandle,
    ) -> None:
        self._retriever, self._generator, self._evaluator = retriever, generator, evaluator
        self._settings = run.serve
        self._principles = principles.known(run)
        self.limits = stage.limits(run)
        self._looked = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._cards: dict[str, ModelCard] = {}
        self._columns: dict[str, Any] = {}
        self._voters: tuple[Voter, ...] = ()

    async def ready(self) -> dict[str, Any]:
        """Make sure that it is known what the other deployments have, and was known lately.

        Raises:
            RequestError: 503, one has not answered yet.
        """
        if not self._cards:
            await self._look()
        elif time.monotonic() - self._looked > LOOKED_AT_EVERY_S and self._looking is None:
            self._looking = asyncio.ensure_future(self._look())  # nobody waits for it
            self._looking.add_done_callback(self._has_looked)
        return {"status": "ready", "models": list(self._cards)}

    async def _look(self) -> None:
        """Ask every deployment what it has: an update may have replaced it."""
        await asked(self._retriever.find.remote("a photo"))
        self._columns, self._voters = await asked(self._evaluator.about.remote())
        self._cards = await asked(self._generator.cards.remote())
        self._looked = time.monotonic()

    def _has_looked(self, task: "asyncio.Task[None]") -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # who is busy, or being replaced, is asked again later

    async def models(self, name: str | None = None) -> dict[str, Any]:
        """Return the models, or one, in the form of OpenAI's list.

        Raises:
            RequestError: 404, there is no such model.
        """
        await self.ready()
        listed = {
            card.name: {
                **{"id": card.name, "object": "model", "created": 0, "owned_by": "valign"},
                **{"fingerprint": card.fingerprint, "principles": list(card.principles)},
                **{"num_inference_steps": card.steps, "guidance_scale": card.guidance},
                **{"size": f"{card.size_px}x{card.size_px}", "max_pixels": self.limits.pixels},
            }
            for card in self._cards.values()
        }
        if name is None:
            return {"object": "list", "data": list(listed.values())}
        if name not in listed:
            raise RequestError(404, "there is no model of that name", code="model_not_found")
        return listed[name]

    async def principles(self) -> dict[str, Any]:
        """Return the principles and which models know them."""
        await self.ready()
        data = [
            {
                **{"id": key, "object": "principle", "text": one.text, "kind": one.kind},
                "models": [c.name for c in self._cards.values() if key in c.principles],
            }
            for key, one in self._principles.items()
        ]
        return {"object": "list", "data": data}

    async def scorers(self) -> dict[str, Any]:
        """Return every score and who votes."""
        await self.ready()
        data = [{"id": k, "object": "scorer", **about} for k, about in self._columns.items()]
        return {"object": "list", "data": data, "voters": [v.name for v in self._voters]}

    async def images(self, body: Any, audit: Audit) -> dict[str, Any]:
        """Draw the images that are asked for."""
        await self.ready()
        request = await asyncio.to_thread(wire.images_request, body, self.limits)
        if self._settings.log_prompts:
            audit.more = {"prompt": request.prompt}
        unknown = request.model is not None and request.model not in self._cards
        if unknown and time.monotonic() - self._looked > 1:
            await self._look()  # a new one may have come
        card = requests.model_of(request, self._cards)
        audit.model, audit.images = card.name, request.n
        found = None
        if requests.needs_retriever(request, card):
            found = await asked(self._retriever.find.remote(request.prompt))
        key, reason = requests.principle_of(request, card, found)
        audit.principle = key
        seed = secrets.randbits(32) if request.seed is None else request.seed
        singles = requests.expand(request, card, principle=key, reason=reason, seed=seed)
        data = await together([self._image(one, told, request) for one, told in singles])
        width, height = singles[0][0].size
        return {
            "created": int(time.time()),
            "data": data,
            "output_format": request.output_format,
            "size": f"{width}x{height}",
        }

    async def _image(
        self, single: ImageRequest, told: Told, request: ImagesRequest
    ) -> dict[str, Any]:
        """Return one image of an answer, drawn again where the output filter asks for it."""
        for attempt in range(1 + REDRAWS):
            index = told.index + attempt * _ANOTHER
            seed = single.seed if not attempt else noise_seed(told.seed, single.prompt, index)
            drawn = await self._drawn(replace(single, seed=seed), told, request)
            barred = await self._barred(drawn.data, single.prompt)
            if not barred:
                encoded = base64.b64encode(drawn.data).decode("ascii")
                known = {**asdict(told), "index": index, "model": single.model}
                known["fingerprint"] = drawn.fingerprint
                return {"b64_json": encoded, "valign": known}
            if any(self._settings.output_filter[key] == "strict" for key in barred):
                break
        raise RequestError(400, "the image was refused by the output filter", code="content_filter")

    async def _drawn(self, single: ImageRequest, told: Told, request: ImagesRequest) -> Drawn:
        images = Images.model_validate(
            {"format": request.output_format, "quality": request.quality}
        )
        known = {"Software": "valign", "seed": str(single.seed)}
        if told.applied:
            known["value_token"] = told.principle
        drawn: Drawn = await asked(self._generator.draw.remote(single, images, known))
        if drawn.fault == GONE:
            self._cards = {}
            raise RequestError(
                503, "the models were just replaced; try again", code="replaced", retry_after_s=1
            )
        if drawn.fault:
            raise RequestError(500, f"an image failed: {drawn.fault}", code="image_failed")
        return drawn

    async def _barred(self, data: bytes, prompt: str) -> list[str]:
        """Return the principles for which the output filter does not let an image through."""
        watched = [key for key, mode in self._settings.output_filter.items() if mode != "off"]
        if not watched:
            return []
        (scored,) = await self._scored([Picture(data=data, prompt=prompt)])
        # what cannot be read is not let through
        return [key for key in watched if scored.toxic.get(key, True)]

    async def score(self, body: Any, audit: Audit) -> dict[str, Any]:
        """Score pictures; a faulty one says so in its own place."""
        await self.ready()
        read = wire.score_form if _is_form(body) else wire.score_request
        pictures = await asyncio.to_thread(read, body, self.limits)
        del body  # the pictures are all that is kept while they wait
        audit.images = len(pictures)
        scored = await self._scored(pictures)
        return {
            "object": "list",
            "data": [{"index": place, **_told(one)} for place, one in enumerate(scored)],
        }

    async def compare(self, body: Any, audit: Audit) -> dict[str, Any]:
        """Hold the vote between pictures of one prompt."""
        await self.ready()
        read = wire.compare_form if _is_form(body) else wire.compare_request
        request: CompareRequest = await asyncio.to_thread(read, body, self.limits)
        del body  # the pictures are all that is kept while they wait
        audit.images = len(request.pictures)
        scored = await self._scored(request.pictures)
        if sum(not one.fault for one in scored) < 2:
            faults = "; ".join(
                f"images[{at}]: {one.fault}" for at, one in enumerate(scored) if one.fault
            )
            raise RequestError(422, f"fewer than two can be compared: {faults}", "images")
        compared = compare(scored, self._voters)
        return {
            "object": "comparison",
            "best": compared.best,
            "wins": list(compared.wins),
            "pairs": [asdict(pair) for pair in compared.pairs],
            "images": [_told(one) for one in compared.scored],
        }

    async def _scored(self, pictures: Sequence[Picture]) -> list[Scored]:
        """Return the pictures' scores, asked for a batch at a time: several processes may share."""
        size = self._settings.batch_size
        parts = [pictures[at : at + size] for at in range(0, len(pictures), size)]
        scored = await together([asked(self._evaluator.score.remote(part)) for part in parts])
        return [one for part in scored for one in part]


def _is_form(body: Any) -> bool:
    return isinstance(body, list) and bool(body) and isinstance(body[0], Part)


def _told(scored: Scored) -> Mapping[str, Any]:
    told = asdict(scored)
    fault = told.pop("fault")
    return {**told, "error": {"message": fault} if fault else None}


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what each coroutine gives; when one fails, the others are cancelled first."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def asked(response: Any) -> Any:
    """Return another deployment's answer; who stops waiting cancels what he asked.

    Args:
        response: a `DeploymentResponse`.

    Raises:
        RequestError: 503, its queue is full, or its process was lost.
    """
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except BackPressureError:
        raise RequestError(
            503, "the server is busy; try again", code="overloaded", retry_after_s=2
        ) from None
    except (
        ray.exceptions.ActorDiedError,
        ray.exceptions.ActorUnavailableError,
        ray.exceptions.WorkerCrashedError,
        DeploymentUnavailableError,
    ):
        raise RequestError(
            503, "a process of the server was lost; try again", code="lost", retry_after_s=5
        ) from None
