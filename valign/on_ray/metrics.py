"""Counters on Ray's metrics page and dashboard: what the workers of every stage have done.

Every counter has the tag `stage`, which is the prefix of the work (`generate`, `evaluate/images`).
Ray puts `ray_` before the names and `_total` after them where it serves them to Prometheus.
"""

from ray.util.metrics import Counter, Gauge, Histogram

from valign.serving.audit import Audit
from valign.stages.work import ShardReport

COUNTERS = {
    "valign_images": "Images that were made, scored or encoded; texts that were encoded.",
    "valign_scores": "Scores that were given, one per image and score.",
    "valign_quarantined": "Images that could not be used.",
    "valign_shards": "Shards that were done.",
    "valign_worker_seconds": "Seconds that workers spent on shards, over all workers.",
}


class StageCounters:
    """The counters of one worker of a stage."""

    def __init__(self, stage: str) -> None:
        self.counters = {name: Counter(name, about, ("stage",)) for name, about in COUNTERS.items()}
        self.tags = {"stage": stage}

    def add(self, report: ShardReport, seconds: float) -> None:
        """Count a shard that was done in some seconds."""
        done = {
            "valign_images": report.rows,
            "valign_scores": report.scores,
            "valign_quarantined": report.quarantined,
            "valign_shards": 1,
            "valign_worker_seconds": seconds,
        }
        for name, amount in done.items():
            if amount:  # Ray refuses to count nothing
                self.counters[name].inc(amount, self.tags)


class BatchSizes:
    """How large the batches of one part of the server are."""

    def __init__(self, part: str) -> None:
        self.sizes = Histogram(
            "valign_serve_batch_size",
            "Images or pictures of a batch.",
            boundaries=[1, 2, 4, 8, 16, 32, 64],
            tag_keys=("part",),
        )
        self.tags = {"part": part}

    def add(self, size: int) -> None:
        """Count a batch."""
        self.sizes.observe(size, self.tags)


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
