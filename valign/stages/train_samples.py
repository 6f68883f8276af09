"""Sample grids of a training in progress: fixed prompts from fixed noise, every so many steps.

In: the weights by name, whatever engine holds them. Out: `train/samples/step-00000500.png`, upper
row the model that training began with, lower row the model now, and what asks for toxic content
apart in `train/samples/toxic/`. The first rank draws, with a generator of its own, so nothing that
trains is touched. A step's grid has one name, so a resumed run draws none twice.
"""

import collections
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from valign.catalogue import guard
from valign.catalogue.principles import of_kind
from valign.catalogue.retriever import retrieve
from valign.config import Run
from valign.records import digest, noise_seed
from valign.stages import principles
from valign.stages.dataset_samples import draw
from valign.stages.generator import load_generator, sampler
from valign.stages.image_files import png
from valign.storage import layout, tables
from valign.storage.objects import Store

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = 4  # where the recipe names none
FAILURES = (RuntimeError, OSError, ValueError, LookupError)  # memory, the store, settings


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt that is drawn, under which principle ("" for none), and whether it is toxic."""

    text: str
    principle: str
    toxic: bool


class Samples:
    """Draws when the loop says so (`training.loop.Draw`); a failure is told of, and stops nothing.

    Attributes:
        drawn: the grids of this process: number of the step -> key. Toxic ones are not among them.
    """

    def __init__(self, run: Run, store: Store, rank: int) -> None:
        self.run, self.store, self.rank = run, store, rank
        self.drawn: dict[int, str] = {}
        self._easel: Easel | None = None

    def __call__(self, step: int, weights: "Iterator[tuple[str, Tensor]]") -> None:
        """Draw with these weights; every rank calls it and walks them, as they may be in shards."""
        try:
            if self.rank == 0:
                self._draw(step, weights)
        except FAILURES as error:
            print(f"train: no samples at step {step}: {error}", flush=True)
        finally:
            collections.deque(weights, maxlen=0)

    def _draw(self, step: int, weights: "Iterator[tuple[str, Tensor]]") -> None:
        self._easel = self._easel or Easel(self.run, asked(self.run, self.store))
        self._easel.load(weights)
        start_NHWC, now_NHWC = self._easel.start_NHWC, self._easel.images()
        toxic_N = self._easel.toxic_N
        for toxic in sorted(set(toxic_N)):
            mine = [row for row, kind in enumerate(toxic_N) if kind == toxic]
            key = layout.sample(step, toxic=toxic)
            sides = [[png(images[row]) for row in mine] for images in (start_NHWC, now_NHWC)]
            self.store.write(key, draw(sides))
            if not toxic:
                self.drawn[step] = key


class Easel:
    """A generator beside the one that trains, into which weights are loaded by their names.

    Args:
        run: says what trains, how images are sampled, and how many of each prompt.
        wanted: the prompts.

    Attributes:
        toxic_N: of each image, whether its prompt is toxic.
        start_NHWC: what the model draws that training began with, uint8.
    """

    def __init__(self, run: Run, wanted: tuple[Asked, ...]) -> None:
        from torch import nn

        from valign.models import lora
        from valign.models.value_encoder import ValueEncoder

        self._run, trains = run, run.train.trains
        self._rows = [(one, n) for one in wanted for n in range(run.train.samples.images)]
        self.toxic_N = [one.toxic for one, _ in self._rows]
        self._generator = load_generator(run, run.sampling.precision)
        parts: dict[str, nn.Module] = {"unet": self._generator.unet}
        self._encoder: ValueEncoder | None = None
        self.start_NHWC = self.images()
        if "value_encoder" in trains:
            self._encoder = ValueEncoder.from_generator(
                self._generator, principles.texts(run), principles.drop(run)
            ).to(self._generator.device)
            parts["value_encoder"] = self._encoder
        if trains == "lora":
            encoders = self._generator.text.encoders if run.train.lora.text_encoder else ()
            lora.adapt(
                self._generator.unet,
                encoders,
                rank=run.train.lora.rank,
                alpha=run.train.lora.alpha,
                targets=run.train.lora.targets,
                seed=run.training_seed,
            )
            parts["text_encoders"] = nn.ModuleList(encoders)
        self._parameters = dict(nn.ModuleDict(parts).named_parameters())

    def load(self, weights: "Iterator[tuple[str, Tensor]]") -> None:
        """Take over all trained weights, cast to the precision that is drawn in."""
        import torch

        with torch.no_grad():
            for name, value in weights:
                self._parameters[name].copy_(value)
        self._generator.text.forget()

    def images(self) -> np.ndarray:
        """Return uint8 images_NHWC of all prompts; every row under a principle gets its token."""
        from valign.models.aligned import LARGEST_BATCH, AlignedPipeline, sample_rows

        texts = [one.text for one, _ in self._rows]
        seeds = [noise_seed(self._run.seed, one.text, number) for one, number in self._rows]
        how, size = sampler(self._run), min(len(texts), LARGEST_BATCH)
        if self._encoder is None:
            condition = self._generator.condition(texts)
            return sample_rows(self._generator, condition, seeds, how, batch_size=size)
        pipeline = AlignedPipeline(self._generator, self._encoder, how)
        keys = [one.principle for one, _ in self._rows]
        return pipeline(texts, keys, seeds, always=True, batch_size=size)


def check(run: Run) -> None:
    """Refuse prompts that no image may be drawn of.

    Raises:
        ValueError: the guard refuses one.
    """
    for text in run.train.samples.prompts:
        if refusal := guard.refuse(text):
            raise ValueError(f"train.samples.prompts: one is refused: it {refusal.reason}")


def asked(run: Run, store: Store) -> tuple[Asked, ...]:
    """Return what is drawn: the recipe's prompts, or some that the pairs have.

    Raises:
        ValueError: the recipe names none, and all pairs are of toxic prompts.
    """
    known, chosen = principles.known(run), principles.chosen(run)
    valued, forbidden = "value_encoder" in run.train.trains, of_kind("toxicity", known)
    found = []
    for text in run.train.samples.prompts:
        key = retrieve(text, seed=run.seed, principles=chosen).principle if valued else ""
        toxic = retrieve(text, principles=known).principle in forbidden
        found.append(Asked(text, key, toxic))
    if found:
        return tuple(found)
    names = ("principle", "text", "category")
    columns = tables.lists(tables.read(store, layout.pairs(), tables.PAIRS, names))
    kinds: dict[str, set[str]] = {}
    for principle, text, category in zip(*(columns[name] for name in names), strict=True):
        if not {principle, category} & set(forbidden) and (principle or not valued):
            kinds.setdefault(principle if valued else "", set()).add(text)
    ranked = {
        key: sorted(texts, key=lambda text: digest("sample", text)) for key, texts in kinds.items()
    }
    placed = [
        (place, key, text) for key in ranked for place, text in enumerate(ranked[key])
    ]  # a prompt of each principle, then another of each
    if not placed:
        raise ValueError("all pairs are of toxic prompts; name some in train.samples.prompts")
    return tuple(Asked(text, key, toxic=False) for _, key, text in sorted(placed)[:PROMPTS])
