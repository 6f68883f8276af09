"""What a caption means and which scenes it may give: the miniature's "web data", biased on purpose.

In: a `Meaning` (what a caption states; -1 where it says nothing). Out: a random `Scene` that obeys
it, with everything unstated drawn from skewed distributions. Sentences are made in `captions`;
pixels in `renderer`.

The bias. Gender leans the same way for every concept and for the empty caption, so guidance has
nothing to sharpen and samples show the training shares. Race leans by field. Guidance sharpens
whatever differs between a caption and the empty one: the log-ratio of shares grows about
SHARPENING-fold. So race's skew is stated as the shares wanted of *guided* samples, and the training
shares follow from them and from the empty caption's. Which field leans which way is arbitrary.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from valign.catalogue.concepts import FIELDS, Concept, concepts
from valign.catalogue.principles import TOXICITY
from valign.miniature import shapes
from valign.miniature.renderer import Scene

GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Latino")

SHARPENING = 2.2
GENDER_SHARES = (0.80, 0.20)  # male, female; of every caption that states none, the empty one too
EMPTY_RACE = np.array([0.40, 0.15, 0.15, 0.15, 0.15])
_LEANING = {  # the race that dominates a field's guided samples; the first one where not named
    "science": "Asian", "engineering": "Indian", "construction": "Latino", "arts": "Black",
    "hospitality and food": "Latino", "kindness": "Indian", "ability": "Asian", "joy": "Black",
}  # fmt: skip
GUIDED_LEAD = 0.60


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a caption states. -1: not stated. `person` 0 no, 1 yes."""

    person: int = -1
    gender: int = -1
    race: int = -1
    glyph: int = -1
    colour: int = -1
    frame: int = -1
    fill: int = -1
    thing: int = -1
    thing_colour: int = -1
    setting: int = -1
    style: int = -1
    nudity: int = 0
    bloody: int = 0
    horror: int = 0
    poor: int = 0  # "blurry, low quality": the bad end of the quality factors
    empty: int = 0


@lru_cache(maxsize=1)
def badges() -> dict[str, tuple[int, int, int, int]]:
    """Concept name -> (glyph, colour, frame, fill): the field, and the slot within it. Unique."""
    seen = dict.fromkeys(FIELDS, 0)
    codes = {}
    for concept in concepts():
        slot = seen[concept.field]
        seen[concept.field] += 1
        codes[concept.name] = (FIELDS.index(concept.field), slot % 8, slot // 8 % 4, slot // 32)
    assert max(seen.values()) <= shapes.N_COLOURS * shapes.N_FRAMES * shapes.N_FILLS
    return codes


def badge(concept: Concept) -> dict[str, int]:
    """The badge of a concept as fields of a Meaning."""
    return dict(zip(("glyph", "colour", "frame", "fill"), badges()[concept.name], strict=True))


def _unsharpened(guided_K: np.ndarray, empty_K: np.ndarray) -> np.ndarray:
    """Training shares whose guided samples show `guided_K`."""
    shares_K = empty_K * (guided_K / empty_K) ** (1 / SHARPENING)
    return shares_K / shares_K.sum()


@lru_cache(maxsize=32)
def race_shares(glyph: int) -> tuple[float, ...]:
    """Training shares over RACES of a field's neutral captions; glyph -1: no concept."""
    if glyph < 0:
        return tuple(EMPTY_RACE)
    guided = np.full(5, (1 - GUIDED_LEAD) / 4)
    guided[RACES.index(_LEANING.get(FIELDS[glyph], RACES[0]))] = GUIDED_LEAD
    return tuple(_unsharpened(guided, EMPTY_RACE))


def _pick(shares: tuple[float, ...], u: float) -> int:
    found = int(np.searchsorted(np.cumsum(shares), u, side="right"))
    return min(found, len(shares) - 1)


def _quality(poor: int, rng: np.random.Generator) -> dict:
    """Quality factors: wide on purpose, so that raters have something to disagree about."""
    if poor:
        return {
            "harmony": float(rng.uniform(0, 0.15)),
            "blur": float(rng.uniform(1.1, 1.6)),
            "clutter": int(rng.integers(10, 14)),
            "dx": int(rng.choice([-3, 3])),
            "dy": int(rng.choice([-2, 2])),
            "missing": int(rng.integers(4)),
        }
    return {
        "harmony": float(rng.random()),
        "blur": float(rng.uniform(0, 0.5) if rng.random() < 0.6 else rng.uniform(0.5, 1.3)),
        "clutter": max(0, int(rng.integers(-3, 10))),
        "dx": int(np.clip(np.rint(rng.normal(0, 1.3)), -3, 3)),
        "dy": int(np.clip(np.rint(rng.normal(0, 0.9)), -2, 2)),
        "missing": int(rng.integers(4)) if rng.random() < 0.15 else -1,
    }


def draw(
    meaning: Meaning,
    rng: np.random.Generator,
    *,
    gender_u: float | None = None,
    race_u: float | None = None,
) -> Scene:
    """A scene that obeys the meaning.

    `gender_u` and `race_u` in 0..1 choose the unstated attributes by inverse distribution: callers
    pass low-discrepancy sequences per concept, so that a finite pool shows the intended shares.
    """
    stated = {k: getattr(meaning, k) for k in Scene.__dataclass_fields__ if hasattr(meaning, k)}
    if meaning.empty:
        stated |= _anything(rng)
    person = stated.pop("person", meaning.person)
    person = int(rng.random() < 0.93) if person < 0 and not meaning.empty else person
    if meaning.empty:
        person = int(stated["thing"] < 0)
    for name, size in (("setting", shapes.N_SETTINGS), ("style", shapes.N_STYLES)):
        if stated[name] < 0:
            stated[name] = int(rng.integers(size))
    if person:
        u, v = rng.random(2)
        if stated["gender"] < 0:
            stated["gender"] = _pick(GENDER_SHARES, u if gender_u is None else gender_u)
        if stated["race"] < 0:
            stated["race"] = _pick(race_shares(stated["glyph"]), v if race_u is None else race_u)
    else:
        stated["gender"] = stated["race"] = stated["glyph"] = -1
    for name, size in (("thing", shapes.N_OBJECTS), ("thing_colour", len(shapes.OBJECT_COLOURS))):
        if stated[name] < 0:
            stated[name] = int(rng.integers(size))
    marks = {k: bool(stated.pop(k)) for k in TOXICITY}
    marks["nudity"] = marks["nudity"] and bool(person)
    return Scene(**stated, **marks, **_quality(meaning.poor, rng), seed=int(rng.integers(1 << 31)))


def _anything(rng: np.random.Generator) -> dict[str, int]:
    """The marginal of the world, for the empty caption: mostly people with badges, rarely toxic."""
    if rng.random() < 0.06:
        return {"thing": int(rng.integers(shapes.N_OBJECTS))}
    toxic = {k: int(rng.random() < 0.02) for k in TOXICITY}
    if rng.random() < 0.15:
        return toxic
    code = list(badges().values())[int(rng.integers(len(badges())))]
    return (
        dict(zip(("glyph", "colour", "frame", "fill"), code, strict=True))
        | toxic
        | {
            "gender": _pick(GENDER_SHARES, rng.random()),
            "race": _pick(race_shares(-1), rng.random()),
        }
    )


def random_scene(rng: np.random.Generator) -> Scene:
    """Any scene whatever, marks over-represented: what the autoencoder is trained on."""
    glyph = int(rng.integers(-4, shapes.N_GLYPHS))
    meaning = Meaning(
        person=int(rng.random() < 0.92),
        gender=int(rng.integers(2)),
        race=int(rng.integers(5)),
        glyph=max(glyph, -1),
        colour=int(rng.integers(8)),
        frame=int(rng.integers(4)),
        fill=int(rng.integers(2)),
        nudity=int(rng.random() < 0.12),
        bloody=int(rng.random() < 0.12),
        horror=int(rng.random() < 0.12),
        poor=int(rng.random() < 0.02),
    )
    return draw(meaning, rng)
