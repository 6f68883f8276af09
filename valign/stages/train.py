"""train: pairs -> a value encoder. Joins local arrays, the loop, checkpoints and the log.

Every worker resumes from the newest complete checkpoint under the root, so a restart by whoever
launched it, or by a later run, continues the same sequence of batches.
"""

import contextlib
import functools
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.config import Run
from valign.stages import principles
from valign.stages.generator import fingerprint_of, load_generator, sampler
from valign.stages.pair_arrays import local_pairs, value_pairs
from valign.stages.train_log import Log, read_metrics
from valign.stages.work import Work
from valign.storage import checkpoints, layout
from valign.storage.objects import Store, open_store

if TYPE_CHECKING:
    from valign.training.engine import Exported

UPSTREAM = ("label", "encode")
KINDS = ("value", "exp_avg", "exp_avg_sq")  # what a checkpoint keeps of every parameter


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    return {"the generator's weights": fingerprint_of(run)}


def details(counts: dict[str, Any]) -> list[str]:
    """Return further lines of the stage's summary."""
    return []


def perform(work: Work) -> dict[str, Any]:
    """Train to the last step and save the aligned model; return what was reached."""
    settings = work.run.train
    pairs = len(value_pairs(work.store)["pair_id"])
    epochs = settings.steps * settings.global_batch / pairs
    print(
        f"train: {pairs:,} pairs · {settings.steps:,} steps of {settings.global_batch} · "
        f"{epochs:.1f} epochs · {work.run.resources.train_workers} workers",
        flush=True,
    )
    with watched(work):
        work.runner.launch(worker, (work.run, work.root), work.run.resources.train_workers)
    state = checkpoints.latest(work.store, "train")
    if state is None or state.loop["step"] != settings.steps:
        raise RuntimeError("training ended before its last step; run it again to resume")
    return {"steps": state.loop["step"], "skipped": state.loop["skipped"], "pairs": pairs}


def worker(run: Run, root: str) -> None:
    """Train as one process of the group (or alone)."""
    import torch

    from valign.models.value_encoder import ValueEncoder
    from valign.training import batches, engine, loop, losses, policy

    store = open_store(root)
    settings = run.train
    generator = load_generator(run, "float32")
    value_encoder = ValueEncoder.from_generator(
        generator, principles.texts(run), principles.drop(run)
    )
    value_encoder.to(generator.device)
    autocast = torch.bfloat16 if settings.precision == "bfloat16" else None
    trained = engine.DdpEngine(
        policy.LivoPolicy(generator.unet, value_encoder, generator.schedule, autocast=autocast),
        engine.AdamW(
            lr=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
        ),
    )
    log = Log(store)
    state = loop.LoopState(seed=run.seed, global_batch=settings.global_batch)
    found = checkpoints.latest(store, "train")
    if found is not None:
        state = loop.LoopState(**found.loop)
        trained.restore(_exported(found.tensors), updates=state.updates)
        log.resume(state.step)

    def save(state: loop.LoopState, exported: Iterator[engine.Exported]) -> None:
        if trained.rank == 0:
            log.flush()  # before the checkpoint, so that a resumed run finds every row up to it
            checkpoints.save(
                store,
                "train",
                state.step,
                _tensors(exported),
                {name: getattr(state, name) for name in loop.LoopState.__slots__},
                keep_last=settings.keep_checkpoints,
            )

    with local_pairs(store) as folder:
        batch_at = batches.feed(
            batches.PairSource(folder),
            seed=run.seed,
            global_batch=settings.global_batch,
            timesteps=generator.schedule.n_timesteps,
            rank=trained.rank,
            world_size=trained.world_size,
            device=generator.device,
        )
        objective = functools.partial(
            losses.livo,
            beta=settings.beta,
            alpha=settings.alpha,
            gamma1=settings.gamma1,
            gamma2=settings.gamma2,
            normaliser=settings.global_batch,
        )
        loop.train(
            trained,
            batch_at,
            state,
            objective=objective,
            settings=loop.LoopSettings(
                steps=settings.steps, save_every=settings.save_every, log_every=settings.log_every
            ),
            save=save,
            log=log,
        )
    if trained.rank == 0:
        log.close()
        save_aligned(store, run, value_encoder, generator.fingerprint)


@contextlib.contextmanager
def watched(work: Work) -> Iterator[None]:
    """Tell of the training's progress, read from its log, while the workers train."""
    ended = threading.Event()
    total = work.run.train.steps

    def watch() -> None:
        while not ended.wait(Log.EVERY_S):
            if work.store.exists(layout.METRICS) and (rows := read_metrics(work.store)):
                work.tell("train", int(rows[-1]["step"]), total, "steps")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def save_aligned(store: Store, run: Run, value_encoder: Any, generator_fingerprint: str) -> None:
    """Save the value encoder as an aligned model: a folder that `models.aligned` loads."""
    from valign.models.aligned import save_aligned as save

    with tempfile.TemporaryDirectory(prefix="valign-aligned-") as scratch:
        save(
            Path(scratch),
            value_encoder,
            base=_anywhere(run.generator),
            base_variant=run.generator_variant,
            base_config=run.generator_config and _anywhere(run.generator_config),
            base_fingerprint=generator_fingerprint,
            card=card(run),
            sampler=sampler(run),
        )
        (Path(scratch) / principles.IN_FOLDER).write_text(principles.to_json(run), "utf-8")
        files = sorted(file for file in Path(scratch).rglob("*") if file.is_file())
        for file in files:
            store.write(f"{layout.ALIGNED}/{file.relative_to(scratch).as_posix()}", file)


def _anywhere(source: str) -> str:
    """Return a source that means the same in any working folder."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def card(run: Run) -> str:
    """Return the model card of the aligned model."""
    settings = "\n".join(f"- {key}: {value}" for key, value in run.settings("train").items())
    listed = "\n".join(f"- {key}: {text}" for key, text in principles.texts(run).items())
    return f"""# A value encoder for {run.generator}

Trained by valign with LiVO's margin preference loss. The base model is untouched: without an
applicable principle it draws its own images.

## Use

```python
from valign.models.aligned import AlignedPipeline
pipeline = AlignedPipeline.from_pretrained("path/of/this/folder")
images = pipeline(["A photo of a doctor"], principles=["gender"], seeds=[1])
```

## Principles

{listed}

Gender and race classes are the LiVO paper's, which are simplifications of how people are.

## Settings

{settings}
"""


def _tensors(exported: "Iterator[Exported]") -> dict[str, np.ndarray]:
    return {
        f"{kind}/{entry.name}": getattr(entry, kind).numpy() for entry in exported for kind in KINDS
    }


def _exported(tensors: "Mapping[str, np.ndarray]") -> "Iterator[Exported]":
    import torch

    from valign.training.engine import Exported

    for name in (key.removeprefix("value/") for key in tensors if key.startswith("value/")):
        yield Exported(name, *(torch.from_numpy(tensors[f"{kind}/{name}"]) for kind in KINDS))
