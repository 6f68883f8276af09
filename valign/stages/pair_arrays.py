"""Bring what encode made to this node, as the memory-mapped arrays that training reads."""

import contextlib
import hashlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.records import digest
from valign.stages import encode
from valign.stages.work import part_keys
from valign.storage import layout, tables
from valign.storage.objects import Store
from valign.train_settings import VALUES, Train

if TYPE_CHECKING:
    from valign.models.generator import Generator


@contextlib.contextmanager
def local_pairs(store: Store, settings: Train, generator: "Generator") -> Iterator[Path]:
    """Assemble what encode made into memory-mapped arrays, in a folder of this process alone.

    Workers of one node do not share it: a folder that outlived a killed worker could be stale.
    """
    with tempfile.TemporaryDirectory(prefix="valign-pairs-") as folder:
        assemble(store, Path(folder), settings, generator)
        yield Path(folder)


def assemble(store: Store, folder: Path, settings: Train, generator: "Generator") -> None:
    """Write the arrays that `training.batches.PairSource` reads.

    Args:
        store: the run's.
        folder: where to.
        settings: say which pairs are wanted, and what of them.
        generator: encodes the empty caption and tokenizes, where these are wanted.
    """
    from valign.training.batches import write_pair_source

    images = _columns(store, part_keys(store, "encode"), tables.LATENTS)
    texts = _columns(store, part_keys(store, encode.TEXTS), tables.TEXTS)
    pairs = pairs_for(store, settings)
    wanted = {(key, text) for key, text in zip(pairs["principle"], pairs["text"], strict=True)}
    keys = list(zip(texts["principle"], texts["text"], strict=True))
    texts = {
        name: [value for key, value in zip(keys, values, strict=True) if key in wanted]
        for name, values in texts.items()
    }
    image_row = {image: row for row, image in enumerate(images["image_id"])}
    text_row = {
        key: row for row, key in enumerate(zip(texts["principle"], texts["text"], strict=True))
    }
    text_of = [text_row[key] for key in zip(pairs["principle"], pairs["text"], strict=True)]
    contexts = encode.float16(texts["context"], texts["shape"])
    more: dict[str, Any] = {}
    if settings.objective in VALUES:
        more["value_ids_VL"] = np.array(texts["value_ids"], np.int32)
    else:
        more["ballots_RK"], more["voters"] = _ballots(pairs)
    captions = list(texts["text"])
    pooled = [np.frombuffer(data, np.float16) for data in texts["pooled"] if data is not None]
    if settings.prompt_dropout:
        empty = generator.condition([""])
        contexts = np.concatenate([contexts, _half(empty.context_BLD)])
        pooled += [] if empty.pooled_BP is None else list(_half(empty.pooled_BP))
        more["empty_prompt"] = len(captions)
        captions.append("")
    if settings.trains == "lora" and settings.lora.text_encoder:
        more["prompt_ids_MEL"] = generator.text.token_ids(captions).numpy().astype(np.int32)
    write_pair_source(
        folder,
        latents_NCHW=encode.float16(images["latents"], images["shape"]),
        contexts_MLD=contexts,
        pooled_MP=np.stack(pooled) if pooled else None,
        pairs_P4=np.stack(
            [
                [image_row[image] for image in pairs["winner"]],
                [image_row[image] for image in pairs["loser"]],
                text_of,
                text_of,
            ],
            axis=1,
        ),
        pair_ids=pairs["pair_id"],
        **more,
    )


def pairs_for(store: Store, settings: Train) -> dict[str, list[Any]]:
    """Return the pairs that an objective learns from.

    A value is learnt from decided pairs under a principle. Quality is learnt from pairs that were
    voted on: the decided ones, or, where the loss itself aggregates the votes, all on which anyone
    voted.

    Raises:
        ValueError: there are none.
    """
    wanted = ["pair_id", "principle", "text", "winner", "loser", "verdict", "decided_by"]
    valued, remedy = settings.objective in VALUES, "label.rule=vote or joint"
    if not valued:
        wanted += ["voters", "ballots"]
    pairs = tables.lists(tables.read(store, layout.pairs(), tables.PAIRS, wanted))
    by, verdict = pairs.pop("decided_by"), pairs.pop("verdict")
    if valued:
        fits = [bool(v and key) for v, key in zip(verdict, pairs["principle"], strict=True)]
        why = "is decided and under a principle, so no value can be learnt from them"
        remedy = "label.rule=livo or joint"
    elif settings.aggregation == "labels":
        fits = [bool(v and who != "livo") for v, who in zip(verdict, by, strict=True)]
        why = "is decided by a vote, so no preference of voters can be learnt from them"
    else:
        fits = [any(ballots) for ballots in pairs["ballots"]]
        why = "has a ballot, so no preference of voters can be learnt from them"
    if settings.pairs_share < 1:
        chosen = _share(pairs["pair_id"], pairs["principle"], fits, settings.pairs_share)
        fits = [fit and pair in chosen for fit, pair in zip(fits, pairs["pair_id"], strict=True)]
    if not any(fits):
        raise ValueError(f"none of the {len(fits):,} pairs {why}; label with {remedy}")
    return {
        name: [value for value, fit in zip(values, fits, strict=True) if fit]
        for name, values in pairs.items()
    }


def _share(pair_ids: list[str], keys: list[str], fits: list[bool], share: float) -> frozenset[str]:
    """Return a share of each principle's pairs; that of a smaller share is part of it."""
    chosen: set[str] = set()
    for key in set(keys):
        mine = [p for p, k, fit in zip(pair_ids, keys, fits, strict=True) if fit and k == key]
        ranked = sorted(mine, key=lambda pair: digest("share", pair))
        chosen |= set(ranked[: math.ceil(share * len(ranked))])
    return frozenset(chosen)


def held_out(store: Store, settings: Train, seed: int) -> np.ndarray:
    """Return of each of the pairs whether its prompt is held out, (P,): a share by seeded hash.

    Raises:
        ValueError: that leaves no prompt to train on.
    """
    texts = pairs_for(store, settings)["text"]
    order = sorted(set(texts), key=lambda text: hashlib.sha256(f"{seed}/{text}".encode()).digest())
    count = max(1, round(settings.held_out * len(order)))
    if count == len(order):
        raise ValueError(
            f"train.held_out ({settings.held_out:g}) of {len(order)} prompts leaves none to train "
            "on: lower it, or label more prompts"
        )
    chosen = set(order[:count])
    return np.array([text in chosen for text in texts])


def _ballots(pairs: dict[str, list[Any]]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return ballots_RK and the voters' names, if every pair was put to the same voters."""
    voters = {tuple(names) for names in pairs["voters"]}
    if len(voters) != 1 or not (names := voters.pop()):
        return None, ()
    return np.array(pairs["ballots"], np.int8), names


def _half(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.cpu().numpy(), np.float16)


def _columns(store: Store, keys: list[str], schema: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for key in keys:
        for name, values in tables.read(store, key, schema).to_pydict().items():
            columns[name] += values
    return columns
