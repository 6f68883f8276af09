"""Shapes and colours of the emblem world, as anti-aliased masks.

In: nothing. Out: float32 alpha masks (0..1) on a padded canvas, drawn once by supersampling, and
the palettes. The renderer composes them and the oracle matches against them, so both agree by
construction. What a mark means (gender, race, concept) is not decided here.

Sizes are pixels of the 64x64 emblem. Masks are MARGIN wider on every side so that an offset is a
crop. Nothing imitates a real person: the two hats and five hues are abstract marks.
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 64
MARGIN = 8
SCALE = 8  # supersampling factor

RACE_COLOURS = np.array(  # order of the race principle's attributes
    [
        [0.20, 0.36, 0.92],
        [0.95, 0.66, 0.08],
        [0.16, 0.62, 0.26],
        [0.72, 0.22, 0.78],
        [0.25, 0.80, 0.86],
    ],
    dtype=np.float32,
)
GLYPH_COLOURS = np.array(
    [
        [0.88, 0.12, 0.14],  # red
        [1.00, 0.52, 0.04],  # orange
        [0.95, 0.84, 0.10],  # yellow
        [0.14, 0.62, 0.22],  # green
        [0.10, 0.76, 0.82],  # cyan
        [0.20, 0.34, 0.95],  # blue
        [0.58, 0.18, 0.76],  # purple
        [1.00, 0.52, 0.78],  # pink
    ],
    dtype=np.float32,
)
FILL_COLOURS = np.array([[0.96, 0.96, 0.94], [0.11, 0.11, 0.15]], dtype=np.float32)  # light, dark
HAT_COLOURS = np.array([[0.12, 0.12, 0.16], [0.99, 0.90, 0.24]], dtype=np.float32)  # brim, cone
BLOOD = np.array([0.76, 0.02, 0.05], dtype=np.float32)
BLACK = np.array([0.05, 0.05, 0.07], dtype=np.float32)
WHITE = np.array([0.98, 0.98, 0.98], dtype=np.float32)
SKY_COLOURS = np.array(
    [
        [0.58, 0.76, 0.93],
        [0.95, 0.74, 0.58],
        [0.64, 0.85, 0.69],
        [0.76, 0.68, 0.88],
        [0.90, 0.82, 0.58],
        [0.68, 0.71, 0.75],
        [0.90, 0.67, 0.72],
        [0.43, 0.49, 0.63],
    ],
    dtype=np.float32,
)
OBJECT_COLOURS = np.array(
    [[0.45, 0.30, 0.20], [0.36, 0.38, 0.42], [0.80, 0.77, 0.70], [0.42, 0.47, 0.26]],
    dtype=np.float32,
)

N_GLYPHS, N_FRAMES, N_FILLS, N_COLOURS = 20, 4, 2, 8
N_SETTINGS, N_STYLES, N_OBJECTS = 8, 4, 6
HEAD_XY, HEAD_RADIUS = (19.0, 26.0), 9.5
BADGE_XY = (46.0, 21.0)
SPLATS = (  # x, y, radius: fixed spots that every bloody image draws from
    (13, 47, 5.0), (28, 54, 5.5), (46, 48, 6.0), (56, 57, 5.0), (37, 59, 4.0),
    (18, 59, 4.5), (54, 43, 3.5),
)  # fmt: skip


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    side = (SIZE + 2 * MARGIN) * SCALE
    image = Image.new("L", (side, side), 0)
    return image, ImageDraw.Draw(image)


def _at(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [((x + MARGIN) * SCALE, (y + MARGIN) * SCALE) for x, y in points]


def _mask(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image, dtype=np.float32) / 255.0
    side = SIZE + 2 * MARGIN
    mask = pixels.reshape(side, SCALE, side, SCALE).mean((1, 3))
    mask.flags.writeable = False
    return mask


def polygons(*outlines: list[tuple[float, float]]) -> np.ndarray:
    image, draw = _canvas()
    for polygon in outlines:
        draw.polygon(_at(polygon), fill=255)
    return _mask(image)


def ellipses(*boxes: tuple[float, float, float, float]) -> np.ndarray:
    image, draw = _canvas()
    for x0, y0, x1, y1 in boxes:
        draw.ellipse(_at([(x0, y0), (x1, y1)]), fill=255)
    return _mask(image)


def union(*masks: np.ndarray) -> np.ndarray:
    return np.maximum.reduce(masks)


def box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def grow(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The mask dilated by about `pixels`, soft-edged."""
    image = Image.fromarray((mask * 255).astype(np.uint8)).resize(
        (mask.shape[1] * 4,) * 2, Image.Resampling.BICUBIC
    )
    wide = image.filter(ImageFilter.MaxFilter(2 * round(pixels * 4) + 1))
    return np.asarray(wide.resize(mask.shape[::-1], Image.Resampling.BOX), dtype=np.float32) / 255.0


@lru_cache(maxsize=1)
def body() -> np.ndarray:
    """Shoulders and trunk, running off the lower edge."""
    return union(
        polygons([(9, 36), (29, 36), (35, 44), (36, 80), (2, 80), (3, 44)]),
        ellipses((3, 35, 35, 56)),
    )


@lru_cache(maxsize=1)
def head() -> np.ndarray:
    (x, y), r = HEAD_XY, HEAD_RADIUS
    return ellipses((x - r, y - r, x + r, y + r))


@lru_cache(maxsize=2)
def hat(kind: int) -> np.ndarray:
    """0: a wide flat brim with a low crown. 1: a tall pointed party hat."""
    if kind == 0:
        return polygons(
            [(1, 16.5), (37, 16.5), (37, 21.5), (1, 21.5)], [(10, 9), (28, 9), (29, 18), (9, 18)]
        )
    return polygons([(19, -6), (30, 21.5), (8, 21.5)])


@lru_cache(maxsize=1)
def hat_trim() -> np.ndarray:
    """The dark band and bobble of the party hat."""
    return union(
        polygons([(15.2, 7), (22.8, 7), (25.2, 13), (12.8, 13)]) * hat(1),
        ellipses((16, -2, 22, 4)),
    )


@lru_cache(maxsize=1)
def stripes() -> np.ndarray:
    """Wide horizontal stripes over the body (the nudity mark).

    As wide as a latent pixel: guidance would wash finer ones out into one light body.
    """
    bands = [box(-4, y, 44, y + 8) for y in range(40, 80, 16)]
    return polygons(*bands) * body()


@lru_cache(maxsize=1)
def calm_eyes() -> np.ndarray:
    return ellipses((14, 25, 16.5, 27.5), (21.5, 25, 24, 27.5))


@lru_cache(maxsize=1)
def jagged_eyes() -> np.ndarray:
    """Two big dark jagged eyes and a row of teeth below them (the horror mark)."""
    left = [
        (4, 19),
        (10, 22.5),
        (13, 19),
        (14, 24),
        (18.3, 26),
        (14, 28.5),
        (13, 34),
        (9.5, 29.5),
        (4, 31),
        (7, 25.5),
    ]
    right = [(38 - x, y) for x, y in left]
    teeth = (
        [(6, 37)]
        + [(6 + 2.6 * i, (43.5, 37.5)[i % 2]) for i in range(1, 10)]
        + [(32, 37), (32, 36), (6, 36)]
    )
    return polygons(left, right, teeth)


@lru_cache(maxsize=8)
def splat(spot: int) -> np.ndarray:
    """One red splat with a drip, at one of the SPLATS."""
    x, y, r = SPLATS[spot]
    image, draw = _canvas()
    draw.ellipse(_at([(x - r, y - r), (x + r, y + r)]), fill=255)
    for turn in range(5):
        angle = 2.399 * turn + spot
        cx, cy = x + 1.15 * r * np.cos(angle), y + 1.15 * r * np.sin(angle)
        draw.ellipse(_at([(cx - r / 3, cy - r / 3), (cx + r / 3, cy + r / 3)]), fill=255)
    draw.rectangle(_at([(x - r / 4, y), (x + r / 4, y + 2.1 * r)]), fill=255)
    return _mask(image)


@lru_cache(maxsize=8)
def frame(kind: int) -> np.ndarray:
    """The badge's outline shape: circle, square, diamond or plus, filled."""
    x, y = BADGE_XY
    if kind == 0:
        return ellipses((x - 15.5, y - 15.5, x + 15.5, y + 15.5))
    if kind == 1:
        return polygons([(x - 14, y - 14), (x + 14, y - 14), (x + 14, y + 14), (x - 14, y + 14)])
    if kind == 2:
        return polygons([(x, y - 20), (x + 20, y), (x, y + 20), (x - 20, y)])
    a, b = 17, 10
    return polygons(
        [(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)],
        [(x - b, y - a), (x + b, y - a), (x + b, y + a), (x - b, y + a)],
    )


@lru_cache(maxsize=8)
def frame_border(kind: int) -> np.ndarray:
    return grow(frame(kind), 1.5)


@lru_cache(maxsize=8)
def quadrant(part: int) -> np.ndarray:
    """Which pixels of the glyph's box lie in quadrant 0..3 (the part that may be missing)."""
    x, y = BADGE_XY
    sx, sy = (-1, 1)[part % 2], (-1, 1)[part // 2]
    return polygons([(x, y), (x + 12 * sx, y), (x + 12 * sx, y + 12 * sy), (x, y + 12 * sy)])


@lru_cache(maxsize=8)
def thing(kind: int) -> np.ndarray:
    """The simple object of a scene without a person: tree, hut, peak, boulder, boat or tower."""
    if kind == 0:
        return union(ellipses((8, 16, 34, 42)), polygons(box(18, 38, 24, 60)))
    if kind == 1:
        return polygons([(21, 22), (38, 38), (4, 38)], box(8, 37, 34, 58))
    if kind == 2:
        return polygons([(4, 58), (22, 14), (30, 34), (36, 24), (50, 58)])
    if kind == 3:
        return ellipses((6, 34, 40, 62))
    if kind == 4:
        return polygons(
            [(4, 46), (44, 46), (36, 57), (12, 57)],
            [(22, 14), (25, 14), (25, 47), (22, 47)],
            [(26, 16), (40, 40), (26, 40)],
        )
    return polygons(box(16, 18, 30, 60), [(13, 18), (23, 8), (33, 18)])


@lru_cache(maxsize=8)
def ground(pattern: int) -> np.ndarray:
    """The lower band of the background: flat, slope, hills or steps."""
    low = [(SIZE + MARGIN, SIZE + MARGIN), (-MARGIN, SIZE + MARGIN)]
    xs = np.linspace(-MARGIN, SIZE + MARGIN, 41)
    if pattern == 0:
        top = [(x, 40.0) for x in xs]
    elif pattern == 1:
        top = [(x, 46.0 - 0.2 * x) for x in xs]
    elif pattern == 2:
        top = [(x, 41.0 + 3.5 * float(np.sin(x / 6.5))) for x in xs]
    else:
        top = [(x, 36.0 + 4.0 * float((x // 16) % 2 * 2)) for x in xs]
    return polygons([*top, *low])


@lru_cache(maxsize=16)
def outline(kind: int, width: float) -> np.ndarray:
    """The dilated silhouette of the figure with hat `kind` (0, 1) or of thing `kind - 2`."""
    silhouette = union(body(), head(), hat(kind)) if kind < 2 else thing(kind - 2)
    return grow(silhouette, width)


def crop(mask: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """The 64x64 window of a padded mask with its content moved by (dx, dy), |d| <= MARGIN."""
    return mask[MARGIN - dy : MARGIN - dy + SIZE, MARGIN - dx : MARGIN - dx + SIZE]
