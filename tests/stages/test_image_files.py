"""Images as files: lossless where promised, the same bytes every time, and they say where from."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests import tiny_run
from valign.settings import Images
from valign.stages.execute import execute
from valign.stages.image_files import SUFFIX, XMP_NAMESPACE, encode, pixels
from valign.stages.inline import Inline
from valign.storage import layout, manifests, tables
from valign.storage.objects import open_store

FORMATS = ("png", "webp", "jpeg")
KNOWN = {"image_id": "a1", "seed": "7", "prompt": 'a "café" <&> \x00\x08 naïve\n日本'}
READ = KNOWN | {"prompt": 'a "café" <&>    naïve\n日本'}


def picture(size=64):
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, size)[:, None, None] * np.ones((1, size, 3))
    return (smooth * 0.7 + rng.integers(0, 70, (size, size, 3))).astype(np.uint8)


def known_of(data):
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG":
        return dict(image.text)
    (described,) = ElementTree.fromstring(image.info["xmp"]).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    start = f"{{{XMP_NAMESPACE}}}"
    return {k.removeprefix(start): v for k, v in described.attrib.items() if k.startswith(start)}


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_known_is_read_back_and_bytes_repeat(name):
    settings = Images(format=name)
    data = encode(picture(), settings, KNOWN)
    assert data == encode(picture(), settings, KNOWN)
    assert known_of(data) == READ
    assert Image.open(io.BytesIO(data)).format == name.upper()


@pytest.mark.parametrize("name", ["png", "webp"])
def test_lossless_formats_keep_every_pixel(name):
    data = encode(picture(), Images(format=name), KNOWN)
    assert np.array_equal(pixels(data), picture())


def test_jpeg_loses_less_at_higher_quality():
    sizes, losses = [], []
    for quality in (50, 95):
        data = encode(picture(), Images(format="jpeg", quality=quality), {})
        sizes.append(len(data))
        losses.append(np.abs(pixels(data).astype(int) - picture()).mean())
    assert sizes[0] < sizes[1] and losses[0] > losses[1] > 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_keeps_images_in_the_format_it_asks_for(name, recipe, tmp_path):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a red bus\n")
    chosen = [f"prompts={prompts}", f"images.format={name}", "images.embed_prompt=true"]
    run = tiny_run.load(recipe, tmp_path / "root", *chosen)
    execute(("generate", "score"), run, Inline())
    store = open_store(run.root)
    made = manifests.get(store, "generate")
    assert made.counts["safety_checker"] == "none"
    assert made.settings["images.format"] == name
    (row,) = tables.read(store, layout.part("generate", 0), tables.IMAGES).to_pylist()
    assert row["image"]["path"] == f"{row['image_id']}.{SUFFIX[name]}"
    known = known_of(row["image"]["bytes"])
    for key in ("image_id", "prompt_id", "generator"):
        assert known[key] == row[key]
    assert known["seed"] == str(row["seed"])
    assert (known["prompt"], known["safety_checker"]) == ("a red bus", "none")
    scored = tables.read_scores(store, layout.part("score", 0)).to_pylist()
    assert scored[0]["image_id"] == row["image_id"]
    assert np.isfinite(scored[0]["clip_score"]).all()


def test_a_prompts_text_is_not_embedded_unless_asked_for(finished):
    store = open_store(str(finished))
    row = tables.read(store, layout.part("generate", 0), tables.IMAGES).to_pylist()[0]
    assert set(known_of(row["image"]["bytes"])) == {
        *("Software", "image_id", "prompt_id", "generator", "seed", "safety_checker")
    }
