"""One driver at a time on a root: take it, hold it, and know whether another holds it.

A driver creates the next of the numbered keys under `drivers/` and rewrites it every few seconds
while it works; the highest number holds the root. One that was killed leaves its key behind: on the
same machine its process is looked for, elsewhere its key is watched for a while. So a run that was
killed can be run again at once, and a second run beside a living one is told.

Shards would stay whole without this: parts are written in one piece and always with the same bytes.
But both drivers would do the same work, and checkpoints and logs of training would mix.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from valign.storage import layout
from valign.storage.objects import Store

BEAT_S = 10.0
MISSED_BEATS = 3.5  # after so many, a driver of another machine is taken for dead


@contextlib.contextmanager
def holding(store: Store, *, beat_s: float = BEAT_S) -> Iterator[str]:
    """Hold a root while work is done on it; yield the key that says so.

    Args:
        store: the root.
        beat_s: seconds between signs of life.

    Raises:
        ValueError: another driver works on this root.
    """
    me: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "process_began": began(os.getpid()),
        "beat": 0,
        "beat_s": beat_s,
        "token": secrets.token_hex(8),
    }
    key = _take(store, me)
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(beat_s):
            me["beat"] += 1
            with contextlib.suppress(OSError):  # one sign of life may get lost
                store.write(key, _bytes(me))

    beating = threading.Thread(target=live, daemon=True)
    beating.start()
    try:
        yield key
    finally:
        ended.set()
        beating.join()
        for left in [name for name in store.list(layout.drivers()) if name <= key]:
            store.delete(left)


def _take(store: Store, me: dict[str, Any]) -> str:
    """Return the key under which this driver now holds the root."""
    while True:
        held = sorted(store.list(layout.drivers()))
        if held and _alive(store, held[-1]):
            holder = _read(store, held[-1]) or {}
            raise ValueError(
                f"another driver works on {store.url}: process {holder.get('pid')} on "
                f"{holder.get('host')}. Wait until it ends, or stop it; what it finished is kept"
            )
        number = 1 + (layout.driver_number(held[-1]) if held else 0)
        if store.create(layout.driver(number), _bytes(me)):
            return layout.driver(number)


def _alive(store: Store, key: str) -> bool:
    """Say whether the driver that made a key still works."""
    holder = _read(store, key)
    if holder is None:
        return False
    if holder["machine"] and holder["machine"] == _machine():
        return began(holder["pid"]) == holder["process_began"]
    patience_s = MISSED_BEATS * holder["beat_s"]
    print(
        f"{store.url} was left by process {holder['pid']} on {holder['host']}; waiting up to "
        f"{patience_s:.0f} s for a sign of life",
        flush=True,
    )
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        time.sleep(holder["beat_s"] / 10)
        now = _read(store, key)
        if now is None or now["beat"] != holder["beat"]:
            return now is not None
    return False


def _read(store: Store, key: str) -> dict[str, Any] | None:
    try:
        holder: dict[str, Any] = json.loads(store.read(key))
    except LookupError:  # it has ended since
        return None
    return holder


def _bytes(me: dict[str, Any]) -> bytes:
    return json.dumps(me, sort_keys=True).encode()


def _machine() -> str:
    """Return what processes that see each other's ids have in common; "" where that is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink(
            "/proc/self/ns/pid"
        )
    except OSError:
        return ""


def began(pid: int) -> int | None:
    """Return when a process of this machine began, in ticks; None if it is none or a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
