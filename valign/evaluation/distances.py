"""How far each model's images lie from the baseline's images of the same prompts, and how varied.

In: sets with a column `features`, (N, D). Out: FID and KID with intervals over prompts, and
diversity within a prompt. Half of a bias set may be the baseline's own images, by the method's
definition; they are counted, as a user gets them, too. Images of one noise are not compared with
each other in KID (see `feature_metrics.kid_jackknife`).
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from valign.evaluation import feature_metrics
from valign.evaluation.feature_metrics import GROUPS, jackknife
from valign.evaluation.sets import EvalSet

FEATURES = "features"
CLASSES = f"{FEATURES}_classes"  # class probabilities, of networks that have them
Floats = NDArray[np.float64]


def distances(
    models: Mapping[str, Mapping[str, EvalSet]], baseline: str
) -> dict[str, dict[str, dict[str, float | int | bool | str]]]:
    """Return "model - baseline" -> `SET.fid` and `SET.kid` -> value, low, high, n and facts.

    n counts prompts; `images` is the smaller side's. `reliable` says whether FID has enough images
    for its dimensions, and `read` which of the two to read. Sets of fewer than three prompts have
    no interval and are left out.
    """
    made = {}
    for model, sets in models.items():
        if model == baseline:
            continue
        found: dict[str, dict[str, float | int | bool | str]] = {}
        for name, images in sets.items():
            other = models[baseline].get(name)
            if other is not None and FEATURES in images.scores and FEATURES in other.scores:
                found |= _of_set(name, images, other)
        if found:
            made[f"{model} - {baseline}"] = found
    return made


def inception_scores(
    models: Mapping[str, Mapping[str, EvalSet]],
) -> dict[str, dict[str, dict[str, float | int]]]:
    """Return model -> set -> the inception score, with an interval over prompts.

    Of sets with a column of class probabilities and at least three prompts with an image.
    """
    made: dict[str, dict[str, dict[str, float | int]]] = {}
    for model, sets in models.items():
        for name, images in sets.items():
            if CLASSES in images.scores:
                p_NC, drawn = _readable(images, CLASSES)
                keys, prompt_N = np.unique([key for key, _ in drawn], return_inverse=True)
                if len(keys) >= 3:
                    found = jackknife(_inception_score(p_NC), prompt_N)
                    made.setdefault(model, {})[name] = {**found.as_dict(), "images": len(p_NC)}
    return made


def _inception_score(p_NC: Floats) -> Callable[[NDArray[np.bool_]], float]:
    # Rows are float32 softmaxes, which sum to 1 but for rounding.
    p = p_NC / p_NC.sum(axis=1, keepdims=True)
    return lambda use_N: feature_metrics.inception_score(p[use_N])


def diversity(sets: Mapping[str, EvalSet]) -> dict[str, list[float]]:
    """Return a prompt's key -> mean distance of its images, of each set that it is in."""
    found: dict[str, list[float]] = {}
    for images in sets.values():
        if FEATURES in images.scores:
            features_ND = np.asarray(images.scores[FEATURES], dtype=np.float64)
            grid_GSD = np.full((len(images.prompts), images.samples, features_ND.shape[1]), np.nan)
            grid_GSD[images.prompt_index_N, images.sample_N] = features_ND
            values_G = feature_metrics.diversity(grid_GSD)
            for key, value in zip(images.keys, values_G.tolist(), strict=True):
                found.setdefault(key, []).append(value)
    return found


def _of_set(
    name: str, images: EvalSet, other: EvalSet
) -> dict[str, dict[str, float | int | bool | str]]:
    (one_ND, made), (base_MD, base_made) = _readable(images), _readable(other)
    place = {key: g for g, key in enumerate(sorted({key for key, _ in [*made, *base_made]}))}
    first_N = np.array([place[key] for key, _ in made], dtype=np.int64)
    second_M = np.array([place[key] for key, _ in base_made], dtype=np.int64)
    if len(place) < 3 or min(len(made), len(base_made)) < GROUPS:
        return {}
    row_of = {image: row for row, image in enumerate(base_made)}
    twins = [(row, row_of[image]) for row, image in enumerate(made) if image in row_of]
    smaller, dimensions = min(len(one_ND), len(base_MD)), one_ND.shape[1]
    reliable = feature_metrics.fid_is_reliable(smaller, dimensions)
    facts: dict[str, float | int | bool | str] = {
        "images": smaller,
        "dimensions": dimensions,
        "reliable": reliable,
        "read": "fid or kid" if reliable else "kid: FID has too few images for its dimensions",
    }
    prompt_X = np.concatenate([first_N, second_M])
    both = jackknife(
        lambda use_X: feature_metrics.fid(
            one_ND[use_X[: len(first_N)]], base_MD[use_X[len(first_N) :]]
        ),
        prompt_X,
    )
    kernel = feature_metrics.kid_jackknife(one_ND, first_N, base_MD, second_M, twins)
    return {
        f"{name}.fid": {**both.as_dict(), **facts},
        f"{name}.kid": {**kernel.as_dict(), **facts},
    }


def _readable(images: EvalSet, column: str = FEATURES) -> tuple[Floats, list[tuple[str, int]]]:
    """Return the rows of a column that are known, and whose they are: prompt and sample."""
    features_ND = np.asarray(images.scores[column], dtype=np.float64)
    known = np.isfinite(features_ND).all(axis=1)
    prompts = (images.keys[g] for g in images.prompt_index_N[known])
    samples = (int(sample) for sample in images.sample_N[known])
    return features_ND[known], list(zip(prompts, samples, strict=True))
