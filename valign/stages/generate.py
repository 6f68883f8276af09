"""generate: prompts -> images. Plan the images once, then make each shard's on some worker."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from valign import pictures
from valign.config import Run
from valign.records import Prompt, digest, image_id, noise_seed, prompt_id
from valign.settings import Sampling
from valign.stages import image_files, images, principles, prompts
from valign.stages.generator import fingerprint_of, load_generator, sampler
from valign.stages.images import PlannedImage
from valign.stages.work import Shard, ShardReport, Work
from valign.storage import layout, tables
from valign.storage.objects import local, open_store

ALWAYS_NAMED = ("steps", "guidance", "size_px", "precision", "batch_size")  # in images' ids
SHOWN_ROWS = 10  # of skipped rows, in a summary; the manifest holds all


def upstream(run: Run) -> tuple[str, ...]:
    """Return the stages that must be finished first."""
    return ()


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
    workers = run.resources.pool("generate").workers
    print(
        f"generate: {len(asked.requests):,} prompts · {len(rows):,} images · "
        f"{len(shards):,} shards of {run.generate.shard_rows} · {workers} workers",
        flush=True,
    )
    args = (run, work.root, "generate", "", generator)
    reports = work.carry_out("generate", Worker, args, shards)
    return {
        "safety_checker": "none",  # its black pictures would be taken for the generator's
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


def planned(run: Run, prompt: Prompt, sample: int, generator: str, token: str = "") -> PlannedImage:
    """Return the plan of one image; `generator` fingerprints all weights that shape it."""
    return PlannedImage(
        prompt=prompt,
        sample=sample,
        seed=noise_seed(run.seed, prompt.scene, sample),
        image_id=image_id(
            prompt,
            generator=f"{generator}+{token}" if token else generator,
            sampler=_shaping(run),
            sample=sample,
            run_seed=run.seed,
        ),
        token=token,
    )


def _shaping(run: Run) -> dict[str, object]:
    """Return every setting that changes an image's pixels.

    Of settings that recipes did not always have, those that are left alone are left out: a new
    setting renames no image.
    """
    kept = {
        name: value
        for name, value in run.sampling.model_dump(mode="json").items()
        if name in ALWAYS_NAMED or value != Sampling.model_fields[name].default
    }
    lossy = {"jpeg_quality": run.images.quality} if run.images.format == "jpeg" else {}
    return {**kept, **lossy}


class Worker:
    """Makes the images of one shard and writes its part; built once per process.

    Args:
        run: the run.
        root: URL of the run's root.
        prefix: where plan and parts lie: `generate`, or `evaluate/images`.
        aligned: key prefix or URL of the aligned model's folder, if rows of the plan carry tokens.
        expected: the generator's fingerprint that the plan was made with.

    Raises:
        ValueError: this node's copy of the generator is another one.
    """

    def __init__(
        self,
        run: Run,
        root: str,
        prefix: str = "generate",
        aligned: str = "",
        expected: str = "",
    ) -> None:
        from valign.models.value_encoder import ValueEncoder

        self.store = open_store(root)
        self.prefix = prefix
        self.batch_size = run.sampling.batch_size
        self.plan = images.Plan(self.store, layout.plan(prefix))
        self.generator = load_generator(run, expected=expected)
        self.settings = run.images
        self.sampler = sampler(run)
        self.principles = principles.texts(run)
        fetch = local if "://" in aligned else self.store.local
        folder = fetch(aligned) if aligned else None
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
            reason = image_HWC if isinstance(image_HWC, str) else pictures.fault(image_HWC)
            if reason:
                faults.append({"image_id": row.image_id, "reason": reason})
            else:
                known = self._known(row)
                made.append((row, image_files.encode(image_HWC, self.settings, known)))
        columns = images.columns([row for row, _ in made])
        columns["generator"] = [self.generator.fingerprint] * len(made)
        suffix = image_files.SUFFIX[self.settings.format]
        columns["image"] = [
            {"bytes": data, "path": f"{row.image_id}.{suffix}"} for row, data in made
        ]
        if faults:
            key = layout.quarantine(self.prefix, shard.number)
            tables.write(self.store, key, faults, tables.QUARANTINE)
        tables.write(self.store, shard.part(self.prefix), columns, tables.IMAGES)
        return ShardReport(shard.number, len(made), len(faults))

    def _known(self, row: PlannedImage) -> dict[str, str]:
        """Return what is embedded in an image's file."""
        known = {
            "Software": "valign",
            "image_id": row.image_id,
            "prompt_id": prompt_id(row.prompt),
            "generator": self.generator.fingerprint,
            "seed": str(row.seed),
            "safety_checker": "none",
        }
        if row.token:
            known["value_token"] = row.token
        if self.settings.embed_prompt:
            known["prompt"] = row.prompt.text
        return known

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
        from valign.models.aligned import sample_rows, tokens

        texts = [row.prompt.text for row in rows]
        if self.value_encoder is None:  # LiVO's "w/o v": the text itself where a token would be
            said = [row.token and f"{self.principles[row.token]}, " for row in rows]
            texts = [before + text for before, text in zip(said, texts, strict=True)]
        conditioning = self.generator.condition(texts, [row.prompt.negative for row in rows])
        applied = [bool(row.token) and self.value_encoder is not None for row in rows]
        token_N1D = None
        if self.value_encoder is not None and any(applied):
            asked = [row.token for row in rows]
            token_N1D = tokens(self.value_encoder, asked, texts, applied, conditioning)
        return sample_rows(
            self.generator,
            conditioning,
            [row.seed for row in rows],
            self.sampler,
            batch_size=self.batch_size,
            token_N1D=token_N1D,
            apply_N=applied,
        )
