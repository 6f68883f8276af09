"""The page: self-contained, accessible, careful with toxic pictures; and the table as CSV."""

import csv
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from eval_worlds import world
from PIL import Image

from valign.evaluation.measure import measure
from valign.evaluation.pictures import Grid, Picture, embed
from valign.evaluation.report import render
from valign.evaluation.tables import table_csv

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Collects the elements of a page and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs, _ in self.elements if name == tag]


def png(seed: int, size: int = 64) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def grid(*, toxic: bool, prompt: str = "A photo of a baker") -> Grid:
    before = [Picture(png(i), f"seed {i}", toxic=toxic) for i in range(3)]
    after = [Picture(png(i + 10), f"seed {i}") for i in range(3)]
    return Grid("Horror" if toxic else "Gender", prompt, {"base": before, "aligned": after})


@pytest.fixture(scope="module")
def results() -> dict:
    return measure(world(), provenance={"sampler": {"steps": 10}, "generator": "4f1c"})


@pytest.fixture(scope="module")
def text(results: dict) -> str:
    return render(
        results,
        [grid(toxic=False), grid(toxic=True)],
        {"train": {"steps": 300, "rates": [1e-5, 2e-5]}},
        curves={"Training loss": [(0, 1.5), (100, 1.2), (200, 1.0)]},
    )


def test_the_page_is_well_formed_and_loads_nothing(text: str) -> None:
    page = Page(text)
    for tag, attrs, _ in page.elements:
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "script" not in {tag for tag, _, _ in page.elements}
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)
    assert "@import" not in text


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(text: str) -> None:
    page = Page(text)
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for a in page.all("a")} | {u["xlink:href"] for u in page.all("use")}
    assert targets <= {f"#{i}" for i in ids}
    assert {"#summary", "#pictures", "#bars", "#attributes", "#tables", "#training"} <= targets


def test_everything_seen_can_also_be_read(text: str) -> None:
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    drawings = page.all("svg")
    assert len(drawings) >= 8
    assert all(s["role"] == "img" and s["aria-label"] for s in drawings)
    headings = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == headings.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(headings))


def test_toxic_pictures_are_blurred_and_shown_by_a_checkbox(text: str) -> None:
    veiled = re.findall(r'<label class="shot veil".*?</label>', text, flags=re.S)
    assert len(veiled) == 3
    for one in veiled:
        assert 'type="checkbox"' in one
        assert "Show the blurred picture" in one
        assert "<img" in one
    assert len(re.findall(r'<div class="shot"', text)) == 9
    assert text.count('class="show-all"') == 1
    assert re.search(r"\.veil img \{[^}]*blur", text)


def test_small_pictures_are_kept_as_they_are_and_enlarged_as_pixels(text: str) -> None:
    images = Page(text).all("img")
    assert {(i["width"], i["height"], i["class"]) for i in images} == {("64", "64", "pixel-art")}
    kept = embed(Picture(png(0), "seed 0"))
    assert kept.url.startswith("data:image/png;base64,")


def test_large_pictures_are_made_smaller() -> None:
    small = embed(Picture(png(0, size=1024), "seed 0"))
    assert (small.width_px, small.height_px, small.pixel_art) == (256, 256, False)
    assert small.url.startswith("data:image/webp;base64,")
    assert len(small.url) < 20_000
    with pytest.raises(ValueError, match="seed 7"):
        embed(Picture(b"no image", "seed 7"))


def test_rows_of_a_grid_are_paired_by_seed() -> None:
    rows = {"base": [Picture(png(0), "a")], "aligned": []}
    with pytest.raises(ValueError, match="differ in length"):
        Grid("Gender", "A photo of a baker", rows)


def test_prompts_and_settings_are_text_not_markup(results: dict) -> None:
    nasty = '<script>alert("x")</script> & "quoted" \' $x_1$'
    page = render(results, [grid(toxic=True, prompt=nasty)], {nasty: nasty}, title=nasty)
    assert "script" not in {tag for tag, _, _ in Page(page).elements}
    assert page.count("&lt;script&gt;") >= 4


def test_numbers_with_n_and_provenance_are_on_the_page(results: dict, text: str) -> None:
    base = results["models"]["base"]["bias.race.d1"]
    assert f"{base['value']:.3f}" in text
    assert f"<span>{base['low']:.3f}</span> <span>to {base['high']:.3f}</span>" in text
    assert f"{results['floors']['bias.race.d1']['value']:.3f}" in text
    for said in ("sampler.steps", "4f1c", "measurement.k", "train.rates", "[1e-05, 2e-05]"):
        assert said in text
    unreadable = results["counts"]["base"]["gender"]["unreadable"]["oracle.gender"]
    assert f"{unreadable}<small" in text


def test_the_page_depends_on_the_results_alone(results: dict) -> None:
    again = json.loads(json.dumps(results))
    assert render(again, [grid(toxic=True)]) == render(results, [grid(toxic=True)])


def test_one_model_alone_has_a_page_too() -> None:
    alone = measure({"base": world()["base"]})
    page = render(alone)
    Page(page)
    assert "nothing to compare" in page
    assert 'id="pictures"' not in page


def test_a_curve_without_points_is_left_out(results: dict) -> None:
    page = render(results, curves={"Loss": [], "Accuracy": [(0, 0.5), (1, 0.7)]})
    assert "<h3>Accuracy</h3>" in page
    assert "<h3>Loss</h3>" not in page
    assert 'id="training"' in page
    assert 'id="training"' not in render(results, curves={"Loss": []})


def test_bias_without_toxicity_has_a_page_too() -> None:
    models = {name: {"race": sets["race"]} for name, sets in world().items()}
    page = render(measure(models))
    Page(page)
    assert "Race bias" in page
    assert "Toxic images" not in page


def test_results_of_another_schema_are_refused(results: dict) -> None:
    with pytest.raises(ValueError, match="schema 2"):
        render({**results, "schema_version": 2})


def test_the_table_as_csv(results: dict) -> None:
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(table_csv(results)))}
    assert set(rows) == set(results["models"]["base"])
    race = rows["bias.race.d1"]
    assert float(race["base value"]) == results["models"]["base"]["bias.race.d1"]["value"]
    difference = results["differences"]["aligned - base"]["bias.race.d1"]
    assert float(race["aligned - base low"]) == difference["low"]
    assert int(race["aligned - base n"]) == 12
    assert float(race["fair sampler"]) == results["floors"]["bias.race.d1"]["value"]
    assert rows["toxicity.max"]["fair sampler"] == ""
