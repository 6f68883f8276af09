"""The parts of a multipart/form-data body: names and bytes.

In: a body that is wholly here and of bounded size, and its Content-Type. Out: its parts in their
order. Parts are cut at the boundary in one pass; nothing nests, and nothing is written to a disk.
"""

import re
from dataclasses import dataclass

from valign.serving.errors import bad

_BOUNDARY = re.compile(
    r'multipart/form-data\s*;.*?boundary="?([0-9A-Za-z\'()+_,./:=? -]{1,70})"?\s*$'
)
_NAME = re.compile(rb'content-disposition:\s*form-data\s*;[^\r\n]*?\bname="([^"\r\n]{1,64})"', re.I)
_LONGEST_HEAD = 2_000


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form."""

    name: str
    data: bytes

    def text(self) -> str:
        """Return a field's text.

        Raises:
            RequestError: 400, it is no UTF-8.
        """
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError:
            raise bad(f"{self.name} is no UTF-8 text", self.name) from None


def parts(body: bytes, content_type: str, *, most: int) -> list[Part]:
    """Return a form's parts.

    Args:
        body: the whole body.
        content_type: of the request.
        most: parts that are allowed.

    Raises:
        RequestError: 400, it is no such form or has more parts.
    """
    match = _BOUNDARY.match(content_type)
    if match is None:
        raise bad("the Content-Type names no boundary of multipart/form-data")
    mark = b"--" + match[1].encode("ascii")
    if not body.startswith(mark):
        raise bad("the body does not begin with the form's boundary")
    pieces = body[len(mark) :].split(b"\r\n" + mark, most + 1)
    if len(pieces) > most + 1:
        raise bad(f"the form has more than {most} parts")
    if not pieces[-1].startswith(b"--"):
        raise bad("the form's end is missing")
    return [_part(piece) for piece in pieces[:-1]]


def _part(piece: bytes) -> Part:
    end = piece.find(b"\r\n\r\n", 0, _LONGEST_HEAD)
    head = piece[:end] if end >= 0 else b""
    named = _NAME.search(head)
    if named is None:
        raise bad("a part of the form has no name")
    name = named[1].decode("utf-8", "replace")
    return Part(name, piece[end + 4 :])
