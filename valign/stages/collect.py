"""gc: remove what interrupted work left under a root and nothing refers to.

What is referred to: parts of shards that have a marker, what a finished stage's manifest lists, and
complete checkpoints. All else under the stages is what a later run would write again.
"""

import functools
from collections.abc import Callable, Iterator

from valign import config
from valign.stages import driver, purge
from valign.storage import checkpoints, layout, manifests
from valign.storage.leftovers import leftovers
from valign.storage.objects import Store

SHARDED = ("part-", "quarantine-")


def orphans(store: Store) -> list[str]:
    """Return the keys that nothing refers to, sorted."""
    keys = list(store.list())
    there, found = set(keys), set()
    finished = {v: m for v in config.STAGES if (m := manifests.get(store, v)) is not None}
    complete = {key.rpartition("/")[0] for key in keys if checkpoints.completes("train", key)}
    for key in keys:
        verb = key.partition("/")[0]
        if key.startswith(layout.drivers()):
            found.add(key)  # whoever collects holds the root: no other driver does
        elif verb not in config.STAGES:
            continue
        elif "/attempts/" in key or (
            key.startswith(layout.checkpoints("train"))
            and "/".join(key.split("/")[:2]) not in complete
        ):
            found.add(key)
        elif verb in finished:
            if layout.is_result(key) and key not in finished[verb].parts:
                found.add(key)
        elif (number := _shard(key)) is not None and not there & set(_markers(key, number)):
            found.add(key)
    return sorted(found)


def collect(store: Store, *, dry_run: bool = False) -> list[str]:
    """Remove orphans, and what killed writes left; return what was (or would be) removed.

    Raises:
        ValueError: a driver works on this root, or a purge of it was interrupted.
        LookupError: there is no run.
    """
    if not store.exists(layout.RECIPE):
        raise LookupError(f"{store.url} is no run: it has no {layout.RECIPE}")
    purge.check(store)
    if dry_run:
        return [name for name, _ in _all(store, mine="")]
    removed = []
    with driver.holding(store) as mine:
        for name, remove in _all(store, mine):
            remove()
            removed.append(name)
    return removed


def _all(store: Store, mine: str) -> Iterator[tuple[str, Callable[[], object]]]:
    for key in orphans(store):
        if key != mine:
            yield key, functools.partial(store.delete, key)
    yield from list(leftovers(store))


def _shard(key: str) -> int | None:
    """Return the number of the shard that a key belongs to, None if it is of none."""
    name = key.rpartition("/")[2]
    number = name.removesuffix(".parquet").rpartition("-")[2]
    return int(number) if name.startswith(SHARDED) and number.isdecimal() else None


def _markers(key: str, number: int) -> Iterator[str]:
    """Yield where the marker of a part may lie: parts of one shard may lie in folders below it."""
    folder = key
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        yield layout.marker(folder, number)
