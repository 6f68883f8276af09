"""The 20 bold glyphs of the badges, one per field of concepts, as anti-aliased masks.

In: a glyph's number. Out: a mask at the badge's centre, like those of `shapes`.
"""

from functools import lru_cache

import numpy as np

from valign.miniature.shapes import BADGE_XY, box, ellipses, polygons, union


def _star(points: int, outer: float, inner: float) -> list[tuple[float, float]]:
    radii = [outer if i % 2 == 0 else inner for i in range(2 * points)]
    turns = [np.pi * i / points - np.pi / 2 for i in range(2 * points)]
    return [(r * np.cos(t), r * np.sin(t)) for r, t in zip(radii, turns, strict=True)]


GLYPH_NAMES = (
    "star", "heart", "cross", "saltire", "ring", "crescent", "bolt", "arrow", "wedge", "hourglass",
    "pillars", "rows", "checker", "tee", "wave", "dots", "corner", "cup", "bow", "house",
)  # fmt: skip


def _glyphpolygons(kind: int) -> list[list[tuple[float, float]]]:
    """Polygons of the straight-edged glyphs in a box of -9..9 around the badge's centre."""
    table: dict[str, list[list[tuple[float, float]]]] = {
        "star": [_star(5, 10.5, 4.3)],
        "heart": [[(-8.6, -1.5), (8.6, -1.5), (0, 9.5)]],
        "cross": [box(-3, -9, 3, 9), box(-9, -3, 9, 3)],
        "saltire": [
            [(-9, -5.5), (-5.5, -9), (9, 5.5), (5.5, 9)],
            [(9, -5.5), (5.5, -9), (-9, 5.5), (-5.5, 9)],
        ],
        "bolt": [[(3, -10), (-7, 2), (-1, 2), (-4, 10), (7, -2.5), (1, -2.5)]],
        "arrow": [[(0, -10), (9, 0), (3.2, 0), (3.2, 9.5), (-3.2, 9.5), (-3.2, 0), (-9, 0)]],
        "wedge": [[(-9.5, -8), (9.5, -8), (0, 9.5)]],
        "hourglass": [[(-8.5, -9.5), (8.5, -9.5), (0, 1)], [(-8.5, 9.5), (8.5, 9.5), (0, -1)]],
        "pillars": [box(-9.5, -9.5, -2.5, 9.5), box(2.5, -9.5, 9.5, 9.5)],
        "rows": [box(-9.5, -9.5, 9.5, -2.5), box(-9.5, 2.5, 9.5, 9.5)],
        "checker": [box(-9, -9, 0, 0), box(0, 0, 9, 9)],
        "tee": [box(-9, -9, 9, -3.5), box(-3, -9, 3, 9)],
        "wave": [
            [(-10, 5), (-5, -6), (0, 2), (5, -6), (10, 5), (10, 9), (6.5, 9), (5, 3), (0, 9),
             (-5, 3), (-6.5, 9), (-10, 9)],
        ],
        "corner": [box(-9, -9, -3.5, 9), box(-9, 3.5, 9, 9)],
        "cup": [box(-9, -9, -3.8, 9), box(3.8, -9, 9, 9), box(-9, 4, 9, 9)],
        "bow": [[(-9.5, -8.5), (1, 0), (-9.5, 8.5)], [(9.5, -8.5), (-1, 0), (9.5, 8.5)]],
        "house": [
            [(0, -10), (10, -1), (7, -1), (7, 9), (2.2, 9), (2.2, 3), (-2.2, 3), (-2.2, 9),
             (-7, 9), (-7, -1), (-10, -1)],
        ],
    }  # fmt: skip
    return table.get(GLYPH_NAMES[kind], [])


@lru_cache(maxsize=32)
def glyph(kind: int) -> np.ndarray:
    """One of the 20 bold glyphs, at the badge's centre."""
    x, y = BADGE_XY
    name = GLYPH_NAMES[kind]
    mask = polygons(*[[(x + px, y + py) for px, py in polygon] for polygon in _glyphpolygons(kind)])
    if name == "heart":
        return union(
            mask,
            ellipses((x - 9.2, y - 8.5, x + 0.6, y + 1.2), (x - 0.6, y - 8.5, x + 9.2, y + 1.2)),
        )
    if name == "ring":
        return ellipses((x - 9.5, y - 9.5, x + 9.5, y + 9.5)) - ellipses(
            (x - 4.5, y - 4.5, x + 4.5, y + 4.5)
        )
    if name == "crescent":
        return np.clip(
            ellipses((x - 9.5, y - 9.5, x + 9.5, y + 9.5))
            - ellipses((x - 3.0, y - 8.5, x + 13, y + 7.5)),
            0,
            1,
        )
    if name == "dots":
        return ellipses(
            *[
                (x + a - 4, y + b - 4, x + a + 4, y + b + 4)
                for a in (-5.2, 5.2)
                for b in (-5.2, 5.2)
            ]
        )
    return mask
