"""The raters: what each likes is what its published taste says, and labels are noisy as stated."""

from dataclasses import replace

import numpy as np
import pytest

from valign.catalogue.concepts import concepts
from valign.miniature import raters
from valign.miniature.renderer import render
from valign.miniature.scenes import Meaning, badge, draw
from valign.records import Prompt

N = 240


def _typical(n: int = 1) -> raters.Factors:
    return raters.Factors(
        **{key: np.full(n, mean, np.float32) for key, (mean, _) in raters.SCALE.items()}
    )


@pytest.fixture(scope="module")
def emblems():
    """Rendered answers to prompts that state a concept, gender and race."""
    rng = np.random.default_rng(3)
    images, prompts = [], []
    for concept in concepts(split="eval")[:N]:
        scene = draw(Meaning(person=1, gender=1, race=2, **badge(concept)), rng)
        images.append(render(replace(scene, missing=-1, blur=0.3)))
        stated = (("gender", "female"), ("race", "Asian"))
        prompts.append(Prompt(text=concept.name, scene="", concept=concept.name, attributes=stated))
    return np.stack(images), prompts


@pytest.mark.parametrize("rater", raters.RATERS)
@pytest.mark.parametrize("factor", raters.SCALE)
def test_a_spread_more_of_a_factor_is_worth_its_weight(rater, factor):
    base, spread = _typical(), raters.SCALE[factor][1]
    more = replace(base, **{factor: getattr(base, factor) + np.float32(spread)})
    worth = raters.utilities(more) - raters.utilities(base)
    wanted = raters.TASTES[rater].get(factor, 0.0)
    assert worth[0, raters.RATERS.index(rater)] == pytest.approx(wanted, abs=1e-4)


def test_what_is_plainly_wrong_is_wrong_enough():
    base = _typical()
    bad, worse = (replace(base, fidelity=np.array([x], np.float32)) for x in (0.5, 0.0))
    assert np.array_equal(raters.utilities(bad), raters.utilities(worse))


def test_the_raters_disagree_without_any_noise():
    rng = np.random.default_rng(0)
    seen = raters.Factors(
        **{
            key: rng.normal(mean, spread, 4000).astype(np.float32)
            for key, (mean, spread) in raters.SCALE.items()
        }
    )
    utility_NK = raters.utilities(seen)
    liked_PK = np.sign(utility_NK[::2] - utility_NK[1::2])
    agreement = (liked_PK[:, :, None] == liked_PK[:, None]).mean(0)
    apart = agreement[np.triu_indices(len(raters.RATERS), 1)]
    assert apart.max() < 0.9
    assert apart.min() > 0.5
    assert np.array_equal(utility_NK, raters.utilities(seen))


def test_fidelity_falls_with_another_badge_gender_or_race(emblems):
    images, prompts = emblems
    right = raters.factors(images, prompts).fidelity
    assert right.mean() > 0.95
    lying = [replace(p, attributes=(("gender", "male"), p.attributes[1])) for p in prompts]
    assert np.allclose(right - raters.factors(images, lying).fidelity, 1 / 3, atol=0.02)
    others = [
        replace(p, concept=q.concept)
        for p, q in zip(prompts, [*prompts[1:], prompts[0]], strict=True)
    ]
    assert (raters.factors(images, others).fidelity < right).mean() > 0.95
    silent = [Prompt(text="a place", scene="a place")] * len(images)
    assert (raters.factors(images, silent).fidelity == 1).all()


def test_a_persons_label_is_the_mean_taste_and_stated_noise(emblems):
    scorer = raters.TrueUtility()
    columns = scorer.score(*emblems)
    assert list(columns) == list(scorer.columns)
    values = {name: column.values for name, column in columns.items()}
    tastes = np.stack([values[f"utility.{name}"] for name in raters.RATERS])
    assert np.allclose(values["utility.human"], tastes.mean(0), atol=1e-5)
    noise = (values["utility.human_label"] - values["utility.human"]) / raters.HUMAN_NOISE
    assert noise.mean() == pytest.approx(0.577, abs=0.25)  # a Gumbel's mean, then its deviation
    assert noise.std() == pytest.approx(1.283, abs=0.25)
    again = scorer.score(*emblems)["utility.human_label"].values
    assert np.array_equal(values["utility.human_label"], again)


def test_each_image_needs_its_prompt(emblems):
    with pytest.raises(ValueError, match="give one prompt per image"):
        raters.factors(emblems[0], emblems[1][:-1])
