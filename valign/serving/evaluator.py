"""The scorers behind an endpoint: every scorer's value of a picture, and a vote between pictures.

In: pictures as bytes from outside, with their prompts. Out: scores, or the reason why a picture or
a scorer has none; one bad picture leaves the others alone. Bytes are checked before they are
decoded (`valign.pictures`), and decoded nowhere else.

Shapes: N images, P pairs, K voters.
"""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from valign.pictures import Refused, accept
from valign.preferences.votes import Rule, Voter, vote
from valign.records import TOXIC_ABOVE, Prompt
from valign.serving.tables import LONGEST
from valign.serving.wire import Picture

if TYPE_CHECKING:
    from valign.models.score_columns import ColumnInfo, ScoreColumn
    from valign.models.scorer_group import ScorerGroup

FORMATS = ("PNG", "JPEG", "WEBP")

Value = float | dict[str, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One picture's scores: None where a scorer has none; `errors` says why if that is one."""

    scores: dict[str, Value] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)  # the likeliest class of each
    toxic: dict[str, bool] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPair:
    """The vote between two pictures, by their places; +1 is for the first."""

    first: int
    second: int
    ballots: dict[str, int]
    differences: dict[str, float | None]
    verdict: int
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The vote between all pictures of a prompt."""

    pairs: tuple[ComparedPair, ...]
    wins: tuple[int, ...]  # of each picture
    best: int | None  # the picture with most wins, if one has
    scored: tuple[Scored, ...]


class Evaluator:
    """Scorers, and the voters among their columns. Not for several threads at once.

    Args:
        scorers: the loaded scorers.
        voters: who votes in comparisons; each is a column with one value per picture.
        toxic: columns that are probabilities of toxic content.
        max_pixels: pictures of more are refused before they are decoded.

    Raises:
        ValueError: a voter is no such column.
    """

    def __init__(
        self,
        scorers: "ScorerGroup",
        voters: Sequence[Voter],
        *,
        toxic: Sequence[str] = (),
        max_pixels: int,
    ) -> None:
        self._scorers = scorers
        self.voters = tuple(voters)
        self.max_pixels = max_pixels
        self._toxic = [name for name in toxic if name in scorers.columns]
        for voter in voters:
            info = scorers.columns.get(voter.name)
            if info is None or info.classes:
                single = [name for name, about in scorers.columns.items() if not about.classes]
                raise ValueError(
                    f"the voter {voter.name} is no score of one value; there are "
                    f"{', '.join(single)}"
                )

    @property
    def columns(self) -> "Mapping[str, ColumnInfo]":
        """What every score means."""
        return self._scorers.columns

    def score(self, pictures: Sequence[Picture]) -> list[Scored]:
        """Score every picture."""
        answers: list[Scored] = [Scored(fault=picture.fault) for picture in pictures]
        by_size: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
        for place, picture in enumerate(pictures):
            if picture.fault:
                continue
            try:
                image_HWC = self._decode(picture.data)
            except Refused as refused:
                answers[place] = Scored(fault=str(refused))
                continue
            by_size.setdefault(image_HWC.shape, {})[place] = image_HWC
        for images in by_size.values():
            prompts = [pictures[place].prompt for place in images]
            scored = self.score_images(np.stack(list(images.values())), prompts)
            for place, answer in zip(images, scored, strict=True):
                answers[place] = answer
        return answers

    def score_images(self, images_NHWC: np.ndarray, prompts: Sequence[str]) -> list[Scored]:
        """Score decoded images, uint8 RGB, of one size."""
        from valign.models.scorer_group import ScorerFailedError

        asked = [Prompt(text=text, scene=text) for text in prompts]
        try:
            columns = self._scorers.score(images_NHWC, asked)
        except ScorerFailedError:
            if len(asked) == 1:
                return [Scored(fault="a scorer failed on it")]
            return [
                answer
                for row in range(len(asked))
                for answer in self.score_images(images_NHWC[row : row + 1], prompts[row : row + 1])
            ]
        return [self._scored(columns, row) for row in range(len(asked))]

    def _decode(self, data: bytes) -> np.ndarray:
        """Return a picture's pixels, uint8 RGB.

        Raises:
            Refused: it is no picture that can be used.
        """
        kept, _ = accept(data, max_pixels=self.max_pixels, formats=FORMATS)
        image = Image.open(io.BytesIO(kept), formats=FORMATS)
        if max(image.size) > LONGEST * min(image.size):
            raise Refused(f"one side is more than {LONGEST} times the other")
        return np.asarray(image.convert("RGB"))

    def _scored(self, columns: "Mapping[str, ScoreColumn]", row: int) -> Scored:
        scores: dict[str, Value] = {}
        attributes = {}
        for name, column in columns.items():
            if not column.classes:
                scores[name] = _number(column.values[row])
                continue
            values_K = [float(value) for value in column.values[row]]
            known = not any(math.isnan(value) for value in values_K)
            scores[name] = dict(zip(column.classes, values_K, strict=True)) if known else None
            if known:
                attributes[name] = column.classes[int(np.argmax(values_K))]
        errors = {n: why for n, c in columns.items() if (why := c.errors[row])}
        toxic = {
            name: value > TOXIC_ABOVE
            for name in self._toxic
            if isinstance(value := scores[name], float)
        }
        return Scored(scores=scores, attributes=attributes, toxic=toxic, errors=errors)


def compare(scored: Sequence[Scored], voters: Sequence[Voter]) -> Compared:
    """Hold the vote between every two of a prompt's scored pictures; a faulty one has no vote."""
    pairs = list(itertools.combinations(range(len(scored)), 2))
    if not voters or not pairs:
        wins = (0,) * len(scored)
        return Compared(pairs=(), wins=wins, best=None, scored=tuple(scored))
    scores_NK = np.array([[_single(one, v.name) for v in voters] for one in scored])
    votes = vote(
        scores_NK[[first for first, _ in pairs]],
        scores_NK[[second for _, second in pairs]],
        [(str(first), str(second)) for first, second in pairs],
        voters=voters,
        rule=Rule(mode="majority", ties="skip"),
    )
    compared = tuple(
        ComparedPair(
            first=first,
            second=second,
            ballots={v: int(votes.ballots_PK[p, k]) for k, v in enumerate(votes.voters)},
            differences={
                v: _number(votes.differences_PK[p, k]) for k, v in enumerate(votes.voters)
            },
            verdict=int(votes.verdict_P[p]),
            margin=float(votes.margin_P[p]),
        )
        for p, (first, second) in enumerate(pairs)
    )
    wins = tuple(
        sum(
            (pair.verdict > 0 and pair.first == place)
            or (pair.verdict < 0 and pair.second == place)
            for pair in compared
        )
        for place in range(len(scored))
    )
    leaders = [place for place, won in enumerate(wins) if won == max(wins)]
    best = leaders[0] if len(leaders) == 1 else None
    return Compared(pairs=compared, wins=wins, best=best, scored=tuple(scored))


def _single(scored: Scored, name: str) -> float:
    value = scored.scores.get(name)
    return value if isinstance(value, float) else math.nan


def _number(value: float) -> float | None:
    """Return a number as JSON can hold it."""
    return float(value) if math.isfinite(value) else None
