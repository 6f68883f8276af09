"""Read what a source says of its images: captions, labels, ids, and where each picture lies.

In: a file or folder of others. Out: planned images with their places, the pairs they came in, and
every row that cannot be used, with the reason. No picture is opened here.

A table's columns say what it is: two pictures and a caption (as in Pick-a-Pic, or a CSV of file
names), one picture and a caption, or images that valign made. A folder without a table holds
pictures that each have a .txt file of the same name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from valign.catalogue import guard
from valign.catalogue.import_prompts import BadRow, RefusedRow, prompt_of
from valign.catalogue.principles import PRINCIPLES, Principle
from valign.records import Prompt, digest, prompt_id
from valign.stages import images, import_columns, prompts
from valign.stages.images import PlannedImage
from valign.stages.import_columns import Columns
from valign.storage import foreign, layout, tables
from valign.storage.foreign import Place

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
HUMAN = {1.0: 1, 0.5: 0, 0.0: -1}  # label_0 -> a person's label: 1 the first image, -1 the second
IMPORTED = "imported"  # the generator, where a source does not name it


@dataclass(frozen=True, slots=True)
class Faulty:
    """A row that cannot be used; of its text nothing is kept."""

    file: str
    row: int  # from 0; -1: all of the file
    images: int
    reason: str


@dataclass
class Offered:
    """What a source offers, in its order; `places` and `generators` go with `rows`."""

    principles: Mapping[str, Principle]  # that captions may go against
    rows: list[PlannedImage] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    generators: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str, int | None]] = field(default_factory=list)  # image ids, label
    faulty: list[Faulty] = field(default_factory=list)
    refused: int = 0  # rows that the guard refused
    seen: dict[str, Place] = field(default_factory=dict)  # by image id
    met: dict[frozenset[str], str] = field(default_factory=dict)  # pairs of image ids
    names: dict[str, str] = field(default_factory=dict)  # ids of a source's single images
    _samples: dict[str, int] = field(default_factory=dict)

    def add(self, prompt: Prompt, place: Place, name: str, generator: str = IMPORTED) -> str:
        """Plan an image unless it is planned; return the id it has here.

        Args:
            prompt: its prompt.
            place: where it lies.
            name: its id in the source; "": it has none.
            generator: what made it.
        """
        key = prompt_id(prompt)
        image = digest("imported", name or [place.file, place.row, place.column], key)[:24]
        if image not in self.seen:
            sample = self._samples.get(key, 0)
            self._samples[key] = sample + 1
            row = PlannedImage(prompt=prompt, sample=sample, seed=0, image_id=image)
            self.keep(row, place, generator)
        return image

    def keep(self, row: PlannedImage, place: Place, generator: str) -> None:
        """Plan an image under the id that it has.

        Raises:
            BadRow: there is one of that id.
        """
        if row.image_id in self.seen:
            raise BadRow(f"its id is also that of {_where(self.seen[row.image_id])}")
        self.seen[row.image_id] = place
        self.rows.append(row)
        self.places.append(place)
        self.generators.append(generator)

    def pair(self, first: str, second: str, human: int | None, where: str) -> None:
        """Note that two images came as a pair.

        Raises:
            BadRow: they are one image, or came as a pair before.
        """
        both = frozenset((first, second))
        if len(both) == 1:
            raise BadRow("both images have the same id")
        if both in self.met:
            raise BadRow(f"the same pair as {self.met[both]}")
        self.met[both] = where
        self.pairs.append((first, second, human))


def read(
    source: Path,
    *,
    caption: str | None = None,
    principles: Mapping[str, Principle] = PRINCIPLES,
) -> Offered:
    """Read all rows of a source.

    Args:
        source: a Parquet, CSV, TSV or JSONL file, a folder of such or of pictures, or a run's root.
        caption: the column of the captions; none: found by its name.
        principles: images whose captions go against one of these are kept apart.

    Raises:
        ValueError: nothing in the source is of a form that is known here.
    """
    offered = Offered(principles)
    base, names = foreign.folder(source), foreign.files(source)
    own = [name for name in names if name.startswith(("generate/part-", "generate/toxic/part-"))]
    listed = [name for name in names if PurePosixPath(name).suffix in foreign.TABLES]
    for name in own or listed:
        _read_table(base, name, caption, offered)
    if layout.candidates() in names and own:
        _read_candidates(base, offered)
    if not listed:
        _read_captioned(base, names, offered)
    if not offered.rows:
        reasons = "; ".join(f"{bad.file}: {bad.reason}" for bad in offered.faulty[:5])
        raise ValueError(f"{source} offers no image that could be imported. {reasons}")
    return offered


def _read_table(base: Path, name: str, caption: str | None, offered: Offered) -> None:
    path = base / name
    try:
        kinds = foreign.columns(path)
    except ValueError as error:
        offered.faulty.append(Faulty(name, -1, 1, str(error)))
        return
    try:
        if foreign.schema_name(path) == "images":
            wanted = [n for n in tables.IMAGES.names if n != "image"]
            _each(path, name, wanted, 1, offered, _own)
            return
        found = import_columns.find(kinds, caption)
    except ValueError as error:
        offered.faulty.append(Faulty(name, -1, foreign.count(path), str(error)))
        return

    def take(row: Mapping[str, Any], place: Place, offered: Offered) -> None:
        _foreign(row, place, offered, found)

    _each(path, name, found.to_read, len(found.pictures), offered, take)


def _each(
    path: Path,
    name: str,
    wanted: Sequence[str],
    per_row: int,
    offered: Offered,
    take: Callable[[Mapping[str, Any], Place, Offered], None],
) -> None:
    rows = enumerate(foreign.rows(path, wanted))
    while True:
        try:
            number, row = next(rows)
        except StopIteration:
            return
        except ValueError as error:
            offered.faulty.append(Faulty(name, -1, per_row, str(error)))
            return
        try:
            take(row, Place(name, number, "image"), offered)
        except ValueError as error:
            offered.refused += isinstance(error, RefusedRow)
            offered.faulty.append(Faulty(name, number, per_row, str(error)))


def _own(row: Mapping[str, Any], place: Place, offered: Offered) -> None:
    if refusal := guard.refuse(str(row["text"])):
        raise RefusedRow(f"refused: {refusal.reason}")
    offered.keep(images.planned_row(row), place, str(row["generator"]))


def _foreign(row: Mapping[str, Any], place: Place, offered: Offered, columns: Columns) -> None:
    if row[columns.caption] is None:
        raise BadRow("the caption is missing")
    prompt = prompts.with_category(prompt_of({"prompt": row[columns.caption]}), offered.principles)
    places = [_place(row, place, column, columns.in_cells) for column in columns.pictures]
    ids = [str(row[name] or "") for name in columns.ids] or [""] * len(places)
    if len(places) == 1:
        if ids[0] and ids[0] in offered.names:
            raise BadRow(f"its id is also that of {offered.names[ids[0]]}")
        planned = len(offered.rows)
        offered.add(prompt, places[0], ids[0])
        if len(offered.rows) == planned:
            raise BadRow("the same picture and caption as an earlier row")
        offered.names[ids[0]] = _where(place)
        return
    label = row[columns.label] if columns.label else None
    human = None if columns.has_label and row[columns.has_label] is False else _human(label)
    models = [str(row[name] or IMPORTED) for name in columns.models] or [IMPORTED] * 2
    if all(ids) and ids[0] == ids[1]:
        raise BadRow("both images have the same id")
    first, second = (offered.add(prompt, *each) for each in zip(places, ids, models, strict=True))
    offered.pair(first, second, human, f"row {place.row} of {place.file}")


def _place(row: Mapping[str, Any], place: Place, column: str, in_cells: bool) -> Place:
    if in_cells:
        return Place(place.file, place.row, column)
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{column} names no file")
    path = PurePosixPath(place.file).parent / value.strip()
    if path.is_absolute() or ".." in path.parts or not str(path).isprintable():
        raise BadRow(f"{column} leads out of the folder")
    return Place(path.as_posix())


def _human(value: object) -> int | None:
    """Return a person's label of a pair from `label_0`; a missing one is None."""
    if value is None or value == "":
        return None
    try:
        label = float(str(value))
    except ValueError:
        raise BadRow(f"the label {str(value)[:20]!r} is not a number") from None
    if label not in HUMAN:
        raise BadRow(f"the label is {'NaN' if math.isnan(label) else label}, not 0, 0.5 or 1")
    return HUMAN[label]


def _read_candidates(base: Path, offered: Offered) -> None:
    path, name = base / layout.candidates(), layout.candidates()
    for number, row in enumerate(foreign.rows(path, ["first", "second", "human"])):
        first, second = str(row["first"]), str(row["second"])
        try:
            if not {first, second} <= offered.seen.keys():
                raise BadRow("one of its images is not there")
            offered.pair(first, second, row["human"], f"row {number} of {name}")
        except BadRow as error:
            offered.faulty.append(Faulty(name, number, 0, str(error)))


def _read_captioned(base: Path, names: Sequence[str], offered: Offered) -> None:
    """Plan the pictures of a folder that have a .txt file of the same name."""
    for name in names:
        if PurePosixPath(name).suffix.lower() not in PICTURES:
            continue
        beside = PurePosixPath(name).with_suffix(".txt").as_posix()
        try:
            if beside not in names:
                raise BadRow("there is no .txt file of the same name with its caption")
            text = (base / beside).read_bytes().decode("utf-8", "surrogateescape")
            prompt = prompts.with_category(prompt_of({"prompt": text}), offered.principles)
            offered.add(prompt, Place(name), "")
        except BadRow as error:
            offered.refused += isinstance(error, RefusedRow)
            offered.faulty.append(Faulty(name, -1, 1, str(error)))


def _where(place: Place) -> str:
    return f"row {place.row} of {place.file}" if place.column else place.file
