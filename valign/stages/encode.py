"""encode: images of pairs -> VAE latents, training prompts -> text embeddings; each exactly once.

Image shards keep generate's numbers; shards of texts follow them. Training then reads small arrays
and never runs the VAE or the frozen text encoder.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from valign.config import Run
from valign.stages import images, principles
from valign.stages.generator import fingerprint_of, load_generator
from valign.stages.image_files import pixels
from valign.stages.work import Shard, ShardReport, Work, cut
from valign.storage import layout, tables
from valign.storage.objects import Store, open_store

TEXTS = "encode/texts"
TEXTS_PER_SHARD = 500
IMAGES_PER_BATCH = 50


def upstream(run: Run) -> tuple[str, ...]:
    """Return the stages that must be finished first."""
    return ("generate", "label")


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    return {"the generator's weights": fingerprint_of(run)}


def details(counts: dict[str, Any]) -> list[str]:
    """Return further lines of the stage's summary."""
    return []


def perform(work: Work) -> dict[str, Any]:
    """Encode all that the pairs need; return what was counted."""
    texts = len(distinct_texts(read_pairs(work.store)))
    image_shards = images.shards(work.store, "generate", work.run.generate.shard_rows)
    text_shards = cut(
        texts, TEXTS_PER_SHARD, first_row=image_shards[-1].stop, first_number=len(image_shards)
    )
    args = (work.run, work.root, fingerprint_of(work.run))
    reports = work.carry_out(
        "encode", Worker, args, [*image_shards, *text_shards], "images and texts"
    )
    encoded = sum(report.rows for report in reports[: len(image_shards)])
    return {"images": encoded, "texts": texts}


def read_pairs(store: Store) -> dict[str, list[str]]:
    """Return what encode needs to know of the pairs."""
    wanted = ("principle", "text", "winner", "loser")
    return tables.lists(tables.read(store, layout.pairs(), tables.PAIRS, wanted))


def distinct_texts(pairs: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return the distinct (principle, training prompt) of pairs, sorted."""
    return sorted(set(zip(pairs["principle"], pairs["text"], strict=True)))


class Worker:
    """Encodes one shard of images or of texts; built once per process."""

    def __init__(self, run: Run, root: str, expected: str) -> None:
        from valign.models.value_encoder import ValueEncoder

        self.store = open_store(root)
        self.images = tables.rows(self.store, layout.plan("generate"))
        pairs = read_pairs(self.store)
        self.used = {*pairs["winner"], *pairs["loser"]}
        self.texts = distinct_texts(pairs)
        self.generator = load_generator(run, "float32", expected=expected)
        self.size_px = run.sampling.size_px or self.generator.size_px
        self.value_encoder = (
            ValueEncoder.from_generator(self.generator, principles.texts(run), principles.drop(run))
            if any(key for key, _ in self.texts)
            else None  # pairs of quality alone
        )

    def __call__(self, shard: Shard) -> ShardReport:
        """Encode the shard's images that are in a pair, or its texts."""
        if shard.start < self.images:
            return self._images(shard)
        return self._texts(shard)

    def _images(self, shard: Shard) -> ShardReport:
        part = tables.read(self.store, shard.part("generate"), tables.IMAGES)
        rows = [row for row in part.to_pylist() if row["image_id"] in self.used]
        latents: list[np.ndarray] = []
        for start in range(0, len(rows), IMAGES_PER_BATCH):
            batch = rows[start : start + IMAGES_PER_BATCH]
            images_BHWC = np.stack(
                [images.fitted(pixels(row["image"]["bytes"]), self.size_px) for row in batch]
            )
            latents.extend(self.generator.encode(images_BHWC).cpu().numpy().astype(np.float16))
        columns = {
            "image_id": [row["image_id"] for row in rows],
            "latents": [latent.tobytes() for latent in latents],
            "shape": [list(latent.shape) for latent in latents],
        }
        tables.write(self.store, shard.part("encode"), columns, tables.LATENTS)
        return ShardReport(shard.number, len(rows))

    def _texts(self, shard: Shard) -> ShardReport:
        chosen = self.texts[shard.start - self.images : shard.stop - self.images]
        keys = [key for key, _ in chosen]
        prompts = [text for _, text in chosen]
        conditioning = self.generator.condition(prompts)
        contexts_BLD = conditioning.context_BLD.cpu().numpy()
        pooled_BP = conditioning.pooled_BP
        columns = {
            "principle": keys,
            "text": prompts,
            "context": [context.astype(np.float16).tobytes() for context in contexts_BLD],
            "shape": [list(context.shape) for context in contexts_BLD],
            "value_ids": [
                self.value_encoder.token_ids([key], [prompt])[0].tolist()
                if self.value_encoder is not None and key
                else []
                for key, prompt in chosen
            ],
        }
        if pooled_BP is not None:
            columns["pooled"] = [
                pooled.astype(np.float16).tobytes() for pooled in pooled_BP.cpu().numpy()
            ]
        tables.write(self.store, layout.part(TEXTS, shard.number), columns, tables.TEXTS)
        return ShardReport(shard.number, len(chosen))


def float16(data: Sequence[bytes], shapes: Sequence[Sequence[int]]) -> np.ndarray:
    """Return encoded float16 arrays of equal shape, stacked."""
    arrays = [
        np.frombuffer(entry, np.float16).reshape(shape)
        for entry, shape in zip(data, shapes, strict=True)
    ]
    return np.stack(arrays)
