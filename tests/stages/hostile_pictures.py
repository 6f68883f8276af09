"""Pictures that must not get in, each with its file name and the reason that is given for it."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 32, 3), np.uint8)
LIMIT = 10_000


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RGB).convert(mode)


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
