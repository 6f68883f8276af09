"""Which pairs a step sees, in what order: a pure function of (seed, step).

A rank takes a slice of the rows of a global batch. So changing the number of workers keeps the
sequence of global batches, and the position in the data is one integer.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from valign.training import noise


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
