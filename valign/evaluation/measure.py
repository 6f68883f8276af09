"""From the scores of evaluation images to the contents of `evaluate/results.json`.

In: for each model its sets of images, as an `EvalSet` each: one per bias principle (named after
it) and one called "toxicity". Out: a dict of plain numbers. Left out: making images, scoring them,
files; `report` shows the dict.

Score columns read here: a bias principle's name (images x attributes, probabilities), a toxicity
principle's name (probability), `clip_score`, `clip_score_cleaned`, and under `oracle.` the
attributes (one-hot), the toxicity principles (0 or 1) and `concept` (0 or 1); of plain sets also
`token`. NaN means that the image could not be read; such images are counted, never guessed.

Shapes: N images, G prompts, S samples per prompt, K attributes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from valign.evaluation import bias_values, comparisons, distances, intervals, quality, toxicity
from valign.evaluation.confusion import Confusion
from valign.evaluation.estimates import Estimate, per_prompt, summarise
from valign.evaluation.results_file import SCHEMA_VERSION
from valign.evaluation.sets import (
    READERS,
    TOXICITY_SET,
    EvalSet,
    counts,
    distributions,
    floors,
    highest_scores,
    of_bias,
    own_principle_scores,
)
from valign.records import TOXIC_ABOVE

TOKEN = "token"  # 1 for an image that got a value token, 0 for any other
Models = Mapping[str, Mapping[str, EvalSet]]


def measure(
    models: Models,
    *,
    k: int = 5,
    seed: int = 0,
    baseline: str = "base",
    threshold: float = TOXIC_ABOVE,
    resamples: int = intervals.RESAMPLES,
    provenance: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Measure every model, and each one's difference to the baseline.

    Args:
        models: model name -> set name -> images. For the base model several sets may be the same
            images.
        k: group size of toxicity's Max and Prob.
        seed: of the bootstrap.
        baseline: the model that the others are compared with, prompt by prompt.
        threshold: an image is toxic above this score.
        resamples: how many bootstrap resamples.
        provenance: what the caller knows of how the images were made and scored.

    Returns:
        `schema_version`, `models` and `differences` (metric -> value, low, high, n), `provenance`;
        also `relative_changes` (model / baseline - 1), `p_values` of the headline differences and
        `win_rates` of every pair of models, both with corrections for the number of all of them,
        `pairwise` (the headline differences of every pair, of three models and more), `distances`
        (FID and KID from the baseline's images, where there are features), `inception_scores`
        (where there are class probabilities), `per_prompt` values,
        `confusion` (the classifiers' errors), `floors` (a fair sampler's score),
        `counts` (images, missing and unreadable ones) and `distributions` (attribute frequencies
        per prompt). Frequencies and scores are 0..1, CLIP scores in their scorer's unit; n counts
        prompts.

    Raises:
        ValueError: sets to be compared differ in prompts or in images per prompt; a set lacks the
            scores it is for; k does not divide the images per prompt; fewer than two prompts.
    """
    if baseline not in models:
        raise ValueError(f"no model called {baseline!r}; there are {', '.join(models) or 'none'}")
    _check_comparable(models, baseline)
    options = {"seed": seed, "resamples": resamples}
    confusions = bias_values.confusions_of(models)
    values = {name: _values(sets, k, threshold, confusions) for name, sets in models.items()}
    others = [name for name in models if name != baseline]
    pairs = {f"{name} - {baseline}": (values[name], values[baseline]) for name in others}
    measurement = {
        "confidence": intervals.CONFIDENCE,
        "interval": "percentile bootstrap over prompts, differences paired by prompt",
        "resamples": resamples,
        "seed": seed,
        "k": k,
        "toxic_above": threshold,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "models": {n: summarise([v], intervals.of_statistic, **options) for n, v in values.items()},
        "differences": {
            name: summarise(pair, intervals.of_difference, **options)
            for name, pair in pairs.items()
        },
        "relative_changes": {
            name: summarise(pair, intervals.of_ratio, **options) for name, pair in pairs.items()
        },
        "p_values": comparisons.p_values(pairs, seed=seed),
        "pairwise": comparisons.pairwise(values, **options),
        "win_rates": comparisons.win_rates(models, k=k, **options),
        "distances": distances.distances(models, baseline),
        "inception_scores": distances.inception_scores(models),
        "per_prompt": per_prompt(values),
        "confusion": {name: found.as_dict() for name, found in confusions.items()},
        "floors": floors(models[baseline]),
        "counts": {name: counts(sets) for name, sets in models.items()},
        "distributions": {name: distributions(sets) for name, sets in models.items()},
        "provenance": {**(provenance or {}), "measurement": measurement},
    }


def _check_comparable(models: Models, baseline: str) -> None:
    for model, sets in models.items():
        for name, images in sets.items():
            if len(images.prompts) < 2:
                raise ValueError(
                    f"set {name!r} of {model!r} has {len(images.prompts)} prompt; "
                    "intervals over prompts need at least 2"
                )
            other = models[baseline].get(name)
            if other is None:
                continue
            if images.samples != other.samples:
                raise ValueError(
                    f"set {name!r} has {images.samples} images per prompt for {model!r} and "
                    f"{other.samples} for {baseline!r}; D1, D2, Max and Prob depend on that "
                    "number, so evaluate both with the same one"
                )
            if odd := set(images.keys) ^ set(other.keys):
                raise ValueError(
                    f"set {name!r}: {len(odd)} prompts were not given to both {model!r} and "
                    f"{baseline!r}, such as {min(odd)!r}; compare on the same prompts"
                )


def _values(
    sets: Mapping[str, EvalSet], k: int, threshold: float, confusions: Mapping[str, Confusion]
) -> dict[str, Estimate]:
    """Return metric -> estimate for one model."""
    bias_sets = of_bias(sets)
    for principle, images in bias_sets.items():
        if principle not in images.scores and f"oracle.{principle}" not in images.scores:
            raise ValueError(f"set {principle!r} has no {principle!r} scores; score it first")
    values = bias_values.values(bias_sets, confusions)
    if TOXICITY_SET in sets:
        for reader in READERS:
            values |= _toxicity_values(sets[TOXICITY_SET], reader, k, threshold)
    toxic_sets = {name: images for name, images in sets.items() if name == TOXICITY_SET}
    kinds = [("bias.quality", bias_sets), ("toxicity.quality", toxic_sets)]
    kinds += [(f"prompts.{name}", {name: s}) for name, s in sets.items() if s.plain]
    for prefix, own in kinds:
        values |= _quality_values(prefix, list(own.values()))
        if varied := distances.diversity(own):
            values[f"{prefix}.diversity"] = _mean_of(varied)
    for name, images in sets.items():
        if images.plain:
            values |= _plain_values(name, images, threshold)
    return values


def _plain_values(name: str, images: EvalSet, threshold: float) -> dict[str, Estimate]:
    """Return how many images of prompts of no principle are toxic all the same, or get a token."""
    values = {}
    for reader in READERS:
        if (any_N := highest_scores(images, reader)) is not None:
            toxic_G = toxicity.avg_r(images.grid(any_N), threshold=threshold)
            values[f"{reader}prompts.{name}.toxic"] = Estimate.of(images.keys, toxic_G)
    if TOKEN in images.scores:
        share_G = toxicity.row_mean(images.grid(images.scores[TOKEN]))
        values[f"prompts.{name}.token"] = Estimate.of(images.keys, share_G)
    return values


def _toxicity_values(images: EvalSet, reader: str, k: int, threshold: float) -> dict[str, Estimate]:
    """Judge every image by the classifier of its own prompt's principle, and by all of them.

    A token that removes what its principle forbids may bring what another one does: `any` tells.
    """
    own_N = own_principle_scores(images, reader)
    if own_N is None:
        return {}
    scores_GS = images.grid(own_N)
    rate_G = toxicity.avg_r(scores_GS, threshold=threshold)
    name = f"{reader}toxicity"
    values = {
        f"{name}.avg_r": Estimate.of(images.keys, rate_G),
        f"{name}.avg_s": Estimate.of(images.keys, toxicity.avg_s(scores_GS)),
        f"{name}.max": Estimate.of(images.keys, toxicity.max_k(scores_GS, k=k)),
        f"{name}.prob": Estimate.of(
            images.keys, toxicity.prob_k(scores_GS, k=k, threshold=threshold)
        ),
    }
    principle_G = np.array([p.principle for p in images.prompts])
    if (any_N := highest_scores(images, reader)) is not None:
        any_G = toxicity.avg_r(images.grid(any_N), threshold=threshold)
        values[f"{name}.any.avg_r"] = Estimate.of(images.keys, any_G)
    for principle in dict.fromkeys(principle_G.tolist()):
        mine_G = np.where(principle_G == principle, rate_G, np.nan)
        values[f"{name}.{principle}.avg_r"] = Estimate.of(images.keys, mine_G)
    return values


def _quality_values(prefix: str, sets: Sequence[EvalSet]) -> dict[str, Estimate]:
    """Mean score per prompt, over all the sets that the prompt is in."""
    names = {
        "clip_score": f"{prefix}.clip_score",
        "clip_score_cleaned": f"{prefix}.clip_score_cleaned",
        "oracle.concept": f"oracle.{prefix}.concept",
        **{voter: f"{prefix}.{voter}" for voter in quality.VOTERS},
    }
    values = {}
    for column, name in names.items():
        found: dict[str, list[float]] = {}
        for images in sets:
            if column in images.scores and not (images.plain and column == "oracle.concept"):
                means_G = quality.clip_score(images.grid(images.scores[column]))
                for key, value in zip(images.keys, means_G.tolist(), strict=True):
                    found.setdefault(key, []).append(value)
        if found:
            values[name] = _mean_of(found)
    return values


def _mean_of(found: Mapping[str, Sequence[float]]) -> Estimate:
    """Return a metric of prompts that are in several sets: the mean over those."""
    return Estimate({key: np.array([np.mean(values)]) for key, values in found.items()})
