"""Which images are preferred under a principle, by LiVO's rules (paper sections 3.3 and 3.4).

In: what the classifiers read, as plain arrays. Out: one verdict per image, with a reason wherever
there is none. Left out: reading scores from storage, and the joining of verdicts into pairs
(`pairs`). A vote of several scorers over a pair is another rule and has its own module.

Shapes: N images, G prompts (or other groups), K attributes of a principle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.records import TOXIC_ABOVE

PREFERRED, DISPREFERRED, UNLABELLED = 1, -1, 0
UNKNOWN = -1  # the label of an image whose attribute could not be read

NO_BASE = "too few readable images of the neutral prompt"
NO_ATTRIBUTE = "attribute not known"
UNREADABLE = "not readable by the classifier"
NOT_TOXIC = "asked for as toxic, but the classifier finds nothing toxic"
STILL_TOXIC = "asked for as clean, but the classifier finds it toxic"

VERIFY = ("none", "classifier")


@dataclass(frozen=True, slots=True)
class BaseShares:
    """How often the base model shows each attribute for each neutral prompt.

    Attributes:
        counts_GK: readable images per prompt and attribute.
        usable_G: whether a prompt has enough readable images to speak of a share.
        unreadable: images whose attribute could not be read, over all prompts.
    """

    counts_GK: NDArray[np.int64]
    usable_G: NDArray[np.bool_]
    unreadable: int

    @property
    def shares_GK(self) -> NDArray[np.float64]:
        """Shares among the readable images (rows sum to 1; NaN where no image is readable)."""
        total_G1 = self.counts_GK.sum(axis=1, keepdims=True)
        nan_GK = np.full(self.counts_GK.shape, np.nan)
        return np.divide(self.counts_GK, total_G1, out=nan_GK, where=total_G1 > 0)

    @property
    def rare_GK(self) -> NDArray[np.bool_]:
        """Whether an attribute's share is below 1/K, decided on whole counts, without rounding."""
        total_G1 = self.counts_GK.sum(axis=1, keepdims=True)
        return self.counts_GK * self.counts_GK.shape[1] < total_G1


@dataclass(frozen=True, slots=True)
class Labels:
    """A verdict per image.

    Attributes:
        verdict_N: PREFERRED, DISPREFERRED or UNLABELLED (int8).
        reason_N: why an image is unlabelled; "" for every labelled image.
    """

    verdict_N: NDArray[np.int8]
    reason_N: tuple[str, ...]

    def dropped(self, reason: str) -> float:
        """Return the share (0..1) of all images that stayed unlabelled for this reason."""
        return self.reason_N.count(reason) / max(len(self.reason_N), 1)


def base_shares(
    labels_N: ArrayLike, prompt_N: ArrayLike, *, prompts: int, attributes: int, minimum: int
) -> BaseShares:
    """Count the attributes that the base model shows for neutral prompts.

    Args:
        labels_N: attribute index (0 .. attributes-1) of each image, UNKNOWN where unreadable.
        prompt_N: index (0 .. prompts-1) of the neutral prompt each image was made from.
        prompts: how many prompts there are; those without an image become unusable.
        attributes: K, how many attributes the principle has.
        minimum: readable images a prompt needs; with fewer its shares are not used.

    Raises:
        ValueError: a label or a prompt index is out of range, or lengths differ.
    """
    if attributes < 2:
        raise ValueError(f"a principle needs at least 2 attributes, got {attributes}")
    labels = _indices(labels_N, attributes, "labels_N", unknown=True)
    prompt = _indices(prompt_N, prompts, "prompt_N")
    if len(labels) != len(prompt):
        raise ValueError(f"{len(labels)} labels for {len(prompt)} images; give one label per image")
    known = labels != UNKNOWN
    flat = np.bincount(prompt[known] * attributes + labels[known], minlength=prompts * attributes)
    counts_GK = flat.reshape(prompts, attributes).astype(np.int64)
    usable_G = counts_GK.sum(axis=1) >= max(minimum, 1)
    return BaseShares(counts_GK, usable_G, int((~known).sum()))


def bias_labels(base: BaseShares, attribute_N: ArrayLike, prompt_N: ArrayLike) -> Labels:
    """Prefer the images whose attribute the base model shows too rarely (paper section 3.3).

    An image that shows attribute a is preferred iff a's share among the base model's images of the
    same neutral prompt is below 1/K, and dispreferred otherwise.

    Args:
        base: the base distribution under this principle.
        attribute_N: the attribute an image was asked for (or, if the caller wants it so, the one
            that was classified); UNKNOWN leaves the image unlabelled.
        prompt_N: index of each image's neutral prompt.

    Raises:
        ValueError: an index is out of range, or lengths differ.
    """
    prompts, attributes = base.counts_GK.shape
    attribute = _indices(attribute_N, attributes, "attribute_N", unknown=True)
    prompt = _indices(prompt_N, prompts, "prompt_N")
    if len(attribute) != len(prompt):
        raise ValueError(f"{len(attribute)} attributes for {len(prompt)} images; give one each")
    usable = base.usable_G[prompt]
    known = attribute != UNKNOWN
    rare = base.rare_GK[prompt, np.where(known, attribute, 0)]
    verdict = np.where(rare, PREFERRED, DISPREFERRED)
    verdict[~usable | ~known] = UNLABELLED
    reason = np.where(~usable, NO_BASE, np.where(~known, NO_ATTRIBUTE, ""))
    return Labels(verdict.astype(np.int8), tuple(reason.tolist()))


def toxicity_labels(
    asked_toxic_N: ArrayLike,
    *,
    verify: str = "none",
    score_N: ArrayLike | None = None,
    threshold: float = TOXIC_ABOVE,
) -> Labels:
    """Prefer the images of cleaned prompts to those of the toxic prompts as they are.

    Args:
        asked_toxic_N: true for an image of a toxic prompt, false for one of its cleaned twin.
        verify: "none" takes the prompt's word (paper appendix A.2); "classifier" keeps an image
            only if the classifier agrees with its prompt (section 3.4).
        score_N: probability (0..1) that the image is toxic under its prompt's own principle, NaN
            where unreadable. Needed for verify="classifier".
        threshold: an image counts as toxic above this score.

    Raises:
        ValueError: an unknown `verify`, or scores that are missing or of another length.
    """
    if verify not in VERIFY:
        raise ValueError(f"verify={verify!r} is not one of {', '.join(VERIFY)}")
    asked = np.asarray(asked_toxic_N, dtype=bool).reshape(-1)
    verdict = np.where(asked, DISPREFERRED, PREFERRED)
    reason = np.full(len(asked), "", dtype=object)
    if verify == "classifier":
        if score_N is None:
            raise ValueError('verify="classifier" needs score_N; score the images first')
        score = np.asarray(score_N, dtype=np.float64).reshape(-1)
        if len(score) != len(asked):
            raise ValueError(f"{len(score)} scores for {len(asked)} images; give one per image")
        reason[asked & (score <= threshold)] = NOT_TOXIC
        reason[~asked & (score > threshold)] = STILL_TOXIC
        reason[np.isnan(score)] = UNREADABLE
        verdict[reason != ""] = UNLABELLED
    return Labels(verdict.astype(np.int8), tuple(reason.tolist()))


def count_reasons(reasons: Sequence[str]) -> dict[str, int]:
    """Count the non-empty reasons, in alphabetical order."""
    return {reason: reasons.count(reason) for reason in sorted(set(reasons) - {""})}


def _indices(
    values: ArrayLike, limit: int, name: str, *, unknown: bool = False
) -> NDArray[np.int64]:
    """Check that values are whole numbers in 0 .. limit-1 (or UNKNOWN, if that is allowed)."""
    array = np.asarray(values).reshape(-1)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers, got {array.dtype}")
    lowest = UNKNOWN if unknown else 0
    wrong = (array < lowest) | (array >= limit)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{name}[{row}] is {array[row]}, which is not in {lowest} .. {limit - 1}")
    return array.astype(np.int64)
