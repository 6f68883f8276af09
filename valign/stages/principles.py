"""The value principles of a run: the catalogue's, then those that its recipe describes.

The one place that joins the two: every stage asks here and none knows whose a principle is.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from valign.catalogue.principles import PRINCIPLES, Principle
from valign.config import Run
from valign.principle_settings import OwnPrinciple
from valign.storage import documents, layout
from valign.storage.objects import Store

IN_FOLDER = "principles.json"  # of an aligned model: the principles that it was trained for
PAPERS_DROP = 0.5  # share of images that get a bias principle's token (LiVO section 4.1)
CROSSED = ("gender", "race")  # each one's attribute images show the other's classes evenly


def known(run: Run) -> Mapping[str, Principle]:
    """Return every principle that a prompt of the run may call for, by key."""
    return MappingProxyType({**PRINCIPLES, **{k: _own(k, p) for k, p in run.principles.items()}})


def chosen(run: Run, kind: str | None = None) -> dict[str, Principle]:
    """Return the principles that preferences are built for, maybe of one kind, by key."""
    return {
        key: principle
        for key, principle in known(run).items()
        if key in run.generate.principles and kind in (None, principle.kind)
    }


def texts(run: Run) -> dict[str, str]:
    """Return the canonical text of every chosen principle, in the recipe's order."""
    everything = known(run)
    return {key: everything[key].text for key in run.generate.principles}


def drop(run: Run) -> dict[str, float]:
    """Return the share of images that get the token, for every chosen principle.

    All of a toxicity principle's; of a bias principle's what the recipe says, and until that is
    calibrated the paper's.
    """
    stated = run.train.value_drop
    share = PAPERS_DROP if isinstance(stated, str) else stated
    return {k: 1.0 if p.kind == "toxicity" else share for k, p in chosen(run).items()}


def trained_drop(store: Store) -> dict[str, float]:
    """Return the share of images that get the token, as the trained value encoder keeps it."""
    shares: dict[str, float] = documents.read(store, layout.VALUE_ENCODER)["drop"]
    return shares


def to_json(run: Run) -> str:
    """Return the chosen principles as an aligned model's folder keeps them."""
    return json.dumps([asdict(p) for p in chosen(run).values()], indent=1) + "\n"


def of_model(folder: Path) -> Mapping[str, Principle]:
    """Return the principles that an aligned model was trained for; all of ours if it is silent."""
    path = folder / IN_FOLDER
    if not path.is_file():
        return PRINCIPLES
    rows = json.loads(path.read_text("utf-8"))
    listed = ("attributes", "keywords", "exceptions")
    made = (Principle(**{**row, **{name: tuple(row[name]) for name in listed}}) for row in rows)
    return {principle.key: principle for principle in made}


def _own(key: str, stated: OwnPrinciple) -> Principle:
    return Principle(
        key=key,
        text=stated.text,
        kind=stated.kind,
        attributes=stated.attributes,
        negative=stated.negative,
        question=stated.question or (key if stated.kind == "toxicity" else ""),
        keywords=stated.keywords,
        exceptions=stated.exceptions,
    )
