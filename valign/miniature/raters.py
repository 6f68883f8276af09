"""Four simulated raters with published tastes, and what a person would say: truth for the voters.

In: uint8 images (N, 64, 64, 3) and their prompts. Out: the five factors that the oracle reads, and
from them one utility per rater, a weighted sum of standardised factors (`TASTES`). The raters
disagree because their weights do, never because of noise: `pickscore` wants the group in its place,
`aesthetic` out of it; `clip` asks only whether the prompt is shown. The person's utility is the
raters' mean, and a person's label adds HUMAN_NOISE times a Gumbel draw, so that of two
images the first is labelled higher with probability sigmoid((u1 - u2) / HUMAN_NOISE): Bradley and
Terry's rule (1952).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from valign.miniature import glyphs, shapes
from valign.miniature.matching import OFFSETS
from valign.miniature.oracle import Marks, read
from valign.miniature.scenes import GENDERS, RACES, badges
from valign.models.score_columns import ColumnInfo, ScoreColumn
from valign.records import Prompt, digest

# N images, O offsets, P values of a window, K raters

_VERSION = "1"  # part of the fingerprint: raise it when readings or tastes change
_SIDE, _PAD = 32, 8  # pixels: window around a badge, and how far an offset may leave the image

SCALE: Mapping[str, tuple[float, float]] = {  # mean, and spread within a prompt, as generated
    "fidelity": (0.94, 0.040),
    "harmony": (0.54, 0.20),
    "sharpness": (-0.96, 0.33),
    "centring": (-1.6, 0.65),
    "completeness": (0.77, 0.063),
}
TASTES: Mapping[str, Mapping[str, float]] = {  # rater -> weight of each standardised factor
    "clip": {"fidelity": 0.6, "completeness": 0.6},
    "hpsv2": {"fidelity": 0.6, "completeness": 0.5, "sharpness": 0.5, "harmony": 0.5},
    "pickscore": {"fidelity": 0.5, "completeness": 0.6, "centring": 0.4, "harmony": 0.4},
    "aesthetic": {"harmony": 0.7, "completeness": 0.5, "sharpness": 0.4, "centring": -0.2},
}
RATERS = tuple(TASTES)
LIMIT = 3.0  # a standardised factor is held within: what is plainly wrong is wrong enough
HUMAN_NOISE = 0.5  # in the unit of the utilities


@dataclass(frozen=True, slots=True)
class Factors:
    """What raters look at, arrays (N,) of float32."""

    fidelity: np.ndarray  # 0..1, mean over what the prompt states: badge likeness, gender, race
    harmony: np.ndarray  # 0..1, similarity of the two background bands
    sharpness: np.ndarray  # pixels, minus the sigma of the strokes' blur
    centring: np.ndarray  # pixels, minus the group's distance from its place
    completeness: np.ndarray  # 0..1, share of the glyph that is there


def factors(images_NHWC: np.ndarray, prompts: Sequence[Prompt]) -> Factors:
    """Read the factors of uint8 images (N, 64, 64, 3).

    Raises ValueError if the lengths differ or the images are no emblems.
    """
    if len(images_NHWC) != len(prompts):
        raise ValueError(
            f"{len(images_NHWC)} images but {len(prompts)} prompts: give one prompt per image"
        )
    marks, quality = read(images_NHWC)
    return Factors(
        fidelity=_fidelity(images_NHWC, prompts, marks),
        harmony=quality.harmony,
        sharpness=-quality.blur,
        centring=-quality.offset,
        completeness=quality.completeness,
    )


def utilities(seen: Factors) -> np.ndarray:
    """Each rater's utility of each image, float32 (N, K), in the order of RATERS."""
    standard = {
        key: np.clip((getattr(seen, key) - mean) / spread, -LIMIT, LIMIT)
        for key, (mean, spread) in SCALE.items()
    }
    columns = [sum(w * standard[key] for key, w in TASTES[name].items()) for name in RATERS]
    return np.stack(columns, axis=1).astype(np.float32)


def human_utility(utility_NK: np.ndarray) -> np.ndarray:
    """What a person values: the raters' mean, (N,)."""
    return utility_NK.mean(1)


class TrueUtility:
    """The raters' true utilities as a scorer.

    Columns: `utility.<rater>`, `utility.human`, and `utility.human_label`: the person's utility
    plus HUMAN_NOISE times a Gumbel draw from the image's own bytes, so that the greater label of
    two images is a Bradley-Terry choice, the same each time it is asked.
    """

    def __init__(self) -> None:
        self.fingerprint = digest("miniature raters", _VERSION, _settled())
        who = {name: f"the {name} rater likes it better" for name in RATERS}
        who |= {"human": "the raters' mean is higher", "human_label": "a person chose it"}
        self.columns = {
            f"utility.{name}": ColumnInfo(low=-20, high=20, higher_means=meaning)
            for name, meaning in who.items()
        }

    def score(self, images_NHWC: np.ndarray, prompts: Sequence[Prompt]) -> dict[str, ScoreColumn]:
        """Columns for uint8 images (N, 64, 64, 3) and their prompts.

        Raises ValueError if the lengths differ or the images are no emblems.
        """
        utility_NK = utilities(factors(images_NHWC, prompts))
        human_N = human_utility(utility_NK)
        label_N = human_N + HUMAN_NOISE * _gumbel(images_NHWC)
        values = [*utility_NK.T, human_N, label_N]
        return {
            name: ScoreColumn.of(column) for name, column in zip(self.columns, values, strict=True)
        }


def _settled() -> dict[str, object]:
    tastes = {name: dict(weights) for name, weights in TASTES.items()}
    return {"scale": dict(SCALE), "tastes": tastes, "noise": HUMAN_NOISE}


def _gumbel(images_NHWC: np.ndarray) -> np.ndarray:
    """A standard Gumbel draw per image, a function of its bytes."""
    heads = [hashlib.sha256(image.tobytes()).digest()[:7] for image in images_NHWC]
    uniform_N = (np.array([int.from_bytes(head) for head in heads]) + 0.5) / 2.0**56
    return -np.log(-np.log(uniform_N))


def _fidelity(images_NHWC: np.ndarray, prompts: Sequence[Prompt], marks: Marks) -> np.ndarray:
    """Mean over what each prompt states; 1 where it states nothing that can be read."""
    codes = badges()
    found = []
    for i, prompt in enumerate(prompts):
        parts = []
        if prompt.concept in codes:
            parts.append(badge_likeness(images_NHWC[i], codes[prompt.concept]))
        stated = dict(prompt.attributes)
        for key, names in (("gender", GENDERS), ("race", RACES)):
            if key in stated:
                parts.append(float(getattr(marks, key)[i] == names.index(stated[key])))
        found.append(np.mean(parts) if parts else 1.0)
    return np.array(found, dtype=np.float32)


def badge_likeness(image_HWC: np.ndarray, code: tuple[int, int, int, int]) -> float:
    """Correlation (0..1) of the image with a badge as the renderer draws it, at its best offset."""
    template_P, mask_P = _drawn_badge(code)
    padded = np.pad(
        image_HWC.astype(np.float32) / 255.0, ((_PAD, _PAD), (_PAD, _PAD), (0, 0)), "edge"
    )
    x, y = (int(v) - _SIDE // 2 + _PAD for v in shapes.BADGE_XY)
    window_OP = np.stack(
        [padded[y + dy : y + dy + _SIDE, x + dx : x + dx + _SIDE].ravel() for dx, dy in OFFSETS]
    )
    mean_O = window_OP @ mask_P
    spread_O = np.sqrt(np.maximum(window_OP**2 @ mask_P - mean_O**2, 1e-6))
    return float(np.clip((window_OP @ template_P / spread_O).max(), 0, 1))


@lru_cache(maxsize=1024)
def _drawn_badge(code: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A badge as the renderer draws it: weights (P,) of a correlation, and of a mean."""
    glyph, colour, frame, fill = code
    inside = shapes.frame(frame)[..., None]
    picture = shapes.FILL_COLOURS[1 - fill] * (1 - inside) + shapes.FILL_COLOURS[fill] * inside
    ink = glyphs.glyph(glyph)[..., None]
    picture = picture + ink * (shapes.GLYPH_COLOURS[colour] - picture)
    x, y = (int(v) - _SIDE // 2 + shapes.MARGIN for v in shapes.BADGE_XY)
    here = np.s_[y : y + _SIDE, x : x + _SIDE]
    picture_P = picture[here].ravel()
    mask_P = np.broadcast_to(shapes.frame_border(frame)[..., None] > 0.5, picture.shape)[
        here
    ].ravel()
    mask_P = mask_P.astype(np.float32) / mask_P.sum()
    centred_P = picture_P - picture_P @ mask_P
    spread = np.sqrt(centred_P**2 @ mask_P)
    return (centred_P / spread * mask_P).astype(np.float32), mask_P
