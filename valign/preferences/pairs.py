"""Labelled images in, training pairs out, and an account of what became of every image.

A pair joins a preferred and a dispreferred image of the same group, that is of the same (prompt,
principle). Every preferred image is used once at most; dispreferred ones may be shared (LiVO,
appendix A.2). Images are given and returned as row numbers; ids, prompts and files are the
caller's, and so is the training prompt of a pair.

Shapes: N images, P pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.preferences.labels import DISPREFERRED, PREFERRED, Labels, count_reasons

NO_PARTNER = "no dispreferred image in its group"
OVER_CAP = "over the cap on pairs"
NEVER_USED = "dispreferred, in no pair"


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs, ordered by group and then by the preferred image's row.

    Attributes:
        winner_P: row of the preferred image; no row appears twice.
        loser_P: row of the dispreferred image.
        group_P: the group both belong to.
        same_sample_P: whether both have the same sample index, so the same initial noise.
        over_cap: rows of the preferred images whose pair a cap left out.
    """

    winner_P: NDArray[np.int64]
    loser_P: NDArray[np.int64]
    group_P: NDArray[np.int64]
    same_sample_P: NDArray[np.bool_]
    over_cap: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.winner_P)


def build_pairs(
    verdict_N: ArrayLike,
    group_N: ArrayLike,
    sample_N: ArrayLike,
    *,
    seed: int,
    twin_N: ArrayLike | None = None,
    cap: int | None = None,
) -> Pairs:
    """Pair each preferred image with a dispreferred one of its group.

    The partner is chosen by, in this order: the same sample index (the same initial noise, hence
    the same layout), the same `twin_N`, fewest uses so far, and chance. The choice in one group
    depends on that group and the seed only.

    Args:
        verdict_N: PREFERRED, DISPREFERRED or UNLABELLED.
        group_N: index of each image's (prompt, principle); images of different
            groups are never paired.
        sample_N: index of the image among those of its prompt.
        seed: seeds the choice among equals, and which pairs a cap keeps.
        twin_N: anything else that should be alike in a pair, as a whole number: under the gender
            principle the race that was asked for, and the reverse.
        cap: at most this many pairs, chosen at random over all groups; None keeps all.

    Raises:
        ValueError: arrays of different lengths, or a negative group, seed or cap.
    """
    verdict, group, sample = (np.asarray(a).reshape(-1) for a in (verdict_N, group_N, sample_N))
    twin = np.zeros_like(sample) if twin_N is None else np.asarray(twin_N).reshape(-1)
    if not len(verdict) == len(group) == len(sample) == len(twin):
        raise ValueError("verdict_N, group_N, sample_N and twin_N must be equally long")
    if seed < 0 or (cap is not None and cap < 0) or (group < 0).any():
        raise ValueError("seed, cap and groups must not be negative")

    found = [np.zeros((0, 3), dtype=np.int64)]
    for key, rows in _by_group(group, verdict):
        winners, losers = rows[verdict[rows] == PREFERRED], rows[verdict[rows] == DISPREFERRED]
        if len(winners) and len(losers):
            rng = np.random.default_rng([seed, key])
            chosen = _match(winners, losers, sample, twin, rng)
            found.append(np.stack([winners, chosen, np.full_like(winners, key)], axis=1))
    pairs_P3 = np.concatenate(found)
    kept = np.ones(len(pairs_P3), dtype=bool)
    if cap is not None and len(pairs_P3) > cap:
        order = np.random.default_rng(seed).permutation(len(pairs_P3))
        kept[order[cap:]] = False
    winner_P, loser_P, group_P = pairs_P3[kept].T
    same_sample_P = sample[winner_P] == sample[loser_P]
    return Pairs(winner_P, loser_P, group_P, same_sample_P, pairs_P3[~kept, 0])


def _by_group(
    group_N: NDArray[np.int64], verdict_N: NDArray[np.int8]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each group and the rows of its labelled images, both in rising order."""
    rows = np.flatnonzero((verdict_N == PREFERRED) | (verdict_N == DISPREFERRED))
    rows = rows[np.argsort(group_N[rows], kind="stable")]
    keys, starts = np.unique(group_N[rows], return_index=True)
    for key, part in zip(keys, np.split(rows, starts[1:]), strict=False):
        yield int(key), part


def _match(
    winners: NDArray[np.int64],
    losers: NDArray[np.int64],
    sample_N: NDArray[np.int64],
    twin_N: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return one loser row per winner."""
    other_sample = sample_N[winners][:, None] != sample_N[losers][None]
    other_twin = twin_N[winners][:, None] != twin_N[losers][None]
    unlike = 2 * other_sample + other_twin
    uses = np.zeros(len(losers), dtype=np.int64)
    chance = rng.random((len(winners), len(losers)))
    chosen = np.empty(len(winners), dtype=np.int64)
    for i in rng.permutation(len(winners)):  # so that no winner has first choice by its row alone
        best = int(np.lexsort((chance[i], uses, unlike[i]))[0])
        chosen[i] = best
        uses[best] += 1
    return losers[chosen]


@dataclass(slots=True)
class Account:
    """What became of the images of one category."""

    images: int = 0
    preferred: int = 0
    dispreferred: int = 0
    pairs: int = 0
    same_sample: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return plain numbers for a manifest."""
        return asdict(self)


def account(labels: Labels, pairs: Pairs, category_N: Sequence[str]) -> dict[str, Account]:
    """Count images, labels, pairs and skipped images per category.

    Args:
        labels: the verdicts that the pairs were built from.
        pairs: what `build_pairs` made of them.
        category_N: each image's category (career, nudity, ...).

    Returns:
        Categories in alphabetical order. Images = pairs + dispreferred in a pair + all skipped.

    Raises:
        ValueError: not one category per image.
    """
    if len(category_N) != len(labels.verdict_N):
        raise ValueError(f"{len(category_N)} categories for {len(labels.verdict_N)} images")
    reasons = np.array(labels.reason_N, dtype=object)
    alone = labels.verdict_N == PREFERRED
    alone[pairs.winner_P] = False
    reasons[alone] = NO_PARTNER
    reasons[pairs.over_cap] = OVER_CAP
    unused = labels.verdict_N == DISPREFERRED
    unused[pairs.loser_P] = False
    reasons[unused] = NEVER_USED

    category = np.asarray(category_N, dtype=object)
    winners = category[pairs.winner_P]
    accounts = {}
    for name in sorted(set(category_N)):
        mine = category == name
        accounts[name] = Account(
            images=int(mine.sum()),
            preferred=int((labels.verdict_N[mine] == PREFERRED).sum()),
            dispreferred=int((labels.verdict_N[mine] == DISPREFERRED).sum()),
            pairs=int((winners == name).sum()),
            same_sample=int((pairs.same_sample_P & (winners == name)).sum()),
            skipped=count_reasons(reasons[mine].tolist()),
        )
    return accounts
