"""train: pairs -> weights. Joins local arrays, policy, engine, the loop, checkpoints and the log.

Every worker resumes from the newest complete checkpoint under the root, so a restart by whoever
launched it, or by a later run, continues the same sequence of batches.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from valign.config import Run
from valign.records import digest, prompt_id
from valign.stages import (
    calibrate,
    estimate,
    journal,
    principles,
    prompts,
    score,
    train_output,
    train_samples,
)
from valign.stages.generator import fetched, fingerprint_of, load_generator
from valign.stages.pair_arrays import held_out, local_pairs, pairs_for
from valign.stages.train_log import Log, watched
from valign.stages.train_save import Saver, exported
from valign.stages.work import Work
from valign.storage import checkpoints
from valign.storage.objects import Store, open_store
from valign.train_settings import CALIBRATED

if TYPE_CHECKING:
    from valign.models.generator import Generator
    from valign.training.any_engine import Engine, Exported
    from valign.training.batch import Step
    from valign.training.batches import PairSource
    from valign.training.loop import Look, LoopSettings, Objective
    from valign.training.speed import Speed


def upstream(run: Run) -> tuple[str, ...]:
    """Return the stages that must be finished first."""
    return ("label", "encode")


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    found = {"the generator's weights": fingerprint_of(run)}
    if run.train.value_drop == CALIBRATED:
        asked = {p for held_back in prompts.calibration(run).values() for p in held_back}
        found["the calibration prompts"] = digest(sorted(prompt_id(prompt) for prompt in asked))
        found |= score.inputs(run)
    return found


def details(counts: dict[str, Any]) -> list[str]:
    """Return the calibrated shares, if there are any."""
    return calibrate.details(counts.get("value_drop", {}))


def perform(work: Work) -> dict[str, Any]:
    """Train to the last step and save what was trained; return what was reached."""
    settings = work.run.train
    if settings.value_drop == CALIBRATED:
        calibrate.untrained(work.run, work.store)  # raises now, and not after hours
    pairs = len(pairs_for(work.store, settings)["pair_id"])
    epochs = settings.steps * settings.global_batch / pairs
    print(
        f"train: {pairs:,} pairs · {settings.steps:,} steps of {settings.global_batch} · "
        f"{epochs:.1f} epochs · {settings.objective} trains {settings.trains} · "
        f"{work.run.resources.train_workers} workers under {work.run.resources.engine.name}",
        flush=True,
    )
    with watched(work):
        work.runner.launch(worker, (work.run, work.root), work.run.resources.train_workers)
    state = checkpoints.latest(work.store, "train")
    if state is None or not (state.loop["step"] == settings.steps or state.loop.get("stopped")):
        raise RuntimeError("training ended before its last step; run it again to resume")
    reached = {"steps": state.loop["step"], "skipped": state.loop["skipped"], "pairs": pairs}
    if settings.held_out:
        reached["best_step"] = state.loop["best_step"]
    if settings.value_drop == CALIBRATED:
        reached["value_drop"] = calibrate.perform(work)
    return reached


def check(run: Run) -> None:
    """Refuse, before anything runs, what would fail when it is too late.

    Raises:
        ValueError: with its UNet the generator could not be saved, as it is a single file or a
            variant; or a prompt to draw samples of is refused.
    """
    from valign.models import trained_pipeline

    train_samples.check(run)
    if "unet" in run.train.trains:
        trained_pipeline.check_base(fetched(run))


def worker(run: Run, root: str) -> None:
    """Train as one process of the group (or alone); the first one writes what was trained."""
    store = open_store(root)
    if _train(run, store) == 0:
        made = checkpoints.latest(store, "train")
        assert made is not None
        if best := made.loop.get("best_step"):
            made = checkpoints.load(store, "train", best)
        train_output.save(store, run, made)


def _train(run: Run, store: Store) -> int:
    """Train from the newest checkpoint, if there is one, to the last step; return the rank."""
    from valign.training import batches, loop

    settings, generator = run.train, load_generator(run, "float32")
    with local_pairs(store, settings, generator) as folder:
        source = batches.PairSource(folder)
        trained = build_engine(run, generator)
        log = Log(store, _speed(run, trained) if trained.rank == 0 else None)
        journal.note("begun", root=store.url, stage="train", rank=trained.rank)
        # Before anything is restored: it begins with the base model's errors.
        look, source = _held_out(run, store, trained, source, generator)
        state = loop.LoopState(seed=run.training_seed, global_batch=settings.global_batch)
        if step := _agreed(trained, store):
            found = checkpoints.load(store, "train", step)
            state = loop.LoopState(**found.loop)
            trained.restore(
                exported(found.tensors), updates=state.updates, refreshed=state.refreshed
            )
            log.resume(state.step)
        saver = Saver(store, settings.keep_checkpoints)
        samples = train_samples.Samples(run, store, trained.rank)

        def save(state: loop.LoopState, weights: "Iterator[Exported]") -> None:
            if trained.rank == 0:
                log.flush()  # before the checkpoint: a resumed run finds every row up to it
                saver.save(state.step, weights, asdict(state))
            else:
                collections.deque(weights, maxlen=0)  # all ranks walk it: they may hold shards

        def skipped(step: int) -> None:
            if trained.rank == 0:
                print(f"train: {_left_out(source.pair_ids, run, step)}", flush=True)

        batch_at = _feed(run, trained, source, generator, settings.prompt_dropout)
        state = loop.train(
            trained,
            batches.ahead(batch_at, settings.steps),
            state,
            objective=_objective(run, source),
            settings=_loop_settings(run),
            save=save,
            log=log,
            skipped=skipped,
            look=look,
            draw=samples,
        )
        saver.wait()
    if trained.rank == 0:
        log.close(samples.drawn)
        if state.stopped:
            print(
                f"train: ended at step {state.step}: the loss on held-out pairs was lowest at step "
                f"{state.best_step} ({state.best_loss:.4g}), {state.waited} checkpoints ago",
                flush=True,
            )
    return trained.rank


def _speed(run: Run, trained: "Engine") -> "Speed":
    from valign.training.speed import Speed

    return Speed(
        estimate.tflop_per_pair(run),
        trained.device,
        workers=trained.world_size,
        bfloat16=run.train.precision == "bfloat16",
    )


def _agreed(trained: "Engine", store: Store) -> int:
    """Return the step to resume from, 0 for none, as rank 0 sees it: all ranks go by the same."""
    import torch

    seen = checkpoints.newest(store, "train") if trained.rank == 0 else 0
    return int(trained.sum(torch.tensor(float(seen), dtype=torch.float64, device=trained.device)))


def _held_out(
    run: Run, store: Store, trained: "Engine", source: "PairSource", generator: "Generator"
) -> "tuple[Look | None, PairSource]":
    """Return what measures the held-out pairs, if there are any, and the others to train on."""
    if not run.train.held_out:
        return None, source
    from valign.training.held_out import HeldOut

    chosen = held_out(store, run.train, run.training_seed)
    others = source.part(chosen)
    batch_at = _feed(run, trained, others, generator)
    steps = run.train.held_out_batches(len(others))
    parts = run.resources.engine.micro_steps
    look = HeldOut(trained, batch_at, steps, _objective(run, source), parts)
    return look, source.part(~chosen)


def _feed(
    run: Run,
    trained: "Engine",
    source: "PairSource",
    generator: "Generator",
    prompt_dropout: float = 0.0,
) -> "Callable[[int], Step]":
    from valign.training import batches

    return batches.feed(
        source,
        seed=run.training_seed,
        global_batch=run.train.global_batch,
        timesteps=generator.schedule.n_timesteps,
        rank=trained.rank,
        world_size=trained.world_size,
        device=generator.device,
        prompt_dropout=prompt_dropout,
    )


def _objective(run: Run, source: "PairSource") -> "Objective":
    from valign.training import objectives

    return objectives.build(
        run.train.objective,
        normaliser=run.train.global_batch,
        seed=run.training_seed,
        voters=source.voters,
        **run.train.hyperparameters(),
    )


def _loop_settings(run: Run) -> "LoopSettings":
    from valign.training.loop import LoopSettings

    settings = run.train
    return LoopSettings(
        steps=settings.steps,
        save_every=settings.save_every,
        log_every=settings.log_every,
        max_skips_in_a_row=settings.max_skips_in_a_row,
        micro_steps=run.resources.engine.micro_steps,
        refresh_every=settings.refresh,
        draw_every=settings.samples.every,
        patience=settings.patience or 0,
    )


def build_engine(run: Run, generator: "Generator") -> "Engine":
    """Return the engine that trains what the run names, at its first step."""
    from valign.models.value_encoder import ValueEncoder
    from valign.training import engine, policies
    from valign.training.optimizer import AdamW

    settings, shared = run.train, run.resources.engine
    value_encoder = None
    if "value_encoder" in settings.trains:
        value_encoder = ValueEncoder.from_generator(
            generator, principles.texts(run), principles.drop(run)
        )
        value_encoder.to(generator.device)
    policy = policies.build(
        settings,
        generator.unet,
        generator.schedule,
        value_encoder=value_encoder,
        text_encoders=generator.text.encoders,
        seed=run.training_seed,
        size_px=run.sampling.size_px or generator.size_px,
        gradient_checkpointing=shared.gradient_checkpointing,
    )
    optimizer = AdamW(
        lr=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        total_steps=settings.steps,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )
    return engine.build(
        shared.name,
        policy,
        optimizer,
        ema_decay=settings.ema_decay,
        offload=shared.offload,
        deepspeed_config=dict(shared.deepspeed),
    )


def _left_out(pair_ids: Sequence[str], run: Run, step: int) -> str:
    from valign.training.order import batch_rows

    size = run.train.global_batch
    rows = batch_rows(len(pair_ids), seed=run.training_seed, step=step, global_batch=size)
    return f"step {step} left out, its loss or gradient is not finite; pairs " + ", ".join(
        pair_ids[row] for row in rows
    )
