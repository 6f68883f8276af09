"""Load the scorers a recipe names and run them over images, each network once per image.

In: scorer references, then uint8 images with their prompts. Out: named score columns. An image that
a scorer fails on gets NaN and the reason, and the others go on. What scores mean for labels and
metrics is not decided here.

Kinds: `clip` (source: a CLIP model; column `<name>_score`), `zero_shot` (a CLIP model and
options.classes; column `<name>`), `toxicity_head` (a head's folder, whose config.json names its
CLIP), and `package.module:Class` (a user's own; see `score_columns.Scorer`).
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from valign.models.clip import Clip
from valign.models.score_columns import ColumnInfo, ScoreColumn, Scorer
from valign.models.toxicity import CONFIG, ToxicityHead
from valign.models.zero_shot import ClipScore, Toxicity, ZeroShot
from valign.records import Prompt

KINDS = ("clip", "zero_shot", "toxicity_head")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerRef:
    """One scorer to load; `source` is a local path or a hub id."""

    name: str
    kind: str
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


class EmbeddingScorer(Protocol):
    """A scorer that reads the image embeddings of one CLIP."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the scores could."""
        ...

    @property
    def columns(self) -> Mapping[str, ColumnInfo]:
        """Every column that `read` returns."""
        ...

    def read(self, image_ND: Tensor, prompts: Sequence[Prompt]) -> dict[str, ScoreColumn]:
        """Return the columns for unit image embeddings and the images' prompts."""
        ...


class SharedClip:
    """All scorers of one CLIP as one scorer, so that an image is embedded once."""

    def __init__(self, clip: Clip, readers: Sequence[EmbeddingScorer]) -> None:
        self._clip = clip
        self._readers = readers
        self.fingerprint = clip.fingerprint
        self.columns = {name: info for r in readers for name, info in r.columns.items()}

    def score(self, images_NHWC: np.ndarray, prompts: Sequence[Prompt]) -> dict[str, ScoreColumn]:
        """Embed the images, then let every scorer read the embeddings."""
        image_ND = self._clip.embed_images(images_NHWC)
        return {k: v for r in self._readers for k, v in r.read(image_ND, prompts).items()}


class ScorerGroup:
    """Scorers that run together.

    Attributes:
        columns: what each column means.
        fingerprints: scorer name -> hash that changes whenever its scores could.
    """

    def __init__(self, scorers: Sequence[Scorer], fingerprints: Mapping[str, str]) -> None:
        self._scorers = list(scorers)
        self.fingerprints = dict(fingerprints)
        self.columns: dict[str, ColumnInfo] = {}
        for scorer in scorers:
            if both := self.columns.keys() & scorer.columns.keys():
                raise ValueError(
                    f"two scorers give the column {sorted(both)[0]!r}: give them different names"
                )
            self.columns |= scorer.columns

    def score(
        self, images_NHWC: np.ndarray, prompts: Sequence[Prompt | str]
    ) -> dict[str, ScoreColumn]:
        """Score uint8 images.

        Args:
            images_NHWC: uint8, (N, H, W, 3), N at least 1.
            prompts: what each image was made from; a text alone stands for a prompt without labels.

        Raises:
            ValueError: not one prompt per image, or the images have another form.
            RuntimeError: a scorer failed on all of several images, so the fault is its own.
        """
        if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or not len(images_NHWC):
            raise ValueError(
                "images must be a uint8 array of (N, H, W, 3), got "
                f"{images_NHWC.dtype} of {images_NHWC.shape}"
            )
        if len(prompts) != len(images_NHWC):
            raise ValueError(f"{len(images_NHWC)} images with {len(prompts)} prompts")
        asked = [p if isinstance(p, Prompt) else Prompt(text=p, scene=p) for p in prompts]
        return {
            name: column
            for scorer in self._scorers
            for name, column in _tolerant(scorer, images_NHWC, asked).items()
        }


def _tolerant(
    scorer: Scorer, images_NHWC: np.ndarray, prompts: Sequence[Prompt]
) -> Mapping[str, ScoreColumn]:
    """Score all images at once, or one by one if that fails, with NaN and the reason for some."""
    try:
        return scorer.score(images_NHWC, prompts)
    except (
        Exception
    ) as error:  # a user's scorer may raise anything, and one image must not stop all
        if len(prompts) == 1:
            return _failed(scorer.columns, f"{type(error).__name__}: {error}")
        parts = [
            _tolerant(scorer, images_NHWC[row : row + 1], prompts[row : row + 1])
            for row in range(len(prompts))
        ]
        if all(column.errors[0] for part in parts for column in part.values()):
            raise RuntimeError(
                f"{type(scorer).__name__} failed on every one of {len(prompts)} images: {error}"
            ) from error
    return {
        name: ScoreColumn(
            np.concatenate([part[name].values for part in parts]),
            info.classes,
            [part[name].errors[0] for part in parts],
        )
        for name, info in scorer.columns.items()
    }


def _failed(columns: Mapping[str, ColumnInfo], reason: str) -> dict[str, ScoreColumn]:
    return {
        name: ScoreColumn(
            np.full((1, len(info.classes)) if info.classes else 1, np.nan, np.float32),
            info.classes,
            [reason],
        )
        for name, info in columns.items()
    }


def load_scorers(refs: Sequence[ScorerRef], device: str = "cpu") -> ScorerGroup:
    """Load scorers; those that name the same CLIP share it.

    Raises:
        ValueError: an unknown kind, a model that does not load, a class that is no scorer, or two
            scorers with the same columns.
    """
    clips: dict[str, Clip] = {}
    readers: dict[str, list[EmbeddingScorer]] = {}
    own: list[Scorer] = []
    fingerprints: dict[str, str] = {}
    for ref in refs:
        if ref.name in fingerprints:
            raise ValueError(f"two scorers are named {ref.name!r}: give them different names")
        loaded: EmbeddingScorer | Scorer
        if ":" in ref.kind:
            loaded = _load_class(ref)
            own.append(loaded)
        elif ref.kind in KINDS:
            source = _backbone(ref)
            if source not in clips:
                clips[source] = Clip(source, device)
            loaded = _load_reader(ref, clips[source])
            readers.setdefault(source, []).append(loaded)
        else:
            raise ValueError(
                f"the scorer {ref.name!r} has the kind {ref.kind!r}; it must be one of "
                f"{', '.join(KINDS)}, or package.module:Class"
            )
        fingerprints[ref.name] = loaded.fingerprint
    shared = [SharedClip(clips[source], readers[source]) for source in readers]
    return ScorerGroup([*shared, *own], fingerprints)


def _backbone(ref: ScorerRef) -> str:
    """Return the source of the CLIP a scorer reads."""
    if ref.kind != "toxicity_head":
        source = ref.source
    else:
        file = Path(ref.source) / CONFIG
        if not file.is_file():
            raise ValueError(f"the toxicity head {ref.name!r} has no {CONFIG} at {ref.source}")
        named = str(json.loads(file.read_text(encoding="utf-8"))["clip"])
        beside = file.parent / named
        source = str(beside) if beside.is_dir() else named
    return str(Path(source).resolve()) if Path(source).is_dir() else source


def _load_reader(ref: ScorerRef, clip: Clip) -> EmbeddingScorer:
    if ref.kind == "clip":
        return ClipScore(ref.name, clip)
    if ref.kind == "zero_shot":
        return ZeroShot(ref.name, clip, ref.options.get("classes", ()))
    return Toxicity(ref.name, clip, ToxicityHead.load(ref.source))


def _load_class(ref: ScorerRef) -> Scorer:
    """Make a user's scorer: `Class(**options)`, with `source=` among them if one is named."""
    module, _, name = ref.kind.partition(":")
    options = {**ref.options, **({"source": ref.source} if ref.source else {})}
    try:
        scorer = getattr(importlib.import_module(module), name)(**options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the scorer {ref.name!r} ({ref.kind}) could not be made: {error}"
        ) from error
    if not isinstance(scorer, Scorer):
        raise ValueError(
            f"{ref.kind} is no scorer: it needs the attributes `fingerprint` and `columns` and the "
            "method `score(images, prompts)`; see valign.models.score_columns.Scorer"
        )
    return scorer
