"""The pairs' arrays on the local disk, and the feed of steps that is read from them.

The arrays are plain .npy files in one folder, written by `write_pair_source` and memory-mapped by
`PairSource`: each image's latents and each prompt's embedding lie there once.

Out of scope: making the arrays (the encode stage), fetching them (storage), and their order
(`order`).

Shapes: N images, M prompts, V value texts, R pairs, B pairs of a batch, C channels, H x W latent
pixels, L tokens, D width of the context, P width of SDXL's pooled text, E text encoders, K voters.
"""

import copy
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from valign.training import noise
from valign.training.batch import Batch, Step
from valign.training.order import batch_rows, rank_slice

PAIR_COLUMNS = ("winner", "loser", "prompt", "value_text")
NEEDED, OPTIONAL = (
    ("latents", "contexts", "pairs"),
    ("value_ids", "pooled", "prompt_ids", "ballots"),
)


def write_pair_source(
    folder: Path | str,
    *,
    latents_NCHW: NDArray[np.float16],
    contexts_MLD: NDArray[np.float16],
    pairs_P4: NDArray[np.int64],
    pair_ids: Sequence[str],
    value_ids_VL: NDArray[np.int32] | None = None,
    pooled_MP: NDArray[np.float16] | None = None,
    prompt_ids_MEL: NDArray[np.int32] | None = None,
    ballots_RK: NDArray[np.int8] | None = None,
    voters: Sequence[str] = (),
    empty_prompt: int | None = None,
) -> None:
    """Write the arrays that `PairSource` reads.

    Args:
        folder: made if missing; files of these names are replaced.
        latents_NCHW: scaled VAE latents, one per image.
        contexts_MLD: prompt embeddings, one per distinct prompt.
        pairs_P4: row numbers per pair: winner and loser (of latents), prompt, value text.
        pair_ids: names of the pairs, in the same order.
        value_ids_VL: token ids for the value encoder, one row per distinct text, right-padded; None
            where no value encoder trains, and the pairs' value text is ignored.
        pooled_MP: SDXL's pooled prompt embeddings.
        prompt_ids_MEL: token ids for each text encoder; needed only where these train.
        ballots_RK: per pair and voter: 1 for the winner, -1 for the loser, 0 abstained.
        voters: the voters' names.
        empty_prompt: row of the empty caption among the prompts, for prompt dropout.

    Raises:
        ValueError: a pair points outside the arrays, or the number of ids is not that of pairs.
    """
    given: dict[str, tuple[Any, Any]] = {
        "latents": (latents_NCHW, np.float16),
        "contexts": (contexts_MLD, np.float16),
        "pairs": (pairs_P4, np.int64),
        "value_ids": (value_ids_VL, np.int32),
        "pooled": (pooled_MP, np.float16),
        "prompt_ids": (prompt_ids_MEL, np.int32),
        "ballots": (ballots_RK, np.int8),
    }
    arrays: dict[str, NDArray[Any]] = {
        name: np.asarray(array, dtype)
        for name, (array, dtype) in given.items()
        if array is not None
    }
    _check(arrays, len(pair_ids), len(voters), empty_prompt)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in given:
        (folder / f"{name}.npy").unlink(missing_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    (folder / "pair_ids.txt").write_text("".join(f"{name}\n" for name in pair_ids))
    about = {"voters": list(voters), "empty_prompt": empty_prompt}
    (folder / "source.json").write_text(json.dumps(about))


class PairSource:
    """Pairs over memory-mapped arrays; `len()` is the number of pairs.

    Attributes:
        pair_ids: names of the pairs.
        voters: names of those who cast the ballots; empty where there are none.

    Raises:
        LookupError: a file is missing.
        ValueError: a pair points outside the arrays.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        there = [name for name in OPTIONAL if (folder / f"{name}.npy").exists()]
        try:
            arrays = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in (*NEEDED, *there)
            }
            self.pair_ids = tuple((folder / "pair_ids.txt").read_text().split())
            about = json.loads((folder / "source.json").read_text())
        except FileNotFoundError as error:
            raise LookupError(f"{error.filename} is missing: run the encode stage first") from error
        self.voters: tuple[str, ...] = tuple(about["voters"])
        self.empty_prompt: int | None = about["empty_prompt"]
        _check(arrays, len(self.pair_ids), len(self.voters), self.empty_prompt)
        self._latents_NCHW = arrays["latents"]
        self._contexts_MLD = arrays["contexts"]
        # These are small and read at random every step: keep them in memory.
        self._pairs_P4 = np.array(arrays["pairs"])
        self._small = {name: np.array(arrays[name]) for name in there}
        if "value_ids" in self._small:
            self._small["value_ids"] = self._small["value_ids"].astype(np.int64)
            self._lengths_V = unpadded_lengths(self._small["value_ids"])

    def __len__(self) -> int:
        return len(self._pairs_P4)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one image's latents, (C, H, W)."""
        return self._latents_NCHW.shape[1:]

    def part(self, chosen: NDArray[np.bool_]) -> "PairSource":
        """Return some of the pairs, over the same arrays.

        Args:
            chosen: of each pair, whether it belongs.
        """
        some = copy.copy(self)
        some._pairs_P4 = self._pairs_P4[chosen]
        some.pair_ids = tuple(np.array(self.pair_ids, dtype=object)[chosen])
        if "ballots" in self._small:
            some._small = self._small | {"ballots": self._small["ballots"][chosen]}
        return some

    def decided(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return per voter on how many of these pairs it did not abstain; None without ballots."""
        ballots = self._small.get("ballots")
        return None if ballots is None else np.count_nonzero(ballots[rows], axis=0)

    def get(
        self, rows_B: NDArray[np.int64], *, dropped_B: NDArray[np.bool_] | None = None
    ) -> Batch:
        """Return the pairs of these rows as float32 and int64 tensors on the CPU.

        Args:
            rows_B: numbers of the pairs.
            dropped_B: pairs that get the empty caption instead of their own.
        """
        winner_B, loser_B, prompt_B, value_B = self._pairs_P4[rows_B].T
        if dropped_B is not None:
            assert self.empty_prompt is not None
            prompt_B = np.where(dropped_B, self.empty_prompt, prompt_B)
        length = int(self._lengths_V[value_B].max()) if "value_ids" in self._small else 0

        def small(name: str, rows: NDArray[np.int64]) -> torch.Tensor | None:
            return torch.from_numpy(self._small[name][rows]) if name in self._small else None

        value_ids, pooled = small("value_ids", value_B), small("pooled", prompt_B)
        prompt_ids = small("prompt_ids", prompt_B)
        return Batch(
            torch.from_numpy(self._latents_NCHW[winner_B]).float(),
            torch.from_numpy(self._latents_NCHW[loser_B]).float(),
            torch.from_numpy(self._contexts_MLD[prompt_B]).float(),
            value_ids_BL=None if value_ids is None else value_ids[:, :length].contiguous(),
            pooled_BP=None if pooled is None else pooled.float(),
            prompt_ids_BEL=None if prompt_ids is None else prompt_ids.long(),
            ballots_BK=small("ballots", rows_B),
        )


def unpadded_lengths(ids_VL: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return per row how many leading ids matter to a causal encoder that pools at its end token.

    The trailing run of equal ids counts as one: its first id is the end-of-text token itself (CLIP
    pads with it) or padding after it. What follows the pooled position cannot reach it through
    causal attention, so cutting there leaves the pooled vector as it is.
    """
    differs_VL = ids_VL != ids_VL[:, -1:]
    last_V = ids_VL.shape[1] - np.argmax(differs_VL[:, ::-1], axis=1)
    return np.where(differs_VL.any(axis=1), last_V + 1, 1)


def feed(
    source: PairSource,
    *,
    seed: int,
    global_batch: int,
    timesteps: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    prompt_dropout: float = 0.0,
) -> Callable[[int], Step]:
    """Return `batch_at(step)`: this rank's pairs of a step, with their noise and timesteps.

    Args:
        source: the pairs.
        seed: the run's seed; keys the order, the noise and the dropped prompts.
        global_batch: pairs per step over all workers.
        timesteps: number of timesteps of the generator's noise schedule.
        rank: this worker.
        world_size: number of workers.
        device: where the tensors go.
        prompt_dropout: share of pairs that get the empty caption, drawn per (seed, step, position).

    Raises:
        ValueError: prompts are to be dropped, but the source has no empty caption.
    """
    if prompt_dropout and source.empty_prompt is None:
        raise ValueError("the pairs lack the empty caption that prompt dropout needs: encode again")
    part = rank_slice(global_batch, rank=rank, world_size=world_size)
    positions = range(part.start, part.stop)

    def batch_at(step: int) -> Step:
        rows = batch_rows(len(source), seed=seed, step=step, global_batch=global_batch)
        noise_BCHW, t_B = noise.draw(
            seed, step, positions, shape=source.latent_shape, timesteps=timesteps
        )
        dropped_B = noise.coins(seed, step, positions, prompt_dropout) if prompt_dropout else None
        batch = source.get(rows[part], dropped_B=dropped_B)
        decided = source.decided(rows)
        if decided is not None:
            batch = replace(batch, decided_K=torch.from_numpy(decided))
        return batch.to(device), noise_BCHW.to(device), t_B.to(device)

    return batch_at


def ahead(batch_at: Callable[[int], Step], steps: int) -> Callable[[int], Step]:
    """Return `batch_at` with the step after the one asked for already being made, by a thread.

    What a step holds is a function of its number only, so nothing depends on who makes it when.

    Args:
        batch_at: as `feed` returns it.
        steps: number of the first step that is never asked for.
    """
    maker = ThreadPoolExecutor(1, thread_name_prefix="pairs")
    making: dict[int, Future[Step]] = {}

    def ready(step: int) -> Step:
        now = making.pop(step, None) or maker.submit(batch_at, step)
        making.clear()
        made = now.result()
        if step + 1 < steps:
            making[step + 1] = maker.submit(batch_at, step + 1)
        else:
            maker.shutdown()
        return made

    return ready


def _check(
    arrays: dict[str, NDArray[Any]], ids: int, voters: int, empty_prompt: int | None
) -> None:
    pairs_P4 = arrays["pairs"]
    if pairs_P4.ndim != 2 or pairs_P4.shape[1] != len(PAIR_COLUMNS):
        raise ValueError(f"pairs have shape {pairs_P4.shape}, not (P, {len(PAIR_COLUMNS)})")
    if not len(pairs_P4):
        raise ValueError("there are no pairs: check the label stage's counts of dropped images")
    if len(pairs_P4) != ids:
        raise ValueError(f"{len(pairs_P4)} pairs but {ids} pair ids: encode the pairs again")
    for column, name in enumerate(("latents", "latents", "contexts", "value_ids")):
        low, high = int(pairs_P4[:, column].min()), int(pairs_P4[:, column].max())
        if name in arrays and (low < 0 or high >= len(arrays[name])):
            raise ValueError(
                f"{PAIR_COLUMNS[column]} of a pair points to row {low if low < 0 else high} of "
                f"{name}, which has {len(arrays[name])}: encode the pairs again"
            )
    shapes = {"pooled": len(arrays["contexts"]), "prompt_ids": len(arrays["contexts"])}
    for name, rows in (shapes | {"ballots": ids}).items():
        if name in arrays and len(arrays[name]) != rows:
            raise ValueError(f"{name} have {len(arrays[name])} rows, not {rows}: encode again")
    if voters != (arrays["ballots"].shape[1] if "ballots" in arrays else 0):
        raise ValueError(f"the ballots are not those of {voters} voters: label and encode again")
    if empty_prompt is not None and not 0 <= empty_prompt < len(arrays["contexts"]):
        raise ValueError(f"the empty caption is row {empty_prompt}, which there is none of")
