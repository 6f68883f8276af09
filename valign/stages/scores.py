"""Read the plan and the scores of a stage as aligned columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.evaluation import bias
from valign.stages.images import parse_attributes
from valign.storage import layout, tables
from valign.storage.objects import Store

FACTS = ("text", "scene", "role", "category", "principle", "concept", "attributes", "sample")


@dataclass(frozen=True)
class Scores:
    """Columns over the same images: facts of the plan (lists) and scores, (N, K) arrays."""

    facts: dict[str, list[Any]]
    scored: dict[str, NDArray[np.float32]]

    def __getitem__(self, name: str) -> list[Any]:
        return self.facts[name]

    def __len__(self) -> int:
        return len(self.facts["image_id"])

    def values(self, name: str) -> NDArray[np.float32]:
        """Return a score's values (N, K); NaN where the scorer failed.

        Raises:
            LookupError: no scorer of the recipe gives this column.
        """
        if name not in self.scored:
            raise LookupError(
                f"nothing was scored as {name!r}; the recipe's scorers give "
                f"{', '.join(self.scored)}. Add a scorer for it under score.scorers."
            )
        return self.scored[name]

    def classified(self, name: str) -> NDArray[np.int64]:
        """Return the class (0 .. K-1) with the largest value, -1 where nothing was readable."""
        return bias.labels(self.values(name))

    def attribute(self, key: str, classes: Sequence[str]) -> NDArray[np.int64]:
        """Return the class that an image's prompt named, -1 if it named none."""
        asked = (dict(parse_attributes(text)).get(key) for text in self["attributes"])
        return np.array([classes.index(a) if a in classes else -1 for a in asked], np.int64)

    def equals(self, name: str, value: str) -> NDArray[np.bool_]:
        """Return where a fact has this value."""
        return np.array([entry == value for entry in self[name]], dtype=bool)

    def take(self, rows: NDArray[np.int64]) -> "Scores":
        """Return some of the images, in the order of `rows`."""
        facts = {name: [column[row] for row in rows] for name, column in self.facts.items()}
        return Scores(facts, {name: values[rows] for name, values in self.scored.items()})


def read_scores(store: Store, source: str = "generate", prefix: str = "score") -> Scores:
    """Return all images that have been scored under `prefix`, in the order of their plan."""
    wanted = ("image_id", *FACTS, "cleaned")
    plan = tables.lists(tables.read(store, layout.plan(source), tables.PLAN, wanted))
    row_of = {image: row for row, image in enumerate(plan["image_id"])}
    rows: list[int] = []
    scored: dict[str, list[NDArray[np.float32]]] = {}
    for key in store.list(layout.parts(prefix)):
        part = tables.read_scores(store, key)
        if not len(part):
            continue  # all of its images were quarantined or purged
        rows += [row_of[image] for image in part["image_id"].to_pylist()]
        for name in part.column_names:
            if name != "image_id" and not name.endswith(".error"):
                scored.setdefault(name, []).append(tables.floats(part[name]))
    facts = {name: [column[row] for row in rows] for name, column in plan.items()}
    return Scores(facts, {name: np.concatenate(parts) for name, parts in scored.items()})
