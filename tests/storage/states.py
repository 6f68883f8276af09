"""Training states to save; as a program: saves two of them until its store ends the process.

python -m tests.storage.states FOLDER CHANGE
"""

import sys

import numpy as np

from tests.crashing_store import crashing_root
from valign.storage import checkpoints
from valign.storage.objects import Store, open_store


def tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"{kind}/{name}": rng.normal(size=shape).astype(np.float32)
        for kind in ("value", "exp_avg")
        for name, shape in (("a.weight", (3, 5)), ("a.bias", (5,)), ("scale", ()))
    }


def save(store: Store, step: int, *, keep_last: int = 2, file_bytes: int = 1 << 30) -> None:
    checkpoints.save(
        store,
        "train",
        step,
        tensors(step),
        {"step": step, "lr": 0.1 + step},
        keep_last=keep_last,
        file_bytes=file_bytes,
    )


if __name__ == "__main__":
    root = open_store(crashing_root(sys.argv[1], int(sys.argv[2])))
    for step in (1, 2):
        save(root, step, keep_last=1, file_bytes=150)
