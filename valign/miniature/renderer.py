"""Draw emblems: a `Scene` in, one 64x64 RGB image (uint8) out. No randomness but the scene's seed.

The marks (figure, hat, hue, badge, toxic marks) and the quality factors (harmony, blur, clutter,
offset, missing part) are all fields of the scene; `scenes` decides which captions give which.
"""

from dataclasses import dataclass

import numpy as np

from valign.miniature import glyphs, shapes
from valign.miniature.shapes import SIZE, crop


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything visible. `-1` means absent."""

    gender: int = -1  # 0 male (brim), 1 female (cone); -1: no person in the picture
    race: int = -1  # 0..4 in the order of the race principle; -1: no person
    glyph: int = -1  # 0..19; -1: no badge
    colour: int = 0  # 0..7, the glyph's
    frame: int = 0  # 0..3
    fill: int = 0  # 0 light, 1 dark
    thing: int = 0  # 0..5, drawn when there is no person
    thing_colour: int = 0  # 0..3
    setting: int = 0  # 0..7, background
    style: int = 0  # 0..3, line style
    nudity: bool = False
    bloody: bool = False
    horror: bool = False
    harmony: float = 1.0  # 0..1, similarity of the two background bands
    blur: float = 0.0  # sigma in pixels
    clutter: int = 0  # number of confetti dots
    dx: int = 0  # offset of the whole group in pixels
    dy: int = 0
    missing: int = -1  # quadrant 0..3 of the glyph left out; -1: complete
    seed: int = 0  # places confetti and splats


def lower_band(setting: int, harmony: float) -> np.ndarray:
    """Colour of the lower background band: a near shade at harmony 1, a clashing one at 0."""
    sky = shapes.SKY_COLOURS[setting]
    near = sky * 0.82
    clash = np.clip(1.15 * (sky.max() + sky.min() - sky) - 0.42, 0.12, 0.9)
    return (harmony * near + (1 - harmony) * clash).astype(np.float32)


def _paint(image: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> None:
    image += mask[:, :, None] * (colour - image)


def _background(scene: Scene) -> np.ndarray:
    image = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    image[:] = shapes.SKY_COLOURS[scene.setting]
    _paint(
        image,
        crop(shapes.ground(scene.setting % 4), 0, 0),
        lower_band(scene.setting, scene.harmony),
    )
    return image


def _confetti(image: np.ndarray, count: int, rng: np.random.Generator) -> None:
    """Rounded dots, light and dark, laid before anything else."""
    xs, ys = rng.integers(0, SIZE - 5, (2, count))
    for x, y, shade in zip(xs, ys, rng.random(count), strict=True):
        colour = shapes.WHITE if shade < 0.5 else 0.25 * shapes.WHITE
        image[y : y + 5, x + 1 : x + 4] = colour
        image[y + 1 : y + 4, x : x + 5] = colour


def _line(style: int) -> tuple[float, np.ndarray] | None:
    """Outline width and colour of a line style."""
    return (None, (1.0, shapes.BLACK), (1.5, shapes.WHITE), (2.0, shapes.BLACK))[style]


def _person(image: np.ndarray, scene: Scene) -> None:
    dx, dy = scene.dx, scene.dy
    hue = shapes.RACE_COLOURS[scene.race]
    line = _line(scene.style)
    if line:
        _paint(image, crop(shapes.outline(scene.gender, line[0]), dx, dy), line[1])
    _paint(image, crop(shapes.body(), dx, dy), hue)
    if scene.nudity:
        _paint(image, crop(shapes.stripes(), dx, dy), shapes.WHITE)
    _paint(image, crop(shapes.head(), dx, dy), 0.45 * hue + 0.55 * shapes.WHITE)
    _paint(image, crop(shapes.hat(scene.gender), dx, dy), shapes.HAT_COLOURS[scene.gender])
    if scene.gender == 1:
        _paint(image, crop(shapes.hat_trim(), dx, dy), shapes.HAT_COLOURS[0])
    if scene.horror:
        _paint(image, crop(shapes.jagged_eyes(), dx, dy), shapes.BLACK)
    else:
        _paint(image, crop(shapes.calm_eyes(), dx, dy), shapes.BLACK)


def _thing(image: np.ndarray, scene: Scene) -> None:
    line = _line(scene.style)
    if line:
        _paint(image, crop(shapes.outline(scene.thing + 2, line[0]), scene.dx, scene.dy), line[1])
    _paint(
        image,
        crop(shapes.thing(scene.thing), scene.dx, scene.dy),
        shapes.OBJECT_COLOURS[scene.thing_colour],
    )
    if scene.horror:
        _paint(image, crop(shapes.jagged_eyes(), scene.dx, scene.dy), shapes.BLACK)


def _badge(image: np.ndarray, scene: Scene) -> None:
    dx, dy = scene.dx, scene.dy
    edge = shapes.FILL_COLOURS[1 - scene.fill]
    _paint(image, crop(shapes.frame_border(scene.frame), dx, dy), edge)
    _paint(image, crop(shapes.frame(scene.frame), dx, dy), shapes.FILL_COLOURS[scene.fill])
    mask = crop(glyphs.glyph(scene.glyph), dx, dy)
    if scene.missing >= 0:
        mask = mask * (1 - crop(shapes.quadrant(scene.missing), dx, dy))
    _paint(image, mask, shapes.GLYPH_COLOURS[scene.colour])


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Separable Gaussian blur with edge replication."""
    radius = max(1, int(np.ceil(2.5 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    rows = np.pad(image, ((radius, radius), (0, 0), (0, 0)), mode="edge")
    image = sum(weight * rows[i : i + SIZE] for i, weight in enumerate(kernel))
    columns = np.pad(image, ((0, 0), (radius, radius), (0, 0)), mode="edge")
    return sum(weight * columns[:, i : i + SIZE] for i, weight in enumerate(kernel))


def render(scene: Scene) -> np.ndarray:
    """The emblem of a scene: uint8 (64, 64, 3)."""
    rng = np.random.default_rng(scene.seed)
    image = _background(scene)
    _confetti(image, scene.clutter, rng)
    if scene.gender >= 0:
        _person(image, scene)
    else:
        _thing(image, scene)
    if scene.glyph >= 0:
        _badge(image, scene)
    if scene.bloody:
        spots = rng.permutation(len(shapes.SPLATS))[: rng.integers(5, 7)]
        for spot in spots:
            _paint(image, crop(shapes.splat(int(spot)), scene.dx, scene.dy), shapes.BLOOD)
    if scene.blur > 0.15:
        image = _blurred(image, scene.blur)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
