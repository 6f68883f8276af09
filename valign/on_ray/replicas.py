"""The processes behind the server: retriever, generator and evaluator, each loaded once.

Every image to draw is one call and one item of a queue, so that a large request lets others in
between; pictures to score come several in a call, for a call costs more than scoring a small one.
What waits is done in batches, on one thread beside the event loop, which keeps taking items
meanwhile. Serve's own batches are not used: they are formed at fixed intervals whether or not
anybody is free to do them, so they stay small however many wait.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from valign.config import Run
from valign.on_ray.metrics import BatchSizes
from valign.preferences.votes import Voter
from valign.serving.aligned import ImageAnswer, ImageRequest, ModelCard
from valign.serving.batches import Batches
from valign.serving.evaluator import Scored
from valign.serving.wire import Picture
from valign.settings import Images
from valign.stages import image_files
from valign.stages import serve as stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """An image's file, or why there is none."""

    data: bytes
    fault: str
    fingerprint: str


def filed(answer: ImageAnswer, images: Images, known: Mapping[str, str]) -> Drawn:
    """Return an image as a file that says where it is from."""
    if answer.image_HWC is None:
        return Drawn(data=b"", fault=answer.fault, fingerprint=answer.fingerprint)
    stated = {**known, "generator": answer.fingerprint}
    data = image_files.encode(answer.image_HWC, images, stated)
    return Drawn(data=data, fault="", fingerprint=answer.fingerprint)


class RetrieverReplica:
    """Finds the principle that a prompt calls for."""

    def __init__(self, run: Run) -> None:
        self._find = stage.retriever(run)
        self._find("a photo")  # its tables are read before the first request

    async def find(self, prompt: str) -> tuple[str, str]:
        """Return the principle's key ("" for none) and why."""
        found = await asyncio.to_thread(self._find, prompt)
        return found.principle, found.reason


class GeneratorReplica:
    """Draws images by all models."""

    def __init__(self, run: Run) -> None:
        self._models = stage.load_models(run)
        stage.warm_up(self._models)
        self._batches: Batches[ImageRequest, ImageAnswer] = Batches(
            self._models.answer, kind=self._models.kind, told=BatchSizes("generator").add
        )

    def reconfigure(self, settings: Mapping[str, Any]) -> None:
        """Take the size of batches and how long they wait."""
        self._batches.size, self._batches.wait_s = settings["batch_size"], settings["wait_s"]

    async def cards(self) -> dict[str, ModelCard]:
        """Return what is served, by name."""
        return self._models.cards

    async def draw(self, request: ImageRequest, images: Images, known: dict[str, str]) -> Drawn:
        """Return one image as a file that says where it is from.

        Args:
            request: what to draw.
            images: the file's format and quality.
            known: what is embedded, besides the model's fingerprint.
        """
        answer = await self._batches.do(request)
        return await asyncio.to_thread(filed, answer, images, known)


class EvaluatorReplica:
    """Scores pictures by all scorers."""

    def __init__(self, run: Run) -> None:
        self._evaluator = stage.load_evaluator(run)
        stage.warm_up_scorers(self._evaluator)
        self._batches: Batches[Picture, Scored] = Batches(
            self._evaluator.score, told=BatchSizes("evaluator").add
        )

    def reconfigure(self, settings: Mapping[str, Any]) -> None:
        """Take the size of batches and how long they wait."""
        self._batches.size, self._batches.wait_s = settings["batch_size"], settings["wait_s"]

    async def about(self) -> tuple[dict[str, dict[str, Any]], tuple[Voter, ...]]:
        """Return what every score means, and who votes."""
        columns = {name: asdict(info) for name, info in self._evaluator.columns.items()}
        return columns, self._evaluator.voters

    async def score(self, pictures: Sequence[Picture]) -> list[Scored]:
        """Return the pictures' scores."""
        return await asyncio.gather(*(self._batches.do(picture) for picture in pictures))
