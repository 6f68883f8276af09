"""Which pairs a step trains on, and how their arrays lie on the local disk.

The rows of a global batch are a pure function of (seed, step); a rank takes a slice of them. So
changing the number of workers keeps the sequence of global batches, and the position in the data
is one integer. The arrays are plain .npy files in one folder, written by `write_pair_source` and
memory-mapped by `PairSource`: each image's latents and each prompt's embedding lie there once.

Out of scope: making the arrays (the encode stage) and fetching them (storage).

Shapes: N images, M prompts, V value texts, P pairs, B pairs of a batch, C channels, H x W latent
pixels, L tokens, D width of the context.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from valign.training import noise

PAIR_COLUMNS = ("winner", "loser", "prompt", "value_text")


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of a global batch, ready for the policy."""

    latents_w_BCHW: Tensor
    """Scaled VAE latents of the preferred images, float32."""
    latents_l_BCHW: Tensor
    """Scaled VAE latents of the dispreferred images, float32."""
    context_BLD: Tensor
    """Prompt embeddings padded to the text encoder's length, float32."""
    value_ids_BL: Tensor
    """Token ids of "{principle}, {prompt}" for the value encoder, int64; padding that all rows
    share is cut (see `unpadded_lengths`)."""

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        return Batch(
            self.latents_w_BCHW.to(device, non_blocking=True),
            self.latents_l_BCHW.to(device, non_blocking=True),
            self.context_BLD.to(device, non_blocking=True),
            self.value_ids_BL.to(device, non_blocking=True),
        )


Step = tuple[Batch, Tensor, Tensor]
"""What a step trains on: the batch, noise_BCHW and t_B."""


def batch_rows(n: int, *, seed: int, step: int, global_batch: int) -> NDArray[np.int64]:
    """Return the rows of a step's global batch, (global_batch,), each in 0 .. n-1.

    Every epoch is its own permutation of all rows; the epochs are laid end to end and cut into
    batches, so a batch may cross an epoch's end, and every row is seen once per epoch.

    Args:
        n: number of pairs, at least 1.
        seed: the run's seed.
        step: number of the step, from 0.
        global_batch: rows per step over all workers, at least 1.
    """
    if n < 1 or global_batch < 1 or step < 0:
        raise ValueError(
            f"a batch needs at least one pair, one row and a step from 0: "
            f"got n={n}, global_batch={global_batch}, step={step}"
        )
    position = step * global_batch + np.arange(global_batch, dtype=np.int64)
    first, last = int(position[0] // n), int(position[-1] // n)
    orders = [_epoch_order(n, seed, epoch) for epoch in range(first, last + 1)]
    order = orders[0] if len(orders) == 1 else np.concatenate(orders)
    return order[position - first * n]


@lru_cache(maxsize=4)
def _epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = noise.generator(seed, epoch, stream=noise.ORDER_STREAM).permutation(n)
    order.flags.writeable = False
    return order.astype(np.int64, copy=False)


def rank_slice(global_batch: int, *, rank: int, world_size: int) -> slice:
    """Return the rank's part of the global batch; parts differ by at most one row.

    Raises:
        ValueError: there are more workers than rows.
    """
    if world_size > global_batch:
        raise ValueError(
            f"{world_size} workers cannot share a global batch of {global_batch}: "
            "use fewer workers or a larger batch"
        )
    assert 0 <= rank < world_size
    return slice(rank * global_batch // world_size, (rank + 1) * global_batch // world_size)


def write_pair_source(
    folder: Path | str,
    *,
    latents_NCHW: NDArray[np.float16],
    contexts_MLD: NDArray[np.float16],
    value_ids_VL: NDArray[np.int32],
    pairs_P4: NDArray[np.int64],
    pair_ids: Sequence[str],
) -> None:
    """Write the arrays that `PairSource` reads.

    Args:
        folder: made if missing; files of these names are replaced.
        latents_NCHW: scaled VAE latents, one per image.
        contexts_MLD: prompt embeddings, one per distinct prompt.
        value_ids_VL: token ids for the value encoder, one row per distinct text, right-padded.
        pairs_P4: row numbers per pair: winner and loser (of latents), prompt, value text.
        pair_ids: names of the pairs, in the same order.

    Raises:
        ValueError: a pair points outside the arrays, or the number of ids is not that of pairs.
    """
    arrays: dict[str, NDArray[Any]] = {
        "latents": np.asarray(latents_NCHW, dtype=np.float16),
        "contexts": np.asarray(contexts_MLD, dtype=np.float16),
        "value_ids": np.asarray(value_ids_VL, dtype=np.int32),
        "pairs": np.asarray(pairs_P4, dtype=np.int64),
    }
    _check(arrays, len(pair_ids))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    (folder / "pair_ids.txt").write_text("".join(f"{name}\n" for name in pair_ids))


class PairSource:
    """Pairs over memory-mapped arrays; `len()` is the number of pairs.

    Raises:
        LookupError: a file is missing.
        ValueError: a pair points outside the arrays.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        try:
            arrays = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in ("latents", "contexts", "value_ids", "pairs")
            }
            self.pair_ids = tuple((folder / "pair_ids.txt").read_text().split())
        except FileNotFoundError as error:
            raise LookupError(f"{error.filename} is missing: run the encode stage first") from error
        _check(arrays, len(self.pair_ids))
        self._latents_NCHW = arrays["latents"]
        self._contexts_MLD = arrays["contexts"]
        # Both are small and read at random every step: keep them in memory.
        self._value_ids_VL = np.array(arrays["value_ids"], dtype=np.int64)
        self._pairs_P4 = np.array(arrays["pairs"])
        self._lengths_V = unpadded_lengths(self._value_ids_VL)

    def __len__(self) -> int:
        return len(self._pairs_P4)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one image's latents, (C, H, W)."""
        return self._latents_NCHW.shape[1:]

    def get(self, rows_B: NDArray[np.int64]) -> Batch:
        """Return the pairs of these rows as float32 and int64 tensors on the CPU."""
        winner_B, loser_B, prompt_B, value_B = self._pairs_P4[rows_B].T
        length = int(self._lengths_V[value_B].max())
        return Batch(
            torch.from_numpy(self._latents_NCHW[winner_B]).float(),
            torch.from_numpy(self._latents_NCHW[loser_B]).float(),
            torch.from_numpy(self._contexts_MLD[prompt_B]).float(),
            torch.from_numpy(self._value_ids_VL[value_B, :length]),
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
) -> Callable[[int], Step]:
    """Return `batch_at(step)`: this rank's pairs of a step, with their noise and timesteps.

    Args:
        source: the pairs.
        seed: the run's seed; keys both the order and the noise.
        global_batch: pairs per step over all workers.
        timesteps: number of timesteps of the generator's noise schedule.
        rank: this worker.
        world_size: number of workers.
        device: where the tensors go.
    """
    part = rank_slice(global_batch, rank=rank, world_size=world_size)
    positions = range(part.start, part.stop)

    def batch_at(step: int) -> Step:
        rows = batch_rows(len(source), seed=seed, step=step, global_batch=global_batch)[part]
        noise_BCHW, t_B = noise.draw(
            seed, step, positions, shape=source.latent_shape, timesteps=timesteps
        )
        return source.get(rows).to(device), noise_BCHW.to(device), t_B.to(device)

    return batch_at


def _check(arrays: dict[str, NDArray[Any]], ids: int) -> None:
    pairs_P4 = arrays["pairs"]
    if pairs_P4.ndim != 2 or pairs_P4.shape[1] != len(PAIR_COLUMNS):
        raise ValueError(f"pairs have shape {pairs_P4.shape}, not (P, {len(PAIR_COLUMNS)})")
    if not len(pairs_P4):
        raise ValueError("there are no pairs: check the label stage's counts of dropped images")
    if len(pairs_P4) != ids:
        raise ValueError(f"{len(pairs_P4)} pairs but {ids} pair ids: encode the pairs again")
    for column, name in enumerate(("latents", "latents", "contexts", "value_ids")):
        low, high = int(pairs_P4[:, column].min()), int(pairs_P4[:, column].max())
        if low < 0 or high >= len(arrays[name]):
            raise ValueError(
                f"{PAIR_COLUMNS[column]} of a pair points to row {low if low < 0 else high} of "
                f"{name}, which has {len(arrays[name])}: encode the pairs again"
            )
