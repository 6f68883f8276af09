"""A metric of one model as values of its prompts, so that models can be compared prompt by prompt.

In: values per prompt. Out: intervals of a metric, of a difference, of a ratio, over the prompts
that all sides have. Which metrics there are is not decided here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.evaluation import intervals
from valign.evaluation.intervals import Side, Statistic
from valign.records import digest

Named = Mapping[str, "Estimate"]


@dataclass(frozen=True)
class Estimate:
    """What one model showed of each prompt.

    Attributes:
        rows: a prompt's key -> its V values; NaN where nothing could be read.
        statistic: what the means over prompts make; none: the mean of the only value.
    """

    rows: Mapping[str, NDArray[np.float64]]
    statistic: Statistic | None = None

    @classmethod
    def of(
        cls, keys: Sequence[str], values_GV: ArrayLike, statistic: Statistic | None = None
    ) -> "Estimate":
        """Return an estimate from rows in the order of keys; (G,) stands for (G, 1)."""
        values = np.asarray(values_GV, dtype=np.float64)
        rows_GV = values[:, None] if values.ndim == 1 else values
        return cls(dict(zip(keys, rows_GV, strict=True)), statistic)

    @property
    def is_mean(self) -> bool:
        """Whether the metric is the mean of one value per prompt."""
        return self.statistic is None

    def side(self, keys: Sequence[str]) -> Side:
        """Return the rows of some prompts, for an interval."""
        rows_GV = np.stack([self.rows[key] for key in keys])
        return Side(rows_GV) if self.statistic is None else Side(rows_GV, self.statistic)


def summarise(
    sides: Sequence[Named],
    interval: Callable[..., intervals.Interval | None],
    **options: Any,
) -> dict[str, dict[str, float | int]]:
    """Apply an interval to every metric that all sides have for two prompts or more."""
    made = {}
    for metric, first in sides[0].items():
        if not all(metric in side for side in sides):
            continue
        # Sorted, so that the resamples do not depend on the order in which prompts were read.
        keys = sorted(set(first.rows).intersection(*(side[metric].rows for side in sides)))
        if not keys:
            continue
        rows = [side[metric].side(keys) for side in sides]
        if np.all([one.known_G for one in rows], axis=0).sum() >= 2:
            result = interval(*rows, **options)
            if result is not None:
                made[metric] = result.as_dict()
    return made


def per_prompt(models: Mapping[str, Named]) -> dict[str, Any]:
    """Return the prompts and, per model and metric that is a mean, a value for each of them.

    Prompts are named by a hash: that is enough to pair two results, and keeps toxic texts, and what
    a user purges, out of a file that is passed on. None stands for a prompt that a metric has no
    value of. Values are rounded to six digits.
    """
    found = {key for named in models.values() for e in named.values() for key in e.rows}
    keys = sorted(found)
    return {
        "prompts": [digest(key)[:16] for key in keys],
        "values": {
            model: {
                metric: [_plain(estimate.rows.get(key)) for key in keys]
                for metric, estimate in named.items()
                if estimate.is_mean
            }
            for model, named in models.items()
        },
    }


def _plain(row: NDArray[np.float64] | None) -> float | None:
    return None if row is None or not np.isfinite(row[0]) else round(float(row[0]), 6)
