"""Quality factors of emblems, read from pixels: what raters may disagree about.

In: float images (N, 64, 64, 3) in 0..1 and what the oracle has found. Out: `Quality`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from valign.miniature import shapes
from valign.miniature.matching import OFFSETS, likeness
from valign.miniature.renderer import lower_band
from valign.miniature.shapes import crop

# N images, H W pixels, O offsets

_DOT_PIXELS = 21.0


@dataclass(frozen=True, slots=True)
class Quality:
    """How each image is drawn, arrays (N,) of float32."""

    harmony: np.ndarray  # 0..1, similarity of the two background bands
    blur: np.ndarray  # pixels, sigma of the softest stroke edges seen
    clutter: np.ndarray  # visible confetti dots on free ground
    offset: np.ndarray  # pixels, distance of the group from its place
    completeness: np.ndarray  # 0..1, share of the glyph that is there; 1 where no badge


def factors(
    images_NHWC: np.ndarray,
    *,
    offset_N: np.ndarray,
    figure_N: np.ndarray,
    frame_N: np.ndarray,
    completeness_N: np.ndarray,
) -> Quality:
    """Quality of images (0..1) whose offset, figure (0, 1, 2 none) and frame (4 none) are known."""
    n = len(images_NHWC)
    top = np.concatenate(
        [images_NHWC[:, :4].reshape(n, -1, 3), images_NHWC[:, :34, 61:].reshape(n, -1, 3)], 1
    )
    setting_N = _setting(top)
    sky = shapes.SKY_COLOURS[setting_N][:, None, None]
    ground = np.median(images_NHWC[:, 50:, 40:].reshape(n, -1, 3), axis=1)
    near, clash = (
        np.stack([lower_band(k, h) for k in range(shapes.N_SETTINGS)])[setting_N]
        for h in (1.0, 0.0)
    )
    axis = near - clash
    harmony = np.clip(((ground - clash) * axis).sum(1) / (axis**2).sum(1), 0, 1)
    along = ground[:, None, None] - sky  # a blurred horizon lies between the two bands' colours
    share = ((images_NHWC - sky) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-3)
    odd = np.linalg.norm(images_NHWC - sky - np.clip(share, 0, 1)[..., None] * along, axis=-1) > 0.2
    red = np.linalg.norm(images_NHWC - shapes.BLOOD, axis=-1) < 0.5
    free_NHW = _free_masks()[offset_N, figure_N, frame_N]
    values = {
        "harmony": harmony,
        "blur": _softness(images_NHWC),
        "clutter": (odd & ~red & free_NHW).sum((1, 2)) / _DOT_PIXELS,
        "offset": np.linalg.norm(np.array(OFFSETS)[offset_N], axis=1),
        "completeness": completeness_N,
    }
    return Quality(**{key: value.astype(np.float32) for key, value in values.items()})


@lru_cache(maxsize=1)
def _free_masks() -> np.ndarray:
    """Pixels that neither figure nor badge reaches: bool (O, hat or none, frame or none, H, W)."""
    nothing = np.zeros_like(shapes.body())
    everything = np.ones_like(shapes.body())  # a scene without a person hides its object's place
    everything[:, shapes.MARGIN + 52 :] = 0
    figures = [shapes.outline(0, 3.5), shapes.outline(1, 3.5), everything]
    badges = [shapes.grow(shapes.frame_border(k), 2) for k in range(shapes.N_FRAMES)] + [nothing]
    return np.stack(
        [
            [[np.maximum(crop(f, *o), crop(b, *o)) < 0.05 for b in badges] for f in figures]
            for o in OFFSETS
        ]
    )


def _softness(images_NHWC: np.ndarray) -> np.ndarray:
    """Blur sigma in pixels, from the steepest edges of the marks in the upper half."""
    n = len(images_NHWC)
    grey = images_NHWC[:, :36].mean(-1)
    steps = [np.abs(np.diff(grey, axis=axis)).reshape(n, -1) for axis in (1, 2)]
    steepest = np.mean([np.partition(s, -24, axis=1)[:, -24:].mean(1) for s in steps], axis=0)
    return np.sqrt(np.clip((0.36 / np.maximum(steepest, 0.03)) ** 2 - 0.25, 0, 9)).astype(
        np.float32
    )


def _setting(pixels_NPC: np.ndarray) -> np.ndarray:
    """Index of the sky colour most pixels are near to."""
    return np.stack(
        [likeness(pixels_NPC, sky, 0.12).sum(1) for sky in shapes.SKY_COLOURS], 1
    ).argmax(1)
