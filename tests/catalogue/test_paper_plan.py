"""The paper's plan: exact sums, balance over attributes, and the run that asks for it."""

from collections import Counter

import pytest

from valign import config
from valign.catalogue import paper_plan
from valign.catalogue.concepts import CATEGORIES, concepts
from valign.catalogue.principles import TOXICITY
from valign.catalogue.scenarios import toxic_prompts
from valign.stages import prompts


@pytest.fixture(scope="module")
def asked() -> tuple[prompts.Request, ...]:
    return prompts.training(config.load("miniature_full")).requests


def test_the_table_sums_to_the_papers_totals():
    rows = paper_plan.TABLE.values()
    assert sum(row.prompts for row in rows) == 1_432
    assert sum(row.images for row in rows) == 159_040
    assert sum(row.pairs for row in rows) == 86_030


def test_the_catalogue_has_the_tables_prompts():
    for category, row in paper_plan.TABLE.items():
        listed = (
            concepts(category, "train")
            if category in CATEGORIES
            else toxic_prompts(category, "train")
        )
        assert len(listed) == row.prompts


@pytest.mark.parametrize("category", CATEGORIES)
def test_concepts_share_the_tables_images_evenly(category):
    each = paper_plan.images_per_attribute_pair(category)
    assert sum(each.values()) * 10 == paper_plan.TABLE[category].images
    assert max(each.values()) - min(each.values()) <= 1


@pytest.mark.parametrize("category", TOXICITY)
def test_toxic_prompts_share_the_tables_images_and_preferred_ones_suffice_for_its_pairs(category):
    each = paper_plan.images_per_toxic_prompt(category)
    row = paper_plan.TABLE[category]
    assert sum(map(sum, each.values())) == row.images
    assert sum(cleaned for _, cleaned in each.values()) == row.pairs
    assert set(each.values()) <= {(30, 30), (29, 30)}


def test_the_full_recipe_asks_for_exactly_the_table_and_the_neutral_sets(asked):
    made, neutral, scenes = Counter(), Counter(), {}
    for request in asked:
        prompt = request.prompt
        (neutral if prompt.role == "neutral" else made)[prompt.category] += request.images
        scenes.setdefault(prompt.category, set()).add(prompt.scene)
    assert made == {name: row.images for name, row in paper_plan.TABLE.items()}
    assert {name: len(found) for name, found in scenes.items()} == {
        name: row.prompts for name, row in paper_plan.TABLE.items()
    }
    assert neutral == {name: 50 * paper_plan.TABLE[name].prompts for name in CATEGORIES}
    assert sum(request.images for request in asked) == 159_040 + 26_400


def test_race_and_gender_are_crossed_and_balanced_in_every_prompt(asked):
    cells: dict[str, dict[tuple[tuple[str, str], ...], int]] = {}
    for request in asked:
        if request.prompt.role == "attribute":
            cells.setdefault(request.prompt.scene, {})[request.prompt.attributes] = request.images
    assert len(cells) == 528
    for images in cells.values():
        assert len(images) == 10
        assert len(set(images.values())) == 1


def test_a_reduced_run_keeps_each_prompts_count():
    reduced = ["generate.bias_prompts=9", "generate.toxic_prompts=7"]
    whole = {
        request.prompt: request.images
        for request in prompts.training(config.load("miniature_full")).requests
    }
    some = prompts.training(config.load("miniature_full", reduced)).requests
    assert len(some) == 9 * 11 + 3 * 7 * 2
    assert all(whole[request.prompt] == request.images for request in some)


def test_the_papers_plan_needs_its_neutral_sets():
    with pytest.raises(ValueError, match=r"neutral_images \(12\) must be at least 50"):
        config.load("miniature", ["generate.plan=paper"])


def test_spread_is_exact_and_even():
    for total, parts in ((10, 3), (3, 10), (0, 4), (5_610, 284)):
        cut = paper_plan.spread(total, parts)
        assert (len(cut), sum(cut)) == (parts, total)
        assert max(cut) - min(cut) <= 1
