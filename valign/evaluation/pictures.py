"""Pictures for the report: what a caller hands over, and how it is embedded.

In: PNG bytes with captions. Out: data URLs, pictures larger than the page needs made smaller.
Which pictures are toxic is the caller's knowledge; the page keeps those blurred until asked.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

LARGEST_PX = 256
PIXEL_ART_PX = 128  # up to here a picture is enlarged without smoothing


@dataclass(frozen=True, slots=True)
class Picture:
    """One generated image.

    Attributes:
        png: the image file (PNG, or anything that PIL reads).
        caption: what it is; the text alternative, so say what can be known ("seed 3, female").
        toxic: whether to blur it until the reader asks to see it.
    """

    png: bytes
    caption: str
    toxic: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """The same prompt and the same noise under each model.

    Attributes:
        group: the heading it stands under ("Gender", "Bloody content").
        prompt: the prompt's text.
        rows: model -> its pictures; the i-th picture of every row starts from the same noise.
        note: anything a reader should know of it.
        category: what readers can choose it by, besides the group ("career"); "" for none.
        worst: whether it was chosen because a model did badly on it.
    """

    group: str
    prompt: str
    rows: Mapping[str, Sequence[Picture]]
    note: str = ""
    category: str = ""
    worst: bool = False

    def __post_init__(self) -> None:
        lengths = {model: len(row) for model, row in self.rows.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"rows of {self.prompt!r} differ in length: {lengths}; pair by seed")

    @property
    def columns(self) -> list[list[tuple[str, Picture]]]:
        """The pictures of each noise seed, model under model."""
        paired = zip(*self.rows.values(), strict=True)
        return [list(zip(self.rows, column, strict=True)) for column in paired]

    @property
    def veiled(self) -> bool:
        """Whether any of its pictures is blurred at first."""
        return any(picture.toxic for row in self.rows.values() for picture in row)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture as the page holds it: a data URL, its size, and whether it is pixel art."""

    url: str
    width_px: int
    height_px: int
    pixel_art: bool


def embed(picture: Picture) -> Embedded:
    """Return the picture as a data URL, at most 256 pixels wide and high.

    Raises:
        ValueError: the bytes are not an image.
    """
    try:
        image = Image.open(io.BytesIO(picture.png))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the picture {picture.caption!r} is not a readable image") from error
    data, kind = picture.png, (image.format or "png").lower()
    if max(image.size) > LARGEST_PX:
        image.thumbnail((LARGEST_PX, LARGEST_PX))
        stream = io.BytesIO()
        image.convert("RGB").save(stream, format="WEBP", quality=85)
        data, kind = stream.getvalue(), "webp"
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Embedded(url, *image.size, max(image.size) <= PIXEL_ART_PX)
