"""Which columns of a table of others hold pictures, captions, labels and ids, by their names."""

from collections.abc import Mapping
from dataclasses import dataclass

PAIRED = (("jpg_0", "jpg_1"), ("image_0", "image_1"), ("file_0", "file_1"), ("image_a", "image_b"))
SINGLE = ("image", "file_name", "file", "path", "jpg", "png")
CAPTIONS = ("caption", "prompt", "text")
LABELS = ("label_0", "label")
PAIRED_IDS = ("image_0_uid", "image_1_uid")
SINGLE_IDS = ("image_id", "image_uid", "uid", "id")
MODELS = ("model_0", "model_1")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns; "" or nothing for what it does not have."""

    pictures: tuple[str, ...]  # two of a pair, or one
    in_cells: bool  # the cells hold the pictures; else they name files
    caption: str
    label: str
    has_label: str
    ids: tuple[str, ...]  # one per picture, or none
    models: tuple[str, ...]  # likewise

    @property
    def to_read(self) -> list[str]:
        """The columns whose values are needed before any picture is."""
        names = (self.caption, self.label, self.has_label, *self.ids, *self.models)
        files = () if self.in_cells else self.pictures
        return [name for name in dict.fromkeys((*names, *files)) if name]


def find(kinds: Mapping[str, str], caption: str | None = None) -> Columns:
    """Return a table's columns.

    Args:
        kinds: name -> `picture` or `value`.
        caption: the column of the captions; none: found by its name.

    Raises:
        ValueError: pictures or captions are missing; the message says what was looked for.
    """
    pair = next((pair for pair in PAIRED if set(pair) <= kinds.keys()), ())
    pictures = pair or tuple(name for name in SINGLE if name in kinds)[:1]
    wanted = (caption,) if caption else CAPTIONS
    captions = [name for name in wanted if name in kinds]
    missing = []
    if not pictures:
        missing.append(f"pictures ({', '.join(map(' and '.join, PAIRED))}, {', '.join(SINGLE)})")
    if not captions:
        missing.append(f"captions ({', '.join(wanted)})")
    if missing:
        raise ValueError(f"no column of {' and '.join(missing)}; it has {', '.join(kinds)}")
    given = tuple(name for name in (PAIRED_IDS if pair else SINGLE_IDS) if name in kinds)
    models = tuple(name for name in MODELS if name in kinds)
    return Columns(
        pictures=pictures,
        in_cells=kinds[pictures[0]] == "picture",
        caption=captions[0],
        label=next((name for name in LABELS if pair and name in kinds), ""),
        has_label="has_label" if pair and "has_label" in kinds else "",
        ids=given[: len(pictures)] if len(given) >= len(pictures) else (),
        models=models if pair and models == MODELS else (),
    )
