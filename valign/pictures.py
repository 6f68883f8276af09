"""Whether bytes from outside are a picture that can be used as it is, and if not, why.

In: bytes, imported or sent to a server. Out: bytes that hold one upright 8-bit picture, opaque,
still and of bounded size; or the reason why not. More pixels than allowed are not decoded. Files
that are all that already are kept byte for byte; lossless changes (turning as EXIF says, dropping
an opaque alpha channel, other containers) are made and kept as PNG; whatever would need a choice
(colours of CMYK or 16 bits, a ground behind transparency, one of many frames) is refused.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

KEPT = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
FORMATS = (*KEPT, "BMP", "GIF", "TIFF")  # no reader among these runs another program
_ENDINGS = {
    **{".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG"},
    **{".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF"},
}
_MODES = ("1", "L", "P", "RGB", "LA", "PA", "RGBA")
_ORIENTATION = 0x0112
_PNG_BIT_DEPTH = 24  # offset of the byte in a PNG file
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(OverflowError, MemoryError, struct.error, zlib.error),
)  # what PIL's readers raise over damaged files


class Refused(ValueError):
    """These bytes are not a picture that can be used; the message is the reason."""


def accept(
    data: bytes | None, name: str = "", *, max_pixels: int, formats: Sequence[str] = FORMATS
) -> tuple[bytes, str]:
    """Return a picture's bytes and the ending of their format.

    Args:
        data: what should be a picture.
        name: the file's name, if it has one: its ending must fit.
        max_pixels: largest width times height that is decoded.
        formats: the only ones that are read.

    Raises:
        Refused: it cannot be used.
    """
    if data is None:
        raise Refused("there is no picture of that name or in that cell")
    if not data:
        raise Refused("the file is empty (zero bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked below, broken tags do not matter
            image = Image.open(io.BytesIO(data), formats=tuple(formats))
            _check_size(image, max_pixels)
            _check_form(image, data, name)
            image.load()
            upright = _opaque(_upright(image))
    except Image.DecompressionBombError:
        raise Refused(f"it has more than {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise Refused(f"no {', '.join(formats)} picture, or a damaged one") from None
    except Refused:
        raise
    except _DAMAGE as error:
        raise Refused(f"truncated or damaged: {type(error).__name__}: {error}") from None
    if reason := fault(np.asarray(upright.convert("RGB"))):
        raise Refused(reason)
    if upright is image and _format(image) in KEPT:
        return data, KEPT[_format(image)]
    buffer = io.BytesIO()
    upright.convert("RGB").save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue(), ".png"


def fault(image_HWC: np.ndarray) -> str:
    """Say why an image (uint8, 0..255) cannot be used, or return an empty string."""
    if not image_HWC.any():
        return "the image is black"
    if (image_HWC == image_HWC[0, 0]).all():
        return "the image is one constant colour"
    return ""


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else str(image.format)  # JPEG with a preview behind


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise Refused(f"{width}x{height} is more than {max_pixels:,} pixels")


def _check_form(image: Image.Image, data: bytes, name: str) -> None:
    said = _ENDINGS.get(PurePosixPath(name).suffix.lower())
    if said and said != _format(image):
        raise Refused(f"its name says {said}, but it holds {_format(image)}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise Refused(f"animated, or of several pages: {frames} frames")
    if image.mode == "CMYK":
        raise Refused("its colours are CMYK; convert it to RGB")
    deep = image.mode.startswith(("I", "F"))
    if deep or (image.format == "PNG" and data[_PNG_BIT_DEPTH] == 16):
        raise Refused("it has 16 bits or more per channel; convert it to 8")
    if image.mode not in _MODES:
        raise Refused(f"its colour mode is {image.mode}; convert it to RGB")


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return image
    full = image.convert("RGBA")
    if np.asarray(full)[..., 3].min() < 255:
        raise Refused("it is transparent in places; put it on a ground")
    return full.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    turn = image.getexif().get(_ORIENTATION, 1)
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(methods[turn]) if turn in methods else image
