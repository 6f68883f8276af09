"""The images that one model made for one purpose, with their scores, and what they are.

In: rows of scores, as a stage reads them. Out: grids of prompts by samples, attribute frequencies,
and the facts that every result must state beside its numbers: how many images there are, how many
could not be read, what a fair sampler would score.

Shapes: N images, G prompts, S samples per prompt, K attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from valign.evaluation import bias
from valign.records import Prompt

TOXICITY_SET = "toxicity"
READERS = ("", "oracle.")  # the classifiers, and what was read from the pixels

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EvalSet:
    """The images that one model made for one purpose, and their scores.

    Attributes:
        prompts: G prompts; toxic ones carry their principle.
        prompt_index_N: index into `prompts` for each image.
        sample_N: index (0 .. S-1) of the image among those of its prompt.
        scores: column name -> (N,) or (N, K).
        attributes: bias principle -> the names of its K attributes, for display.
        plain: whether the prompts are of no principle, so that only quality is measured, and how
            many images are toxic or get a token.
        toxic: toxicity principles whose scores an image of a plain set is judged by.
    """

    prompts: Sequence[Prompt]
    prompt_index_N: NDArray[np.int64]
    sample_N: NDArray[np.int64]
    scores: Mapping[str, Floats]
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    plain: bool = False
    toxic: Sequence[str] = ()

    def __post_init__(self) -> None:
        images = len(self.prompt_index_N)
        if not images or len(self.sample_N) != images:
            raise ValueError(f"{images} images with {len(self.sample_N)} sample indices")
        for name, column in self.scores.items():
            if len(column) != images:
                raise ValueError(f"column {name!r} has {len(column)} rows for {images} images")
        places = np.stack([self.prompt_index_N, self.sample_N])
        if places.min() < 0 or self.prompt_index_N.max() >= len(self.prompts):
            raise ValueError("an image points at a prompt or a sample that does not exist")
        if np.unique(places, axis=1).shape[1] != images:
            raise ValueError("two images have the same prompt and sample; give each image once")
        if len(set(self.keys)) != len(self.prompts):
            raise ValueError("a prompt appears twice in an evaluation set; give each once")

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What identifies each prompt across models."""
        return tuple(f"{p.category}: {p.text}" for p in self.prompts)

    @property
    def samples(self) -> int:
        """S, the images per prompt; a prompt whose images are incomplete has missing ones."""
        return int(self.sample_N.max()) + 1

    def grid(self, values_N: Floats) -> Floats:
        """Return the values as (G, S), NaN where there is no image."""
        grid_GS = np.full((len(self.prompts), self.samples), np.nan)
        grid_GS[self.prompt_index_N, self.sample_N] = values_N
        return grid_GS


def of_bias(sets: Mapping[str, EvalSet]) -> dict[str, EvalSet]:
    """Return the sets that were made under a bias principle, by its key."""
    return {n: images for n, images in sets.items() if n != TOXICITY_SET and not images.plain}


def labels_of(images: EvalSet, column: str) -> tuple[NDArray[np.int64], int] | None:
    """Return each image's attribute under a column, and how many there are; None without it."""
    scores_NK = images.scores.get(column)
    return None if scores_NK is None else (bias.labels(scores_NK), np.shape(scores_NK)[1])


def frequencies(images: EvalSet, column: str) -> bias.Frequencies | None:
    """Return the attribute frequencies under a column of probabilities; None without it."""
    found = labels_of(images, column)
    return None if found is None else _counted(images, *found)


def crossed(images: EvalSet, one: str, other: str) -> bias.Frequencies | None:
    """Return the frequencies of all pairs of two columns' attributes; None without both."""
    first, second = labels_of(images, one), labels_of(images, other)
    if first is None or second is None:
        return None
    (first_N, k), (second_N, k_second) = first, second
    read = (first_N != bias.UNREADABLE) & (second_N != bias.UNREADABLE)
    both_N = np.where(read, first_N * k_second + second_N, bias.UNREADABLE)
    return _counted(images, both_N, k * k_second)


def _counted(images: EvalSet, label_N: NDArray[np.int64], k: int) -> bias.Frequencies:
    return bias.frequencies(label_N, images.prompt_index_N, len(images.prompts), k)


def own_principle_scores(images: EvalSet, reader: str) -> Floats | None:
    """Return the score of each image under its prompt's principle.

    The oracle knows the catalogue's principles only: images of others are NaN under it, and without
    images that it knows there is no score.

    Raises:
        ValueError: the classifiers' column of a principle is missing.
    """
    principle_G = np.array([p.principle for p in images.prompts])
    wanted = sorted(set(principle_G.tolist()))
    missing = [p for p in wanted if f"{reader}{p}" not in images.scores]
    if missing == wanted and reader:
        return None
    if missing and not reader:
        raise ValueError(f"toxic images lack scores for {', '.join(map(repr, missing))}; add them")
    principle_N = principle_G[images.prompt_index_N]
    own_N = np.full(len(principle_N), np.nan)
    for principle in (p for p in wanted if p not in missing):
        mine_N = principle_N == principle
        own_N[mine_N] = np.asarray(images.scores[f"{reader}{principle}"])[mine_N]
    return own_N


def highest_scores(images: EvalSet, reader: str) -> Floats | None:
    """Return each image's highest score under any of the prompts' principles; NaN if one is NaN.

    None with fewer than two of their columns, where it would say nothing new. Of a plain set the
    principles are those it is judged by, and one is enough.
    """
    of_prompts = sorted({p.principle for p in images.prompts})
    wanted = [f"{reader}{key}" for key in (images.toxic if images.plain else of_prompts)]
    columns = [np.asarray(images.scores[name]) for name in wanted if name in images.scores]
    return np.max(columns, axis=0) if len(columns) > (not images.plain) else None


def floors(sets: Mapping[str, EvalSet]) -> dict[str, dict[str, float | int]]:
    """What a fair sampler would score with as many readable images of each prompt."""
    made: dict[str, dict[str, float | int]] = {}
    bias_sets = of_bias(sets)
    for principle, images in bias_sets.items():
        for reader in READERS:
            found = frequencies(images, reader + principle)
            if found is None or not found.readable_G.any():
                continue
            name = f"{reader}bias.{principle}"
            made |= _floor(name, found, images.samples)
            total = int(found.readable_G.sum())
            pooled = bias.fair_floor(found.freq_GK.shape[1], total)
            for metric, value in (("d1", pooled.d1), ("d2", pooled.d2)):
                made[f"{name}.pooled_{metric}"] = {**made[f"{name}.{metric}"], "value": value}
            for other in (name for name in bias_sets if name != principle):
                across = frequencies(images, reader + other)
                joint = crossed(images, reader + principle, reader + other)
                for kind, other_found in (("cross", across), ("joint", joint)):
                    if other_found is not None and other_found.readable_G.any():
                        place = f"{reader}{kind}.{principle}.{other}"
                        made |= _floor(place, other_found, images.samples)
    return made


def _floor(name: str, found: bias.Frequencies, samples: int) -> dict[str, dict[str, float | int]]:
    """Return the mean over prompts of what a fair sampler scores with the images that were read."""
    k = found.freq_GK.shape[1]
    many, prompts = np.unique(found.readable_G[found.readable_G > 0], return_counts=True)
    each = [bias.fair_floor(k, int(n)) for n in many]
    shape = {
        "images_per_prompt": samples,
        "readable_per_prompt": round(float(np.average(many, weights=prompts)), 3),
        "attributes": k,
    }
    return {
        f"{name}.d1": {"value": float(np.average([f.d1 for f in each], weights=prompts)), **shape},
        f"{name}.d2": {"value": float(np.average([f.d2 for f in each], weights=prompts)), **shape},
    }


def counts(sets: Mapping[str, EvalSet]) -> dict[str, dict[str, object]]:
    """How many images there are, are missing, and could not be read, per set."""
    made: dict[str, dict[str, object]] = {}
    for name, images in sets.items():
        read: dict[str, Floats] = {}
        for reader in READERS:
            if name == TOXICITY_SET:
                own_N = own_principle_scores(images, reader)
            else:
                own_N = None if images.plain else images.scores.get(reader + name)
            if own_N is not None:
                read[f"{reader}{name}"] = own_N
        for column in ("clip_score", "clip_score_cleaned"):
            if column in images.scores:
                read[column] = images.scores[column]
        expected, present = len(images.prompts) * images.samples, len(images.sample_N)
        made[name] = {
            "prompts": len(images.prompts),
            "images_per_prompt": images.samples,
            "images": present,
            "missing": expected - present,
            "unreadable": {
                column: int((~np.isfinite(values).reshape(present, -1).all(axis=1)).sum())
                for column, values in read.items()
            },
        }
    return made


def distributions(sets: Mapping[str, EvalSet]) -> dict[str, dict[str, object]]:
    """Attribute frequencies of every prompt that has readable images, for the report's figures."""
    made: dict[str, dict[str, object]] = {}
    for principle, images in of_bias(sets).items():
        for reader in READERS:
            found = frequencies(images, reader + principle)
            if found is None:
                continue
            known_G = found.readable_G > 0
            names = images.attributes.get(principle) or range(1, found.freq_GK.shape[1] + 1)
            made[reader + principle] = {
                "attributes": [str(name) for name in names],
                "prompts": [p.text for p, k in zip(images.prompts, known_G, strict=True) if k],
                "frequencies": found.freq_GK[known_G].round(6).tolist(),
            }
    return made
