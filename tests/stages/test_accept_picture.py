"""Pictures from outside: what is kept, what is turned or converted, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.stages.hostile_pictures import HOSTILE, LIMIT, RGB, RNG, encoded, picture
from valign.pictures import Refused, accept


@pytest.mark.parametrize(("form", "ending"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp")])
def test_a_plain_picture_is_kept_byte_for_byte(form, ending):
    data = encoded(picture(), form)
    assert accept(data, f"a{ending}", max_pixels=LIMIT) == (data, ending)


@pytest.mark.parametrize(
    "image",
    [picture("RGBA"), picture("P"), picture("L"), picture("1"), picture("LA")],
    ids=lambda image: image.mode,
)
def test_lossless_conversions_keep_the_pixels(image):
    data, _ = accept(encoded(image), max_pixels=LIMIT)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("form", ["BMP", "TIFF"])
def test_other_containers_become_png(form):
    data, ending = accept(encoded(picture(), form), max_pixels=LIMIT)
    assert ending == ".png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), RGB)


def test_exif_rotation_is_applied_to_the_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    data, ending = accept(encoded(picture(), exif=exif), max_pixels=LIMIT)
    turned = Image.open(io.BytesIO(data))
    assert ending == ".png"
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(RGB, -1))
    assert turned.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_are_refused_with_a_reason(name):
    data, file, reason = HOSTILE[name]
    with pytest.raises(Refused, match=reason) as caught:
        accept(data, file, max_pixels=LIMIT)
    assert "0x" not in str(caught.value)  # no address: reasons are the same in every run


def test_any_cut_and_any_byte_gives_a_picture_or_a_reason():
    """Fuzz: nothing but `Refused` leaves `accept`, whatever the bytes."""
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = encoded(picture("P") if form == "GIF" else picture(), form)
        for _ in range(60):
            data = bytearray(whole[: RNG.integers(1, len(whole) + 1)])
            for at in RNG.integers(0, len(data), 3):
                data[at] = RNG.integers(0, 256)
            try:
                kept, _ = accept(bytes(data), max_pixels=LIMIT)
            except Refused:
                continue
            assert Image.open(io.BytesIO(kept)).convert("RGB").size
