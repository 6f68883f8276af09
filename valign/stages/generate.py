"""generate: prompts -> images. Plan the images once, then make each shard's on some worker."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from valign.config import Run
from valign.records import Prompt, digest, image_id, noise_seed, prompt_id
from valign.stages import images, prompts
from valign.stages.device import prepare
from valign.stages.images import PlannedImage
from valign.stages.work import Shard, ShardReport, Work
from valign.storage import layout, tables
from valign.storage.objects import open_store, resolve

if TYPE_CHECKING:
    from valign.models.generator import Generator, Sampler

UPSTREAM: tuple[str, ...] = ()
SHOWN_ROWS = 10  # of skipped rows, in a summary; the manifest holds all


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    asked = [
        (prompt_id(request.prompt), request.images) for request in prompts.training(run).requests
    ]
    return {"the generator's weights": fingerprint_of(run), "the prompts": digest(asked)}


def perform(work: Work) -> dict[str, Any]:
    """Make every image of the run's prompts; return what was counted."""
    run, store = work.run, work.store
    asked = prompts.training(run)
    generator = fingerprint_of(run)
    rows = [
        planned(run, request.prompt, sample, generator)
        for request in asked.requests
        for sample in range(request.images)
    ]
    tables.write(store, layout.plan("generate"), images.columns(images.ordered(rows)), tables.PLAN)
    shards = images.shards(store, "generate", run.generate.shard_rows)
    print(
        f"generate: {len(asked.requests):,} prompts · {len(rows):,} images · "
        f"{len(shards):,} shards of {run.generate.shard_rows} · {run.resources.workers} workers",
        flush=True,
    )
    reports = work.carry_out("generate", Worker, (run, work.root), shards)
    return {
        "prompts": len(asked.requests),
        "images": sum(report.rows for report in reports),
        "quarantined": sum(report.quarantined for report in reports),
        "shards": len(shards),
        "refused": asked.refused,
        "skipped": len(asked.skipped),
        "skipped_rows": list(asked.skipped),
    }


def details(counts: dict[str, Any]) -> list[str]:
    """Return lines that say what was left out and why."""
    rows = counts["skipped_rows"]
    more = [f"  and {len(rows) - SHOWN_ROWS:,} more"] if len(rows) > SHOWN_ROWS else []
    return [f"  skipped {row}" for row in rows[:SHOWN_ROWS]] + more


def fingerprint_of(run: Run) -> str:
    """Return the fingerprint of the run's generator weights."""
    from valign.models.pipeline_files import fingerprint, local_files

    return fingerprint(local_files(resolve(run.generator)))


def load_generator(run: Run, precision: str | None = None) -> "Generator":
    """Load the run's generator onto this process's device.

    Args:
        run: the run.
        precision: of its weights; default: the one images are sampled with.
    """
    from valign.models.generator import GeneratorOptions, load_generator

    options = GeneratorOptions(device=prepare(), dtype=precision or run.sampling.precision)
    return load_generator(resolve(run.generator), options)


def sampler(run: Run) -> "Sampler":
    """Return how the run's images are sampled."""
    from valign.models.generator import Sampler

    size = run.sampling.size_px
    return Sampler(
        steps=run.sampling.steps, guidance=run.sampling.guidance, height=size, width=size
    )


def planned(run: Run, prompt: Prompt, sample: int, generator: str, token: str = "") -> PlannedImage:
    """Return the plan of one image; `generator` fingerprints all weights that shape it."""
    return PlannedImage(
        prompt=prompt,
        sample=sample,
        seed=noise_seed(run.seed, prompt.scene, sample),
        image_id=image_id(
            prompt,
            generator=f"{generator}+{token}" if token else generator,
            sampler=run.sampling.model_dump(mode="json"),
            sample=sample,
            run_seed=run.seed,
        ),
        token=token,
    )


class Worker:
    """Makes the images of one shard and writes its part; built once per process.

    Args:
        run: the run.
        root: URL of the run's root.
        prefix: where plan and parts lie: `generate`, or `evaluate`.
        aligned: key prefix of the aligned model's folder, if rows of the plan carry tokens.
    """

    def __init__(self, run: Run, root: str, prefix: str = "generate", aligned: str = "") -> None:
        from valign.models.value_encoder import ValueEncoder

        self.store = open_store(root)
        self.prefix = prefix
        self.batch_size = run.sampling.batch_size
        self.plan = images.Plan(self.store, layout.plan(prefix))
        self.generator = load_generator(run)
        self.sampler = sampler(run)
        folder = self.store.local(aligned) if aligned else None
        self.value_encoder = (
            ValueEncoder.load(folder / "value_encoder").to(self.generator.device)
            if folder
            else None
        )

    def __call__(self, shard: Shard) -> ShardReport:
        """Make, check, encode and write the shard's images, quarantining those that fail."""
        rows = self.plan.rows(shard.start, shard.stop)
        made: list[tuple[PlannedImage, bytes]] = []
        faults: list[dict[str, object]] = []
        for row, image_HWC in zip(rows, self._tolerant(rows), strict=True):
            reason = image_HWC if isinstance(image_HWC, str) else images.fault(image_HWC)
            if reason:
                faults.append({"image_id": row.image_id, "reason": reason})
            else:
                made.append((row, png(image_HWC)))
        columns = images.columns([row for row, _ in made])
        columns["generator"] = [self.generator.fingerprint] * len(made)
        columns["image"] = [{"bytes": data, "path": f"{row.image_id}.png"} for row, data in made]
        if faults:
            key = layout.quarantine(self.prefix, shard.number)
            tables.write(self.store, key, faults, tables.QUARANTINE)
        tables.write(self.store, shard.part(self.prefix), columns, tables.IMAGES)
        return ShardReport(shard.number, len(made), len(faults))

    def _tolerant(self, rows: Sequence[PlannedImage]) -> list[Any]:
        """Return an image per row, or in its place why there is none.

        What the guard refuses is never drawn. If drawing fails, rows are drawn one by one, so that
        a bad one does not take its shard along; if all fail, the fault is not a row's.
        """
        refusals = prompts.refusals({row.prompt.text for row in rows})
        found: list[Any] = [refusals.get(row.prompt.text, "") for row in rows]
        allowed = [index for index, reason in enumerate(found) if not reason]
        try:
            drawn: list[Any] = (
                list(self._sample([rows[index] for index in allowed])) if allowed else []
            )
        except (ValueError, RuntimeError) as error:
            if len(allowed) == 1:
                raise
            drawn = [self._alone(rows[index]) for index in allowed]
            if all(isinstance(entry, str) for entry in drawn):
                raise RuntimeError(f"no image of this shard could be drawn: {error}") from error
        for index, entry in zip(allowed, drawn, strict=True):
            found[index] = entry
        return found

    def _alone(self, row: PlannedImage) -> "np.ndarray | str":
        try:
            return self._sample([row])[0]
        except (ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"

    def _sample(self, rows: Sequence[PlannedImage]) -> np.ndarray:
        """Return uint8 images (N, H, W, 3), made in batches of the sampling's fixed size."""
        from valign.models.aligned import sample_rows

        texts = [row.prompt.text for row in rows]
        conditioning = self.generator.condition(texts, [row.prompt.negative for row in rows])
        applied = [bool(row.token) for row in rows]
        token_N1D = None
        if any(applied):
            assert self.value_encoder is not None, "rows with tokens need an aligned model"
            token_N1D = conditioning.context_BLD.new_zeros(
                len(rows), 1, conditioning.context_BLD.shape[-1]
            )
            chosen = [index for index, needs in enumerate(applied) if needs]
            token_N1D[chosen] = self.value_encoder.token(
                [rows[index].token for index in chosen], [texts[index] for index in chosen]
            ).to(token_N1D)
        return sample_rows(
            self.generator,
            conditioning,
            [row.seed for row in rows],
            self.sampler,
            batch_size=self.batch_size,
            token_N1D=token_N1D,
            apply_N=applied,
        )


def png(image_HWC: np.ndarray) -> bytes:
    """Return an image (uint8, 0..255) as PNG bytes; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """Return encoded image bytes as uint8 RGB (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
