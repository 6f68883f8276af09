"""Counters on Ray's metrics page and dashboard: what the workers of every stage have done.

A stage's counters have the tag `stage`, which is the prefix of the work (`evaluate/images`); those
of the server have tags of their own. Ray puts `ray_` before the names and `_total` after them where
it serves them to Prometheus; docs/operations.md lists them.
"""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from valign.serving.audit import Audit
from valign.stages import journal

COUNTERS = {
    "valign_images": "Images that were made, scored or encoded; texts that were encoded.",
    "valign_scores": "Scores that were given, one per image and score.",
    "valign_quarantined": "Images that could not be used.",
    "valign_shards": "Shards that were done.",
    "valign_worker_seconds": "Seconds that workers spent on shards, over all workers.",
    "valign_retries": "Shards that were begun again after their worker was lost.",
    "valign_written_bytes": "Bytes that workers wrote to storage.",
    "valign_read_bytes": "Bytes that workers read from storage.",
    "valign_pairs": "Pairs that were labelled.",
    "valign_steps": "Optimizer steps made.",
    "valign_data_wait_seconds": "Seconds in which training waited for data.",
}
# event -> counter -> the event's field that it counts; "": the event itself
COUNTED = {
    "shard": {
        "valign_images": "rows",
        "valign_scores": "scores",
        "valign_quarantined": "quarantined",
        "valign_shards": "",
        "valign_worker_seconds": "seconds",
        "valign_written_bytes": "written",
        "valign_read_bytes": "read",
    },
    "retry": {"valign_retries": ""},
    "steps": {"valign_steps": "steps", "valign_data_wait_seconds": "waited"},
    "finished": {"valign_pairs": "pairs"},
}


class StageCounters:
    """A listener of the journal that counts what this process does."""

    def __init__(self) -> None:
        self.counters = {name: Counter(name, about, ("stage",)) for name, about in COUNTERS.items()}

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Count an event."""
        for name, field in COUNTED.get(event, {}).items():
            if event == "finished" and fields["stage"] != "label":
                continue  # train repeats the number of pairs
            amount = fields.get(field, 0) if field else 1
            if amount > 0:  # Ray refuses to count nothing
                self.counters[name].inc(amount, {"stage": fields["stage"]})


def listen() -> None:
    """Count from now on what this process does, once."""
    if not any(isinstance(one, StageCounters) for one in journal.listeners):
        journal.listeners.append(StageCounters())


class BatchSizes:
    """How large the batches of one part of the server are, and how much that is in all.

    The sum of Ray's histogram counts each batch as the middle of its bucket: it is no count.
    """

    def __init__(self, part: str) -> None:
        self.sizes = Histogram(
            "valign_serve_batch_size",
            "Images or pictures of a batch.",
            boundaries=[1, 2, 4, 8, 16, 32, 64],
            tag_keys=("part",),
        )
        self.items = Counter(
            "valign_serve_items", "Images drawn, or pictures scored, asked for or not.", ("part",)
        )
        self.tags = {"part": part}

    def add(self, size: int) -> None:
        """Count a batch."""
        self.sizes.observe(size, self.tags)
        self.items.inc(size, self.tags)


class ServeCounters:
    """What the server was asked, how it answered, and how long that took."""

    def __init__(self) -> None:
        self.requests = Counter(
            "valign_serve_requests", "Requests, by route and status.", ("route", "status")
        )
        self.refusals = Counter("valign_serve_refusals", "Refused requests, by code.", ("code",))
        self.images = Counter(
            "valign_serve_images", "Images drawn, by model and principle.", ("model", "principle")
        )
        self.seconds = Histogram(
            "valign_serve_seconds",
            "Seconds until the answer.",
            boundaries=[0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100],
            tag_keys=("route",),
        )
        self.waiting = Gauge("valign_serve_requests_under_way", "Requests under way.")

    def add(self, audit: Audit, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests.inc(1, {"route": audit.route, "status": str(audit.status)})
        self.seconds.observe(seconds, {"route": audit.route})
        if audit.status >= 400:
            self.refusals.inc(1, {"code": audit.verdict})
        elif audit.images and audit.route.endswith("generations"):
            tags = {"model": audit.model, "principle": audit.principle or "none"}
            self.images.inc(audit.images, tags)
