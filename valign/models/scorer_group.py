"""Run scorers over images, each network once per image, and keep what fails apart.

In: loaded scorers, then uint8 images with their prompts. Out: named score columns. An image that a
scorer fails on gets NaN and the reason, and the others go on. What the networks read can be
prepared ahead (`ScorerGroup.prepare`), on another thread than the one that scores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from valign.models.clip import Clip
from valign.models.clip_reader import ClipReader
from valign.models.score_columns import ColumnInfo, ScoreColumn, Scorer, ScorerInfo
from valign.records import Prompt


@runtime_checkable
class Preparing(Protocol):
    """A scorer whose network reads preprocessed images, which can be made ahead."""

    preprocessing: str
    """Equal for scorers that want the same."""

    def preprocess(self, images_NHWC: np.ndarray, /) -> Any:
        """Return what `score_prepared` reads."""
        ...

    def score_prepared(
        self, prepared: Any, prompts: Sequence[Prompt], /
    ) -> Mapping[str, ScoreColumn]:
        """Return the columns for preprocessed images and their prompts."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """A scorer with weights; a class of the user's need not say which."""

    version: str

    @property
    def weights(self) -> str:
        """sha256 (hex) of the weights that are its own."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch of uint8 images and, by kind of preprocessing, what networks read of it."""

    images_NHWC: np.ndarray
    forms: Mapping[str, Any]


class ScorerFailedError(RuntimeError):
    """A scorer failed on all of several images, or broke its own word: the fault is its own."""


class SharedClip:
    """All scorers of one CLIP as one scorer, so that an image is embedded once."""

    def __init__(self, clip: Clip, readers: Sequence[ClipReader]) -> None:
        self._clip = clip
        self._readers = readers
        self.preprocessing = clip.preprocessing
        self.preprocess = clip.preprocess
        self.columns = {name: info for r in readers for name, info in r.columns.items()}

    @property
    def fingerprint(self) -> str:
        """Changes whenever an embedding could."""
        return self._clip.fingerprint

    def score(self, images_NHWC: np.ndarray, prompts: Sequence[Prompt]) -> dict[str, ScoreColumn]:
        """Embed the images, then let every scorer read the embeddings."""
        return self.score_prepared(self.preprocess(images_NHWC), prompts)

    def score_prepared(
        self, pixels_NCHW: Tensor, prompts: Sequence[Prompt]
    ) -> dict[str, ScoreColumn]:
        """As `score`, of pixels that were preprocessed before."""
        image_ND = self._clip.embed_pixels(pixels_NCHW)
        scored: dict[str, ScoreColumn] = {}
        for reader in self._readers:

            def read(rows: slice, reader: ClipReader = reader) -> Mapping[str, ScoreColumn]:
                return reader.read(image_ND[rows], prompts[rows])

            scored |= _tolerant(read, len(prompts), reader)
        return scored


class ScorerGroup:
    """Scorers that run together.

    Args:
        scorers: what is run; they share nothing.
        named: name of each scorer of the recipe -> its kind and itself.

    Attributes:
        columns: what each column means.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        named: Mapping[str, tuple[str, ClipReader | Scorer]],
    ) -> None:
        self._scorers = list(scorers)
        self._named = dict(named)
        self.columns: dict[str, ColumnInfo] = {}
        for scorer in scorers:
            if both := self.columns.keys() & scorer.columns.keys():
                raise ValueError(
                    f"two scorers give the column {sorted(both)[0]!r}: give them different names, "
                    "or other classes"
                )
            self.columns |= scorer.columns

    @property
    def fingerprints(self) -> dict[str, str]:
        """Scorer name -> hash that changes whenever its scores could."""
        return {name: scorer.fingerprint for name, (_, scorer) in self._named.items()}

    def about(self) -> dict[str, ScorerInfo]:
        """Return what each scorer is; hashing large weights takes seconds."""
        return {
            name: ScorerInfo(
                kind=kind,
                version=scorer.version if isinstance(scorer, Weighted) else scorer.fingerprint,
                weights=scorer.weights if isinstance(scorer, Weighted) else "",
                fingerprint=scorer.fingerprint,
                columns=scorer.columns,
            )
            for name, (kind, scorer) in self._named.items()
        }

    def prepare(self, images_NHWC: np.ndarray) -> Prepared:
        """Preprocess images for all networks, once per kind of preprocessing.

        Safe on another thread than the one that scores. An image that cannot be preprocessed is
        no error here: it is told by `score`.

        Args:
            images_NHWC: uint8, (N, H, W, 3), N at least 1.

        Raises:
            ValueError: the images have another form.
        """
        if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or not len(images_NHWC):
            raise ValueError(
                "images must be a uint8 array of (N, H, W, 3), got "
                f"{images_NHWC.dtype} of {images_NHWC.shape}"
            )
        forms: dict[str, Any] = {}
        for scorer in self._scorers:
            if isinstance(scorer, Preparing) and scorer.preprocessing not in forms:
                try:
                    forms[scorer.preprocessing] = scorer.preprocess(images_NHWC)
                except (ValueError, OSError, RuntimeError, MemoryError):
                    continue  # scoring meets it again and finds which image it is
        return Prepared(images_NHWC, forms)

    def score(
        self, images: np.ndarray | Prepared, prompts: Sequence[Prompt | str]
    ) -> dict[str, ScoreColumn]:
        """Score images.

        Args:
            images: uint8, (N, H, W, 3), N at least 1, or what `prepare` made of them.
            prompts: what each image was made from; a text alone stands for a prompt without labels.

        Raises:
            ValueError: not one prompt per image, or the images have another form.
            ScorerFailedError: a scorer failed on all of several images, or gave other columns or
                numbers of values than it says.
        """
        prepared = images if isinstance(images, Prepared) else self.prepare(images)
        n_images = len(prepared.images_NHWC)
        if len(prompts) != n_images:
            raise ValueError(f"{n_images} images with {len(prompts)} prompts")
        asked = [p if isinstance(p, Prompt) else Prompt(text=p, scene=p) for p in prompts]
        scored: dict[str, ScoreColumn] = {}
        for scorer in self._scorers:

            def run(rows: slice, scorer: Scorer = scorer) -> Mapping[str, ScoreColumn]:
                whole = rows == slice(0, n_images)
                if whole and isinstance(scorer, Preparing):
                    form = prepared.forms.get(scorer.preprocessing)
                    if form is not None:
                        return scorer.score_prepared(form, asked)
                return scorer.score(prepared.images_NHWC[rows], asked[rows])

            scored |= _tolerant(run, n_images, scorer)
        return scored


def _tolerant(
    run: Callable[[slice], Mapping[str, ScoreColumn]], n_images: int, scorer: Any
) -> Mapping[str, ScoreColumn]:
    """Score all images at once, or one by one if that fails, with NaN and the reason for some."""
    try:
        scored = run(slice(0, n_images))
    except ScorerFailedError:
        raise
    except (
        Exception
    ) as error:  # a user's scorer may raise anything, and one image must not stop all
        first = error
    else:
        _check(scored, n_images, scorer)
        return scored
    if n_images == 1:
        return _failed(scorer.columns, f"{type(first).__name__}: {first}")
    parts = []
    for row in range(n_images):
        try:
            part = run(slice(row, row + 1))
        except Exception as error:  # as above
            part = _failed(scorer.columns, f"{type(error).__name__}: {error}")
        _check(part, 1, scorer)
        parts.append(part)
    if all(column.errors[0] for part in parts for column in part.values()):
        raise ScorerFailedError(
            f"{type(scorer).__name__} failed on every one of {n_images} images: {first}"
        ) from first
    return {
        name: ScoreColumn(
            np.concatenate([part[name].values for part in parts]),
            info.classes,
            [part[name].errors[0] for part in parts],
        )
        for name, info in scorer.columns.items()
    }


def _check(scored: Mapping[str, ScoreColumn], n_images: int, scorer: Any) -> None:
    """Make sure that a scorer gave a value (or NaN) per image for every column that it names."""
    kind = type(scorer).__name__
    if scored.keys() != scorer.columns.keys():
        raise ScorerFailedError(
            f"{kind} gave the columns {', '.join(sorted(scored)) or 'none'}, and its `columns` "
            f"names {', '.join(sorted(scorer.columns))}: make them the same"
        )
    for name, info in scorer.columns.items():
        column = scored[name]
        wanted = (n_images, len(info.classes)) if info.classes else (n_images,)
        if np.shape(column.values) != wanted or len(column.errors) != n_images:
            raise ScorerFailedError(
                f"{kind} gave values of {np.shape(column.values)} and {len(column.errors)} errors "
                f"in the column {name}, and {n_images} images need {wanted} and {n_images}"
            )


def _failed(columns: Mapping[str, ColumnInfo], reason: str) -> dict[str, ScoreColumn]:
    return {
        name: ScoreColumn(
            np.full((1, len(info.classes)) if info.classes else 1, np.nan, np.float32),
            info.classes,
            [reason],
        )
        for name, info in columns.items()
    }
