"""Images as files in memory: encoded with where they came from, and read back.

In: uint8 pixels, a format and what is known of the image. Out: bytes, always the same for the same
input and version of Pillow. PNG and WebP are lossless. What is known is embedded: as text chunks in
a PNG, as an XMP packet in WebP and JPEG, under the names given here.
"""

import io
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image, PngImagePlugin

from valign.settings import Images

SUFFIX = {"png": "png", "webp": "webp", "jpeg": "jpg"}
XMP_NAMESPACE = "urn:valign:1.0#"


def encode(image_HWC: np.ndarray, settings: Images, known: Mapping[str, str]) -> bytes:
    """Return an image (uint8, 0..255) as a file's bytes.

    Args:
        image_HWC: the pixels.
        settings: format and quality.
        known: what to embed, name to text; a name is a word of ASCII letters and `_`.
    """
    known = {name: _printable(text) for name, text in known.items()}
    picture, buffer = Image.fromarray(image_HWC), io.BytesIO()
    if settings.format == "png":
        chunks = PngImagePlugin.PngInfo()
        for name, text in known.items():
            chunks.add_itxt(name, text) if not text.isascii() else chunks.add_text(name, text)
        picture.save(buffer, "PNG", compress_level=1, pnginfo=chunks)
    elif settings.format == "webp":
        picture.save(buffer, "WEBP", lossless=True, quality=50, method=2, xmp=xmp(known))
    else:
        # 4:4:4, because halved colour blurs what scorers look at
        picture.save(buffer, "JPEG", quality=settings.quality, subsampling=0, xmp=xmp(known))
    return buffer.getvalue()


def xmp(known: Mapping[str, str]) -> bytes:
    """Return an XMP packet (ISO 16684-1) that states names and texts."""
    stated = "".join(f"\n   valign:{name}={quoteattr(text)}" for name, text in known.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f'  <rdf:Description rdf:about="" xmlns:valign="{XMP_NAMESPACE}"{stated}/>\n'
        " </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="w"?>'
    ).encode()


def _printable(text: str) -> str:
    """Return a text without the characters that XML and PNG cannot hold."""
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)


def png(image_HWC: np.ndarray) -> bytes:
    """Return an image (uint8, 0..255) as the bytes of a plain PNG."""
    return encode(image_HWC, Images(), {})


def pixels(data: bytes) -> np.ndarray:
    """Return encoded image bytes as uint8 RGB (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
