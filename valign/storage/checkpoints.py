"""Training state as plain files: tensors by name, and one JSON object for the rest.

In: float arrays by name and the loop's state. Out: the same, verified. Nothing here knows an
engine, a worker count or a device, and nothing is a pickle. A checkpoint is a prefix
(`train/step-00000500/`) with safetensors files, `loop.json`, and a marker `complete.json` that is
written last and holds the sha256 of the others: without it the checkpoint does not exist.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from valign.storage import layout
from valign.storage.objects import Store

SCHEMA_VERSION = 2
READABLE = (1, 2)  # 1: without a reference or a moving average
FILE_BYTES = 1 << 30
_MARKER = "complete.json"
_LOOP = "loop.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        store: where it lies.
        key: its prefix, without a trailing slash.
        step: optimizer steps made.
        files: sha256 (hex) of each of its files.
        loop: all of the loop's state that is not a tensor.
    """

    store: Store
    key: str
    step: int
    files: Mapping[str, str]
    loop: Mapping[str, Any]

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Read and verify all tensors, by name; every access reads them again.

        Raises:
            ValueError: a file is not the one that was saved.
        """
        found: dict[str, NDArray[Any]] = {}
        for name in self.files:
            if name.endswith(".safetensors"):
                found |= load_safetensors(_verified(self.store, self.key, name, self.files[name]))
        return found


def save(
    store: Store,
    prefix: str,
    step: int,
    tensors: Mapping[str, NDArray[Any]],
    loop: Mapping[str, Any],
    *,
    keep_last: int,
    keep: Collection[int] = (),
    file_bytes: int = FILE_BYTES,
) -> None:
    """Save a checkpoint, then delete the others but for `keep_last` and `keep`, and leftovers.

    One process calls it at a time. A checkpoint of the same step is replaced.

    Args:
        store: where to.
        prefix: what is trained, usually `train`.
        step: optimizer steps made.
        tensors: weights and moments by name.
        loop: everything else that a resumed run needs; JSON values (floats are kept exactly).
        keep_last: complete checkpoints to keep, at least 1.
        keep: steps whose checkpoints are kept besides.
        file_bytes: about how large a file may become.

    Raises:
        ValueError: `keep_last` is below 1, or a value of `loop` is not JSON.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last must be at least 1, not {keep_last}")
    key = layout.checkpoint(prefix, step)
    remove(store, key)
    files: dict[str, str] = {}
    try:
        state = json.dumps(dict(loop), sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the loop's state must be JSON: {error}") from error
    for name, data in (*_files(tensors, file_bytes), (_LOOP, state)):
        store.write(f"{key}/{name}", data)
        files[name] = hashlib.sha256(data).hexdigest()
    marker = {"schema_version": SCHEMA_VERSION, "step": step, "files": files}
    store.write(f"{key}/{_MARKER}", json.dumps(marker, sort_keys=True, indent=1).encode())
    _prune(store, prefix, step, keep_last, keep)


def latest(store: Store, prefix: str) -> Checkpoint | None:
    """Return the complete checkpoint of the highest step, or None; incomplete ones do not count.

    Raises:
        ValueError: it is of another schema version, or its `loop.json` is damaged.
    """
    step = newest(store, prefix)
    return load(store, prefix, step) if step else None


def newest(store: Store, prefix: str) -> int:
    """Return the highest step that has a complete checkpoint, 0 if none has."""
    return max((step for step, done in _steps(store, prefix).items() if done), default=0)


def load(store: Store, prefix: str, step: int) -> Checkpoint:
    """Return the checkpoint of a step.

    Raises:
        LookupError: there is none, or it is not complete.
        ValueError: it is of another schema version, or its `loop.json` is damaged.
    """
    key = layout.checkpoint(prefix, step)
    marker = json.loads(store.read(f"{key}/{_MARKER}"))
    if marker["schema_version"] not in READABLE:
        raise ValueError(
            f"{key} under {store.url} is a checkpoint of schema version "
            f"{marker['schema_version']}; this version of valign reads "
            f"{' and '.join(map(str, READABLE))}: train "
            "under another root, or resume with the version that saved it"
        )
    files = marker["files"]
    loop = json.loads(_verified(store, key, _LOOP, files[_LOOP]))
    return Checkpoint(store, key, marker["step"], files, loop)


def remove(store: Store, key: str) -> None:
    """Delete a checkpoint, complete or not; its marker goes first."""
    store.delete(f"{key}/{_MARKER}")
    for name in list(store.list(f"{key}/")):
        store.delete(name)


def _files(tensors: Mapping[str, NDArray[Any]], file_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of safetensors files, one at a time: they may be gigabytes."""
    group: dict[str, NDArray[Any]] = {}
    size = number = 0
    for name in sorted(tensors):
        # safetensors stores an array's memory as it lies; only C order is what it says.
        group[name] = np.asarray(tensors[name], order="C")
        size += group[name].nbytes
        if size >= file_bytes:
            yield f"tensors-{number:05d}.safetensors", save_safetensors(group)
            group, size, number = {}, 0, number + 1
    if group or not number:
        yield f"tensors-{number:05d}.safetensors", save_safetensors(group)


def _verified(store: Store, key: str, name: str, sha256: str) -> bytes:
    data = store.read(f"{key}/{name}")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(
            f"{key}/{name} under {store.url} is damaged (its sha256 is not the one that was "
            f"saved): delete {key}/ to resume from the checkpoint before it"
        )
    return data


def completes(prefix: str, key: str) -> bool:
    """Say whether a key is the marker of a complete checkpoint."""
    return key.startswith(layout.checkpoints(prefix)) and key.endswith(f"/{_MARKER}")


def step_of(key: str) -> int:
    """Return the step of a checkpoint's key."""
    return int(key.rpartition("/step-")[2].partition("/")[0])


def _steps(store: Store, prefix: str) -> dict[int, bool]:
    """Return every step that has objects, and whether its checkpoint is complete."""
    start = layout.checkpoints(prefix)
    steps: dict[int, bool] = {}
    for key in store.list(start):
        number, _, name = key.removeprefix(start).partition("/")
        if number.isdecimal():
            steps[int(number)] = steps.get(int(number), False) or name == _MARKER
    return steps


def _prune(store: Store, prefix: str, step: int, keep_last: int, keep: Collection[int]) -> None:
    steps = {number: done for number, done in _steps(store, prefix).items() if number <= step}
    complete = sorted(number for number, done in steps.items() if done)
    kept = {*complete[-keep_last:], *(number for number in complete if number in keep)}
    for number in steps:
        if number not in kept:
            remove(store, layout.checkpoint(prefix, number))
