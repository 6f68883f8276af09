"""A tiny generator, a value encoder and a few pairs to train on: random, but real networks.

The pairs carry all that any objective needs: value texts, ballots, prompt ids, the empty caption.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tiny import build_generator

from valign.models.generator import Generator, load_generator
from valign.models.value_encoder import ValueEncoder
from valign.train_settings import Train
from valign.training import any_engine, batches, engine, losses, objectives, policies, policy
from valign.training.ddp import DdpEngine
from valign.training.optimizer import AdamW

WIDTH = 32
PROMPTS = [f"A photo of a {noun}" for noun in ("nun", "man", "cab", "bee", "doctor", "sun")]
VOTERS = ("one", "two", "three")
LIVO = {"beta": 1000.0, "alpha": 500.0, "gamma1": 1.0, "gamma2": 0.5}


class World(NamedTuple):
    """Folders of a tiny generator and of a pair source."""

    generator: Path
    pairs: Path


def build(folder: Path) -> World:
    """Write both folders."""
    world = World(build_generator(folder / "generator", width=WIDTH), folder / "pairs")
    write_pairs(world)
    return world


def write_pairs(world: World, *, pairs: int = 24, images: int = 20) -> None:
    """Write random pairs whose winners and losers never share an image."""
    rng = np.random.default_rng(7)
    half, texts = images // 2, len(PROMPTS)
    generator = load_generator(str(world.generator))
    keys = ["gender" if number % 2 else "nudity" for number in range(texts)]
    captions = [*PROMPTS, ""]
    prompt_ids = generator.tokenizer(captions, padding="max_length", max_length=77).input_ids
    columns = (
        rng.integers(half, size=pairs),
        half + rng.integers(half, size=pairs),
        rng.integers(texts, size=pairs),
        rng.integers(texts, size=pairs),
    )
    batches.write_pair_source(
        world.pairs,
        latents_NCHW=rng.standard_normal((images, 4, 8, 8)).astype(np.float16),
        contexts_MLD=generator.condition(captions).context_BLD.half().numpy(),
        value_ids_VL=build_value_encoder(generator).token_ids(keys, PROMPTS).int().numpy(),
        pairs_P4=np.stack(columns, axis=1),
        pair_ids=[f"pair-{number}" for number in range(pairs)],
        prompt_ids_MEL=np.array(prompt_ids, np.int32)[:, None],
        ballots_RK=rng.integers(-1, 2, size=(pairs, len(VOTERS))).astype(np.int8),
        voters=VOTERS,
        empty_prompt=texts,
    )


def build_value_encoder(generator: Generator) -> ValueEncoder:
    principles = {"gender": "gender equality", "nudity": "no nudity"}
    return ValueEncoder.from_generator(generator, principles)


def build_policy(folder: Path, *, autocast: torch.dtype | None = None) -> policy.LivoPolicy:
    """Load the tiny generator's UNet and text encoder into a policy."""
    generator = load_generator(str(folder))
    encoder = build_value_encoder(generator)
    return policy.LivoPolicy(generator.unet, encoder, generator.schedule, autocast=autocast)


def build_engine(world: World, **settings: object) -> DdpEngine:
    return DdpEngine(
        build_policy(world.generator), AdamW(**({"lr": 1e-4, "warmup_steps": 3} | settings))
    )


def build_trainable(folder: Path, settings: Train, **options: object) -> policy.Policy:
    """Build the policy that settings describe from the networks in a generator's folder."""
    generator = load_generator(str(folder))
    valued = "value_encoder" in settings.trains
    return policies.build(
        settings,
        generator.unet,
        generator.schedule,
        value_encoder=build_value_encoder(generator) if valued else None,
        text_encoders=generator.text.encoders,
        size_px=64,
        **options,
    )


def build_any_engine(
    world: World, settings: Train, name: str = "ddp", **options: object
) -> any_engine.Engine:
    """Build an engine by name over the policy of some settings; a learning rate that moves it."""
    # A large eps: with a small one, gradients that are only rounding move weights as others do.
    optimizer = AdamW(lr=1e-3, warmup_steps=2, eps=1e-3)
    trained = build_trainable(world.generator, settings)
    return engine.build(name, trained, optimizer, ema_decay=settings.ema_decay, **options)


def objective_of(settings: Train, *, global_batch: int = 4):
    return objectives.build(
        settings.objective,
        normaliser=global_batch,
        seed=5,
        voters=VOTERS,
        **settings.hyperparameters(),
    )


def build_feed(
    world: World,
    *,
    global_batch: int = 4,
    rank: int = 0,
    world_size: int = 1,
    prompt_dropout: float = 0.0,
):
    return batches.feed(
        batches.PairSource(world.pairs),
        seed=5,
        global_batch=global_batch,
        timesteps=1000,
        rank=rank,
        world_size=world_size,
        prompt_dropout=prompt_dropout,
    )


def build_objective(global_batch: int = 4):
    loss = functools.partial(losses.livo, **LIVO, normaliser=global_batch)
    return lambda errors, batch=None, step=0: loss(errors)
