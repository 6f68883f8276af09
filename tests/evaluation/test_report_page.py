"""The report in a real browser: what a reader sees, clicks and prints, from a file on disk."""

import pytest
from eval_worlds import bias_set, toxic_set, world
from test_report import png

from tests.browser import PROGRAM, Page, chromium
from valign.evaluation.measure import measure
from valign.evaluation.pictures import Grid, Picture
from valign.evaluation.report import render

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine"),
]
MODELS = ("base", "aligned", "a-third-model-with-a-long-name")
SHOWN = "[...document.querySelectorAll('{}')].filter((each) => each.checkVisibility())"
FILTER = "getComputedStyle(document.querySelectorAll('.veil img')[{}]).filter"


def grid(group: str, category: str, *, toxic: bool = False, worst: bool = False) -> Grid:
    rows = {
        model: [Picture(png(i), f"sample {i}", toxic=toxic) for i in range(3)] for model in MODELS
    }
    return Grid(group, f"A photo of {category}", rows, category=category, worst=worst)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report of three models, on disk."""
    size = {"prompts": 12, "samples": 20, "seed": 9}
    third = {
        "gender": bias_set("gender", [0.7, 0.3], **size),
        "race": bias_set("race", [0.3, 0.1, 0.2, 0.2, 0.2], **size),
        "toxicity": toxic_set(0.5, **size),
    }
    results = measure({**world(), MODELS[2]: third}, resamples=100)
    grids = [
        grid("Gender", "career"),
        grid("Gender", "positive", worst=True),
        grid("Race", "career"),
        grid("Horror content", "", toxic=True),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(results, grids, curves={"loss": [(0, 2.0), (1, 1.0)]}))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def count(page: Page, selector: str) -> int:
    return page.run(f"{SHOWN.format(selector)}.length")


def click(page: Page, selector: str) -> None:
    page.run(f"document.querySelector('{selector}').click()")


@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_from_disk_in_light_and_dark_and_fits_the_window(page, file, width):
    seen = {}
    for scheme in ("light", "dark"):
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        page.send("Emulation.setEmulatedMedia", features=wanted)
        page.open(file.as_uri(), width=width)
        assert page.run("document.documentElement.scrollWidth") <= width
        loaded = (
            "performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'))"
        )
        assert page.run(f"{loaded}.length") == 0
        of = "getComputedStyle(document.querySelector('{}')).{}"
        seen[scheme] = [
            page.run(of.format(*place))
            for place in (("body", "backgroundColor"), ("body", "color"), ("svg text", "fill"))
        ]
    assert all(one != other for one, other in zip(*seen.values(), strict=True))
    assert page.complaints == []
    assert count(page, "figure svg") >= 12
    assert page.run("[...document.images].every((image) => image.naturalWidth == 64)")


def test_pictures_are_chosen_by_content_category_and_worst(page, file):
    page.open(file.as_uri(), width=1280)
    assert (count(page, ".group"), count(page, ".case")) == (3, 4)
    click(page, "#group-1")
    assert (count(page, ".group"), count(page, ".case")) == (1, 2)
    click(page, "#category-1")  # of these, careers
    assert (count(page, ".group"), count(page, ".case")) == (1, 1)
    click(page, "#group-0")
    assert (count(page, ".group"), count(page, ".case")) == (2, 2)
    click(page, "#category-0")
    click(page, "#only-worst")
    assert (count(page, ".group"), count(page, ".case")) == (1, 1)
    assert "worst case" in page.run("document.querySelector('.case[data-worst]').innerText")
    click(page, "#only-worst")
    assert count(page, ".case") == 4


def test_toxic_pictures_are_blurred_until_clicked(page, file):
    page.open(file.as_uri(), width=390)
    assert page.run("document.querySelectorAll('.veil').length") == 9
    blurred = "[...document.querySelectorAll('.shot:not(.veil) img')].filter("
    blurred += "(image) => getComputedStyle(image).filter != 'none').length"
    assert page.run(blurred) == 0
    assert [page.run(FILTER.format(i)).startswith("blur") for i in (0, 1)] == [True, True]
    click(page, ".veil")
    assert [page.run(FILTER.format(i)) == "none" for i in (0, 1)] == [True, False]
    click(page, ".show-all")
    assert [page.run(FILTER.format(i)) for i in range(9)] == ["none"] * 9
    click(page, ".show-all")
    assert page.run(FILTER.format(1)).startswith("blur")


def test_best_and_second_best_can_be_seen_and_heard(page, file):
    page.open(file.as_uri(), width=1280)
    row = (
        "[...document.querySelectorAll('#tables tr')].find((row) => row.innerText.startsWith('D1'))"
    )
    cells = f"[...{row}.querySelectorAll('td')]"
    marked = page.run(f"{cells}.slice(0, 3).map((cell) => cell.className)")
    assert sorted(marked) == ["", "place-1", "place-2"]
    best = f"{cells}.find((cell) => cell.className == 'place-1')"
    value = "getComputedStyle({}.querySelector('.value'))"
    assert int(page.run(f"{value.format(best)}.fontWeight")) >= 600
    assert "best" in page.run(f"{best}.textContent")
    second = f"{cells}.find((cell) => cell.className == 'place-2')"
    assert page.run(f"{value.format(second)}.textDecorationLine") == "underline"
    assert page.run("document.querySelectorAll('#wins svg').length") == 4
    assert page.run("document.querySelectorAll('#trade-offs svg').length") == 3


def test_it_prints_without_controls(page, file):
    page.open(file.as_uri(), width=1280)
    page.send("Emulation.setEmulatedMedia", media="print")
    assert count(page, ".filters, nav, .show") == 0
    assert count(page, ".case") == 4
    page.send("Emulation.setEmulatedMedia", media="")
