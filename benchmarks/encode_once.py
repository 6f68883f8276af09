#!/usr/bin/env python
"""Training steps on latents and text embeddings made once, against making them in every step.

    python benchmarks/encode_once.py
    python benchmarks/encode_once.py --steps 5 --rounds 2     # only to see that it runs

LiVO steps of the miniature, one thread, batch of the recipe, the same pairs either way. Made once:
the arrays that the encode stage wrote, memory-mapped. Made in every step: a batch's images are
decoded from PNG and run through the VAE, its prompts through the text encoder, without gradients.
That both give the same loss is checked. Others report about 1.4 times for Stable Diffusion 2 on
GPUs (MosaicML).
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from shared.host import print_result

from valign import config
from valign.config import Run
from valign.stages import principles
from valign.stages.execute import execute
from valign.stages.generator import load_generator
from valign.stages.image_files import pixels
from valign.stages.inline import Inline
from valign.stages.pair_arrays import local_pairs
from valign.stages.work import part_keys
from valign.storage import layout, tables
from valign.storage.objects import Store, open_store
from valign.training import batches, objectives, order, policy
from valign.training.batch import Batch, Step
from valign.training.batches import PairSource
from valign.training.ddp import DdpEngine
from valign.training.optimizer import AdamW

BatchAt = Callable[[int], Step]
GOAL = "> 1"
SMALL = ("generate.bias_prompts=10", "generate.toxic_prompts=6", "sampling.steps=4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="of training, per round and way")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="valign-encode-once-") as root:
        settings = [f"root={root}", "label.verify_toxic=none", *SMALL]
        run, store = config.load("miniature", settings), open_store(root)
        execute(("generate", "score", "label", "encode"), run, Inline())
        with local_pairs(store, run.train, load_generator(run, "float32")) as folder:
            print(
                f"LiVO steps of {run.train.global_batch} pairs, {arguments.rounds} rounds of "
                f"{arguments.steps} steps each way in turn; ratio of seconds per round"
            )
            ratios, shares = measure(run, store, folder, arguments.steps, arguments.rounds)
    print(
        f"encoding takes {statistics.median(shares):.0%} of a step that encodes; steps on what was "
        f"encoded once are {statistics.median(ratios):.2f} times as fast"
    )
    print_result(
        benchmark="training on what was encoded once, against encoding in every step",
        figure=round(statistics.median(ratios), 3),
        goal=GOAL,
        unit="ratio",
        spread=[round(min(ratios), 3), round(max(ratios), 3)],
        device="one thread",
    )


def measure(
    run: Run, store: Store, folder: Path, steps: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return per round: seconds with encoding over those without, and encoding's share of them."""
    from valign.models.value_encoder import ValueEncoder

    generator = load_generator(run, "float32")
    value_encoder = ValueEncoder.from_generator(
        generator, principles.texts(run), principles.drop(run)
    )
    settings = run.train
    trained = DdpEngine(
        policy.LivoPolicy(generator.unet, value_encoder, generator.schedule),
        AdamW(lr=settings.learning_rate, warmup_steps=settings.warmup_steps),
    )
    objective = objectives.build(
        settings.objective, normaliser=settings.global_batch, **settings.hyperparameters()
    )
    source = batches.PairSource(folder)
    once = batches.feed(
        source,
        seed=run.seed,
        global_batch=settings.global_batch,
        timesteps=generator.schedule.n_timesteps,
    )
    ways = {"once": once, "every step": encoding(generator, run, store, source, once)}
    same(ways)
    ratios, shares = [], []
    for turn in range(rounds):
        seconds, waited = {}, {}
        for way in sorted(ways, reverse=bool(turn % 2)):
            waited[way], began = 0.0, time.perf_counter()
            for step in range(steps):
                asked = time.perf_counter()
                batch, noise, t = ways[way](turn * steps + step)
                waited[way] += time.perf_counter() - asked
                loss, _ = objective(trained.errors(batch, noise, t), batch, step)
                trained.step(loss)
            seconds[way] = time.perf_counter() - began
        ratios.append(seconds["every step"] / seconds["once"])
        shares.append((waited["every step"] - waited["once"]) / seconds["every step"])
    return ratios, shares


def encoding(generator: Any, run: Run, store: Store, source: PairSource, once: BatchAt) -> BatchAt:
    """Return `once` with latents and contexts made anew from PNG files and texts in memory."""
    parts = [tables.read(store, key, tables.IMAGES) for key in part_keys(store, "generate")]
    files = {row["image_id"]: row["image"]["bytes"] for part in parts for row in part.to_pylist()}
    found = tables.read(store, layout.pairs(), tables.PAIRS).to_pylist()
    pairs = {row["pair_id"]: row for row in found}

    def latents(ids: list[str]) -> torch.Tensor:
        return generator.encode(np.stack([pixels(files[image]) for image in ids]))

    @torch.no_grad()
    def batch_at(step: int) -> Step:
        made, noise, t = once(step)
        size = run.train.global_batch
        rows = order.batch_rows(len(source), seed=run.seed, step=step, global_batch=size)
        mine = [pairs[source.pair_ids[row]] for row in rows]
        ids = generator.tokenizer(
            [pair["text"] for pair in mine],
            padding="max_length",
            max_length=generator.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        encoded = latents([pair["winner"] for pair in mine] + [pair["loser"] for pair in mine])
        context = generator.text_encoder(ids).last_hidden_state
        winners, losers = encoded.chunk(2)
        return Batch(winners, losers, context, made.value_ids_BL), noise, t

    return batch_at


def same(ways: dict[str, BatchAt]) -> None:
    """Make sure that both ways train on the same, up to the arrays' float16."""
    left, right = (way(0)[0] for way in ways.values())
    for name in ("latents_w_BCHW", "latents_l_BCHW", "context_BLD", "value_ids_BL"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), atol=5e-3, rtol=5e-3)


if __name__ == "__main__":
    main()
