"""Pictures from outside: what is kept, what is turned or converted, and what is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from valign.stages.accept_picture import Refused, accept

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 32, 3), np.uint8)
LIMIT = 10_000


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RGB).convert(mode)


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


def transparent() -> Image.Image:
    image = picture("RGBA")
    image.putpixel((3, 3), (1, 2, 3, 100))
    return image


def deep_rgb_png() -> bytes:
    """A 16-bit RGB PNG by hand: Pillow reads such as 8 bits without a word."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\0" + RNG.bytes(4 * 3 * 2) for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def bomb() -> bytes:
    """A PNG of 400 million pixels in a few hundred kilobytes."""
    return encoded(Image.new("1", (20_000, 20_000)), compress_level=9)


HOSTILE = {
    "none": (None, "", "no picture"),
    "zero bytes": (b"", "a.png", "zero bytes"),
    "text": (b"GIF or not", "a.png", "damaged"),
    "truncated png": (encoded(picture())[:900], "a.png", "truncated or damaged"),
    "truncated jpeg": (encoded(picture(), "JPEG")[:500], "a.jpg", "truncated or damaged"),
    "flipped bytes": (
        bytes(b ^ 0x55 if 60 < i < 400 else b for i, b in enumerate(encoded(picture()))),
        "a.png",
        "truncated or damaged",
    ),
    "wrong ending": (encoded(picture(), "JPEG"), "a.PNG", "says PNG, but it holds JPEG"),
    "bomb": (bomb(), "a.png", "more than 10,000 pixels"),
    "large": (encoded(Image.new("RGB", (101, 100))), "a.png", "101x100 is more than 10,000"),
    "cmyk": (encoded(picture("CMYK"), "JPEG"), "a.jpg", "CMYK"),
    "16-bit grey": (encoded(Image.fromarray(RGB[..., 0].astype(np.uint16) * 256)), "", "16 bits"),
    "16-bit rgb": (deep_rgb_png(), "a.png", "16 bits"),
    "transparent": (encoded(transparent()), "a.png", "transparent"),
    "animated gif": (
        encoded(picture("P"), "GIF", save_all=True, append_images=[picture("L").convert("P")]),
        "a.gif",
        "2 frames",
    ),
    "animated webp": (
        encoded(picture(), "WEBP", save_all=True, append_images=[picture("L").convert("RGB")]),
        "a.webp",
        "2 frames",
    ),
    "pages": (
        encoded(picture(), "TIFF", save_all=True, append_images=[picture("L")]),
        "a.tif",
        "2 frames",
    ),
    "black": (encoded(Image.new("RGB", (8, 8))), "a.png", "black"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.eps", "damaged"),
}


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
