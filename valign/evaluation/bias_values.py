"""Every metric of bias, from the sets of images that were made under the bias principles.

Names, for a set P and another bias principle Q, each with `oracle.` before it where the attributes
were read from the pixels:

- `bias.P.d1`, `.d2`: the papers' metrics; `bias.P.CATEGORY.d1`, `.d2`: over a category's prompts
- `..._corrected`: without what sampling adds; `bias.P.d2_squared`: unbiased for D2 squared
- `bias.P.pooled_d1`, `pooled_d2`: of the mean of all prompts' frequencies
- `..._adjusted`: without the classifier's errors; unless pooled, also without what sampling adds
- `cross.P.Q.d1`, ...: Q's attributes in the images made under P's token
- `joint.P.Q.d1`, ...: P's and Q's attributes crossed, in the same images

Shapes: G prompts, K attributes, C draws of a confusion matrix.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from valign.evaluation import bias, bias_correction, confusion
from valign.evaluation.bias import spread_d1, spread_d2
from valign.evaluation.confusion import Confusion
from valign.evaluation.estimates import Estimate
from valign.evaluation.sets import READERS, EvalSet, crossed, frequencies, labels_of

Floats = NDArray[np.float64]
FORMULAS = {"d1": spread_d1, "d2": spread_d2}
# A confusion matrix changes hundreds of times within one interval: fewer draws of images each.
DRAWS_PER_MATRIX = 60


def values(sets: Mapping[str, EvalSet], confusions: Mapping[str, Confusion]) -> dict[str, Estimate]:
    """Return metric -> estimate of one model.

    Args:
        sets: bias principle -> the images made under it.
        confusions: bias principle -> its classifier's errors, where they are known.
    """
    made: dict[str, Estimate] = {}
    for reader in READERS:
        for principle, images in sets.items():
            found = frequencies(images, reader + principle)
            if found is None:
                continue
            name = f"{reader}bias.{principle}"
            made |= _of_prompts(name, images, found)
            made |= _pooled(name, images, found)
            for other in (key for key in sets if key != principle):
                if (across := frequencies(images, reader + other)) is not None:
                    made |= _of_prompts(f"{reader}cross.{principle}.{other}", images, across)
                if joint := crossed(images, reader + principle, reader + other):
                    made |= _of_prompts(f"{reader}joint.{principle}.{other}", images, joint)
            if not reader and principle in confusions:
                made |= _adjusted(name, images, found, confusions[principle])
    return made


def confusions_of(models: Mapping[str, Mapping[str, EvalSet]]) -> dict[str, Confusion]:
    """Return the classifiers' errors by the oracle's reading, over all models' images together."""
    made = {}
    for principle in dict.fromkeys(name for sets in models.values() for name in sets):
        true, seen, k = [], [], 0
        for images in (sets[principle] for sets in models.values() if principle in sets):
            oracle = labels_of(images, f"oracle.{principle}")
            classifier = labels_of(images, principle)
            if oracle and classifier:
                true.append(oracle[0])
                seen.append(classifier[0])
                k = classifier[1]
        if true:
            pair = np.concatenate(true), np.concatenate(seen)
            found = confusion.measured(*pair, k, source="the oracle, on the evaluated images")
            if found:
                made[principle] = found
    return made


def _of_prompts(name: str, images: EvalSet, found: bias.Frequencies) -> dict[str, Estimate]:
    """Return the metrics that are means over prompts: plain and corrected, of all and by category.

    Only a principle's own attributes are told by category, and only where there are several.
    """
    corrected = bias_correction.corrected(found.counts_GK)
    columns = {metric: formula(found.freq_GK) for metric, formula in FORMULAS.items()}
    columns |= {"d1_corrected": corrected.d1_G, "d2_corrected": corrected.d2_G}
    made = {f"{name}.{m}": Estimate.of(images.keys, v) for m, v in columns.items()}
    if "bias." not in name:
        return made
    made[f"{name}.d2_squared"] = Estimate.of(images.keys, corrected.d2_squared_G)
    category_G = np.array([prompt.category for prompt in images.prompts])
    categories = list(dict.fromkeys(category_G.tolist()))
    for category in categories if len(categories) > 1 else []:
        for metric, values_G in columns.items():
            mine_G = np.where(category_G == category, values_G, np.nan)
            made[f"{name}.{category}.{metric}"] = Estimate.of(images.keys, mine_G)
    return made


def _pooled(name: str, images: EvalSet, found: bias.Frequencies) -> dict[str, Estimate]:
    """Every prompt counts the same, however many of its images are readable."""

    def statistic(metric: str) -> Estimate:
        formula = FORMULAS[metric]
        return Estimate.of(images.keys, found.freq_GK, lambda mean_XK, _: formula(mean_XK))

    return {f"{name}.pooled_{metric}": statistic(metric) for metric in FORMULAS}


def _adjusted(
    name: str, images: EvalSet, found: bias.Frequencies, errors: Confusion
) -> dict[str, Estimate]:
    """Return the metrics without the classifier's errors; intervals are over its matrix, too."""
    drawn_CKK = errors.draws()
    best = bias_correction.corrected(found.counts_GK, errors.matrix_KK)
    others = [
        bias_correction.corrected(found.counts_GK, matrix_KK, draws=DRAWS_PER_MATRIX)
        for matrix_KK in drawn_CKK
    ]

    def statistic(mean_XV: Floats, resampled: bool) -> Floats:
        rows = np.arange(len(mean_XV))
        return mean_XV[rows, 1 + rows % len(drawn_CKK) if resampled else 0]

    d1_GV = np.stack([best.d1_G, *(other.d1_G for other in others)], axis=1)
    d2_GV = np.stack([best.d2_G, *(other.d2_G for other in others)], axis=1)
    return {
        f"{name}.d1_adjusted": Estimate.of(images.keys, d1_GV, statistic),
        f"{name}.d2_adjusted": Estimate.of(images.keys, d2_GV, statistic),
        **adjusted_pooled(name, images, found, errors),
    }


def adjusted_pooled(
    name: str, images: EvalSet, found: bias.Frequencies, errors: Confusion
) -> dict[str, Estimate]:
    """Return the pooled metrics without the classifier's errors."""
    back_KK = bias_correction.inverse(errors.matrix_KK)
    back_CKK = np.linalg.inv(errors.draws())

    def estimate(metric: str) -> Estimate:
        formula = FORMULAS[metric]

        def statistic(mean_XK: Floats, resampled: bool) -> Floats:
            if not resampled:
                return formula(mean_XK @ back_KK)
            chosen_XKK = back_CKK[np.arange(len(mean_XK)) % len(back_CKK)]
            return formula(np.einsum("xk,xkj->xj", mean_XK, chosen_XKK))

        return Estimate.of(images.keys, found.freq_GK, statistic)

    return {f"{name}.pooled_{metric}_adjusted": estimate(metric) for metric in FORMULAS}
