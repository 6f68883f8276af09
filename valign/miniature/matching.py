"""Match images against the renderer's own masks, over all offsets, as matrix products.

In: float images (N, 64, 64, 3) in 0..1. Out: match scores and class indices. Thresholds for
"absent" are here; what the marks mean is the oracle's matter.
"""

from functools import lru_cache

import numpy as np

from valign.miniature import glyphs, shapes
from valign.miniature.shapes import BADGE_XY, SIZE, crop

# N images, H W pixels, O offsets, K templates, P pixels of a window

OFFSETS = tuple((dx, dy) for dy in range(-4, 5) for dx in range(-5, 6))
HAT_FLOOR, BADGE_FLOOR = 0.30, 0.35
_STRIPES_FLOOR, _BLOOD_PIXELS, _HORROR_FLOOR = 0.2, 60, 0.34
_PERSON_SHARE, _PERSON_TRACE, _HAT_SURE = 0.11, 0.02, 0.4
_HATS = np.s_[:, 0:32, 0:48]
_BADGE = np.s_[:, 0:48, 20:64]
_TRUNK = np.s_[:, 40:64, 8:30]
_LOW = np.s_[:, 37:64, :]
_PATCH = 28  # side of the window in which the glyph is matched


def likeness(images_NHWC: np.ndarray, colour: np.ndarray, width: float) -> np.ndarray:
    """Likeness of each pixel to a colour, 0..1."""
    difference = images_NHWC - colour
    return np.exp(-np.einsum("...c,...c->...", difference, difference) / width**2)


def _unit(mask: np.ndarray) -> np.ndarray:
    return mask / max(float(mask.sum()), 1e-6)


@lru_cache(maxsize=1)
def _hat_templates() -> tuple[np.ndarray, np.ndarray]:
    """For each hat, a matrix (P, O): inside minus rim, so that a larger blob scores less."""
    tables = []
    for kind in (0, 1):
        mask = shapes.hat(kind) * (1 - shapes.hat_trim()) if kind else shapes.hat(0)
        rim = np.clip(shapes.grow(shapes.hat(kind), 4) - shapes.grow(shapes.hat(kind), 1.5), 0, 1)
        columns = [
            (_unit(crop(mask, dx, dy)) - 0.5 * _unit(crop(rim, dx, dy)))[_HATS[1:]].ravel()
            for dx, dy in OFFSETS
        ]
        tables.append(np.stack(columns, 1).astype(np.float32))
    return tables[0], tables[1]


@lru_cache(maxsize=1)
def _badge_templates() -> np.ndarray:
    """Matrix (2P, O*frames*fills) on light-likeness and dark-likeness stacked."""
    glyph_box = np.maximum.reduce([glyphs.glyph(k) for k in range(shapes.N_GLYPHS)])
    borders = [shapes.frame_border(kind) for kind in range(shapes.N_FRAMES)]
    rims = [np.clip(shapes.grow(border, 2) - border, 0, 1) for border in borders]
    columns = []
    for dx, dy in OFFSETS:
        for kind, (border, rim) in enumerate(zip(borders, rims, strict=True)):
            frame = shapes.frame(kind)
            inside = _unit(crop(frame * (1 - glyph_box), dx, dy)[_BADGE[1:]])
            edge = _unit(crop(np.clip(border - frame, 0, 1), dx, dy)[_BADGE[1:]])
            outside = _unit(crop(rim, dx, dy)[_BADGE[1:]])
            same, other = inside - 0.5 * edge - 0.4 * outside, 0.5 * edge
            columns += [
                np.concatenate([same.ravel(), other.ravel()]),
                np.concatenate([other.ravel(), same.ravel()]),
            ]
    return np.stack(columns, 1).astype(np.float32)


@lru_cache(maxsize=1)
def _glyph_templates() -> tuple[np.ndarray, np.ndarray]:
    """Normalised templates (P, K), whole and with a part missing, and each one's glyph (K,)."""
    columns, codes = [], []
    for kind in range(shapes.N_GLYPHS):
        for missing in range(-1, 4):
            mask = glyphs.glyph(kind) * (1 - shapes.quadrant(missing) if missing >= 0 else 1)
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    column = _patch_of(crop(mask, dx, dy)).ravel()
                    column = column - column.mean()
                    columns.append(column / np.linalg.norm(column))
                    codes.append(kind)
    return np.stack(columns, 1).astype(np.float32), np.array(codes)


def _patch_of(plane_HW: np.ndarray) -> np.ndarray:
    x, y = (int(v) - _PATCH // 2 for v in BADGE_XY)
    return plane_HW[y : y + _PATCH, x : x + _PATCH]


def patches(images_NHWC: np.ndarray, offset_N2: np.ndarray) -> np.ndarray:
    """Windows (N, PATCH, PATCH, 3) around each image's badge centre; edges repeat."""
    x, y = (int(v) - _PATCH // 2 for v in BADGE_XY)
    rows = np.clip(y + offset_N2[:, 1:] + np.arange(_PATCH), 0, SIZE - 1)
    columns = np.clip(x + offset_N2[:, :1] + np.arange(_PATCH), 0, SIZE - 1)
    return images_NHWC[
        np.arange(len(images_NHWC))[:, None, None], rows[:, :, None], columns[:, None, :]
    ]


def hats(images_NHWC: np.ndarray) -> np.ndarray:
    """Match of each hat at each offset: (N, 2, O)."""
    window = images_NHWC[_HATS]
    n = len(images_NHWC)
    scores = [
        likeness(window, colour, 0.3).reshape(n, -1) @ table
        for colour, table in zip(shapes.HAT_COLOURS, _hat_templates(), strict=True)
    ]
    return np.stack(scores, 1)


def badge_matches(images_NHWC: np.ndarray) -> np.ndarray:
    """Match of each offset, frame and fill: (N, O, frames, fills)."""
    n, window = len(images_NHWC), images_NHWC[_BADGE]
    near = [likeness(window, colour, 0.3).reshape(n, -1) for colour in shapes.FILL_COLOURS]
    scores = np.concatenate(near, 1) @ _badge_templates()
    return scores.reshape(n, len(OFFSETS), shapes.N_FRAMES, shapes.N_FILLS)


def glyphs_shown(patch_NPPC: np.ndarray, fill_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Glyph, colour and completeness (0..1) of each badge."""
    n = len(patch_NPPC)
    core = patch_NPPC[:, 5:-5, 5:-5].reshape(n, -1, 3)
    ink = np.stack([likeness(core, colour, 0.22).sum(1) for colour in shapes.GLYPH_COLOURS], 1)
    colour_N = ink.argmax(1)
    ground = shapes.FILL_COLOURS[fill_N][:, None, None]
    axis = shapes.GLYPH_COLOURS[colour_N][:, None, None] - ground
    lit = ((patch_NPPC - ground) * axis).sum(-1) / (axis**2).sum(-1)
    off_axis = np.linalg.norm(patch_NPPC - ground - lit[..., None] * axis, axis=-1)
    lit = np.clip(lit, 0, 1) * np.exp(-((off_axis / 0.35) ** 2))
    lit[:, :3], lit[:, -3:], lit[:, :, :3], lit[:, :, -3:] = 0, 0, 0, 0
    flat = lit.reshape(n, -1)
    centred = flat - flat.mean(1, keepdims=True)
    templates, codes = _glyph_templates()
    best_N = (centred @ templates).argmax(1)
    glyph_N = codes[best_N]
    full = np.stack(
        [_patch_of(crop(glyphs.glyph(k), 0, 0)).ravel() for k in range(shapes.N_GLYPHS)]
    )
    there = np.einsum("np,np->n", flat, full[glyph_N]) / full.sum(1)[glyph_N]
    return glyph_N, colour_N, np.clip(there, 0, 1)


def trunk(images_NHWC: np.ndarray, hat_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Race (-1: none) and whether there is a body, by vote of the trunk's pixels.

    Under stripes and splats little of the body's hue is left: a clear hat then vouches for it.
    """
    n = len(images_NHWC)
    pixels = images_NHWC[_TRUNK].reshape(n, -1, 1, 3)
    distance = np.linalg.norm(pixels - shapes.RACE_COLOURS, axis=-1)
    nearest, clear = distance.argmin(-1), distance.min(-1) < 0.27
    votes = np.stack([((nearest == k) & clear).mean(1) for k in range(5)], 1)
    most = votes.max(1)
    person = (most > _PERSON_SHARE) | ((most > _PERSON_TRACE) & (hat_N > _HAT_SURE))
    return np.where(person, votes.argmax(1), -1), person


def toxic(
    images_NHWC: np.ndarray, offset_N: np.ndarray, placed_N: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Presence of stripes, splats and jagged eyes.

    `offset_N` indexes OFFSETS; where nothing tells the offset (`placed_N` false) the eyes are
    looked for at all of them.
    """
    n = len(images_NHWC)
    stripes, gaps, eyes = _toxic_templates()
    white = likeness(images_NHWC, shapes.WHITE, 0.35).reshape(n, -1)
    striped = np.einsum("np,np->n", white, stripes[offset_N]) - np.einsum(
        "np,np->n", white, gaps[offset_N]
    )
    red = np.linalg.norm(images_NHWC[_LOW] - shapes.BLOOD, axis=-1) < 0.27
    dark = likeness(images_NHWC, shapes.BLACK, 0.35).reshape(n, -1)
    jagged = np.einsum("np,np->n", dark, eyes[offset_N])
    lost = ~placed_N
    jagged[lost] = (dark[lost] @ eyes.T).max(1) - 0.1
    return striped > _STRIPES_FLOOR, red.sum((1, 2)) > _BLOOD_PIXELS, jagged > _HORROR_FLOOR


@lru_cache(maxsize=1)
def _toxic_templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit masks (O, HW) of the stripes, the gaps between them, and the jagged eyes."""
    between = np.zeros_like(shapes.body())  # below the hats, above the splats
    between[shapes.MARGIN + 22 : shapes.MARGIN + 35] = 1
    stripes = shapes.stripes()
    gaps = np.clip(shapes.body() - shapes.grow(stripes, 0.5), 0, 1) * (
        shapes.grow(stripes, 3) > 0.5
    )
    rows = []
    for mask in (stripes, gaps, shapes.jagged_eyes() * between):
        rows.append(
            np.stack([_unit(crop(mask, dx, dy)).ravel() for dx, dy in OFFSETS]).astype(np.float32)
        )
    return rows[0], rows[1], rows[2]
