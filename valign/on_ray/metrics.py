"""Counters on Ray's metrics page and dashboard: what the workers of every stage have done.

Every counter has the tag `stage`, which is the prefix of the work (`generate`, `evaluate/images`).
Ray puts `ray_` before the names and `_total` after them where it serves them to Prometheus.
"""

from ray.util.metrics import Counter

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
