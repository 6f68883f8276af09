"""The page at `/` in a real browser, on the real models."""

import json

import pytest

from tests.browser import PROGRAM, Page, chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine"),
]
PUT = """(id, value) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("input"));
}"""
PICTURE = """(() => {
  const bytes = atob(document.getElementById("aligned-image").src.split(",")[1]);
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(bytes, (c) => c.charCodeAt(0))], "a.png"));
  document.getElementById("file").files = data.files;
})()"""

SAME = """(() => {
  const [base, aligned] = ["base-image", "aligned-image"].map((name) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 64;
    canvas.getContext("2d").drawImage(document.getElementById(name), 0, 0);
    return canvas.toDataURL();
  });
  return base == aligned;
})()"""


def put(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        page.run(f"({PUT})({json.dumps(name.replace('_', '-'))}, {json.dumps(value)})")


def send(page: Page, form: str, done: str) -> None:
    page.run(f"document.getElementById('{form}').requestSubmit()")
    page.until(done)


def text(page: Page, name: str) -> str:
    return page.run(f"document.getElementById('{name}').innerText")


def test_people_draw_compare_and_score(site, tmp_path):
    with chromium(tmp_path) as page:
        page.open(f"{site.url}/", width=1000)
        page.until("!document.getElementById('key-form').hidden")  # it asks for a key
        put(page, key=site.key)
        send(page, "key-form", "document.getElementById('model').options.length > 0")
        put(page, prompt="a naked statue <b>of rain</b>", seed="5", strength="1.5")
        history = "document.getElementById('history').children.length == {}"
        send(page, "draw-form", history.format(1))
        assert text(page, "reason").startswith('nudity: asks for nudity content: "naked"')
        assert "strength 1.5" in text(page, "reason")
        assert "pickscore" in text(page, "ballots")
        assert "verdict" in text(page, "ballots")
        sides = [f"document.getElementById('{side}-image')" for side in ("base", "aligned")]
        assert page.run(f"{sides[0]}.src != {sides[1]}.src")
        page.until(f"{sides[0]}.naturalWidth == 64 && {sides[1]}.naturalWidth == 64")
        assert not page.run(SAME)
        assert page.run("document.getElementById('aligned-save').download") == "aligned-seed5.png"
        put(page, principle="none")
        send(page, "draw-form", history.format(2))
        page.until(f"{sides[0]}.complete && {sides[1]}.complete")
        assert page.run(SAME)  # the files differ: each says which model drew it
        put(page, size="64x96")
        send(page, "draw-form", history.format(3))
        page.until(f"{sides[0]}.naturalHeight == 96 && {sides[1]}.naturalHeight == 96")
        page.run(PICTURE)
        put(page, score_prompt="a statue")
        page.run("document.getElementById('tab-score').click()")
        send(page, "score-form", "!document.getElementById('score-result').hidden")
        assert "clip_score" in text(page, "scores")
        assert "toxic" in text(page, "scores")
        assert page.run("document.querySelectorAll('b b').length") == 0  # prompts are no markup
        assert page.run("Object.keys(localStorage).length + document.cookie.length") == 0
        assert not [each for each in page.complaints if "401" not in each]
        page.open(f"{site.url}/", width=390)
        assert page.run("document.documentElement.scrollWidth") <= 390
        page.until("document.getElementById('model').options.length > 0")  # the key is kept
        unlabelled = (
            "[...document.querySelectorAll('input, select, textarea')]"
            ".filter((field) => !field.labels.length).length"
        )
        assert page.run(unlabelled) == 0
