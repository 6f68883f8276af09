"""What happens, told to whoever listens: metrics of a cluster, and JSON lines for log collectors.

Stages note events as they work, with plain fields. Ray's metrics listen where Ray is; with
`VALIGN_LOG=json` in the environment every event is also one line of JSON on standard output, with
the run's id, stage, shard and rank: of workers in Ray's log files, of the driver where it prints.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from valign.records import digest

LOG = "VALIGN_LOG"
Listener = Callable[[str, Mapping[str, Any]], None]
listeners: list[Listener] = []


def run_id(root: str) -> str:
    """Return what all lines of one run have in common: a name of its root, without its words."""
    return digest(root)[:12]


def note(event: str, *, root: str, stage: str, **fields: Any) -> None:
    """Tell of an event.

    Args:
        event: begun, finished, failed, shard, retry, steps; docs/operations.md has their fields.
        root: URL of the run's root.
        stage: the verb, or the longer prefix of the work.
        fields: numbers and words, JSON values; None is left out.
    """
    said = {name: value for name, value in fields.items() if value is not None}
    for listen in listeners:
        listen(event, {"stage": stage, **said})
    if os.environ.get(LOG) == "json":
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"time": now, "event": event, "run": run_id(root), "stage": stage, **said}
        print(json.dumps(line, ensure_ascii=False), flush=True)
