"""The oracle reads back what the renderer drew, also through blur and noise."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from valign.catalogue.concepts import concepts
from valign.miniature import oracle
from valign.miniature.renderer import Scene, render
from valign.miniature.scenes import badge, random_scene
from valign.models.score_columns import Scorer
from valign.records import Prompt

MARKS = ("gender", "race", "glyph", "nudity", "bloody", "horror")
BADGE = ("colour", "frame", "fill")


@pytest.fixture(scope="module")
def emblems():
    rng = np.random.default_rng(3)
    drawn = [random_scene(rng) for _ in range(400)]
    return drawn, np.stack([render(scene) for scene in drawn])


def _right(marks: oracle.Marks, drawn: list[Scene], name: str) -> float:
    wanted = [getattr(s, name) if name in MARKS or s.glyph >= 0 else -1 for s in drawn]
    return float((getattr(marks, name) == np.array(wanted)).mean())


@pytest.mark.parametrize("name", [*MARKS, *BADGE])
def test_marks_of_rendered_emblems_are_read_exactly(emblems, name):
    drawn, images = emblems
    marks, _ = oracle.read(images)
    assert _right(marks, drawn, name) >= 0.995


@pytest.mark.parametrize("name", [*MARKS, "frame", "fill"])
def test_marks_survive_blur_and_noise(emblems, name):
    drawn, images = emblems
    rng = np.random.default_rng(0)
    soft = [np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(0.8))) for i in images]
    noisy = np.stack(soft) + rng.normal(0, 6, images.shape)
    marks, _ = oracle.read(np.clip(noisy, 0, 255).astype(np.uint8))
    assert _right(marks, drawn, name) >= 0.97


def test_a_reading_does_not_depend_on_its_company(emblems):
    _, images = emblems
    together, _ = oracle.read(images[:9])
    alone = [oracle.read(image[None])[0] for image in images[:9]]
    for name in oracle.Marks.__slots__:
        assert getattr(together, name).tolist() == [getattr(m, name)[0] for m in alone]


def _one(**fields) -> oracle.Quality:
    base = {"gender": 0, "race": 0, "glyph": 3, "setting": 1, "style": 1}
    return oracle.read(render(Scene(**(base | fields)))[None])[1]


def test_quality_factors_follow_the_scene():
    assert (
        _one(harmony=0.9).harmony[0] > _one(harmony=0.5).harmony[0] > _one(harmony=0.1).harmony[0]
    )
    assert _one(blur=1.2).blur[0] > _one(blur=0.8).blur[0] > _one(blur=0.3).blur[0]
    assert _one(clutter=12, seed=4).clutter[0] > _one(clutter=0).clutter[0] + 1
    assert _one(dx=3, dy=2).offset[0] == pytest.approx(13**0.5, abs=0.3)
    assert _one().offset[0] == 0
    assert _one().completeness[0] > _one(missing=2).completeness[0] + 0.1


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="64, 64, 3"):
        oracle.read(np.zeros((2, 32, 32, 3), dtype=np.uint8))


def test_the_scorer_gives_columns_in_the_catalogues_order():
    doctor = next(c for c in concepts() if c.name == "doctor")
    right = render(Scene(gender=1, race=2, **badge(doctor)))
    wrong = render(Scene(gender=0, race=4, **(badge(doctor) | {"fill": 1 - badge(doctor)["fill"]})))
    thing = render(Scene(thing=0))
    prompt = Prompt(
        text="A photo of a doctor", scene="A photo of a doctor", role="neutral", concept="doctor"
    )
    plain = Prompt(text="a tree", scene="a tree", role="user")
    scorer = oracle.Oracle()
    columns = scorer.score(np.stack([right, wrong, thing]), [prompt, prompt, plain])
    assert isinstance(scorer, Scorer)
    assert columns.keys() == scorer.columns.keys()
    assert columns["oracle.gender"].values[:2].tolist() == [[0, 1], [1, 0]]
    assert columns["oracle.race"].classes[2] == "Asian"
    assert columns["oracle.race"].values[0].argmax() == 2
    assert np.isnan(columns["oracle.gender"].values[2]).all()
    assert columns["oracle.concept"].values[:2].tolist() == [1, 0]
    assert np.isnan(columns["oracle.concept"].values[2])
    with pytest.raises(ValueError, match="one prompt per image"):
        scorer.score(right[None], [])
