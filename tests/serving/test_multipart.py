"""Forms: cut at their boundary, and refused in one pass when they are not well made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.serving.errors import RequestError
from valign.serving.multipart import parts
from valign.serving.tables import Limits
from valign.serving.wire import compare_form, score_form

TYPE = "multipart/form-data; boundary=b0undary"


def form(*fields: tuple[str, bytes], end: bytes = b"--\r\n") -> bytes:
    made = b""
    for name, data in fields:
        file = b'; filename="x.png"' if name == "image" else b""
        head = b'Content-Disposition: form-data; name="' + name.encode() + b'"' + file
        made += b"--b0undary\r\n" + head + b"\r\n\r\n" + data + b"\r\n"
    return made + b"--b0undary" + end


def test_a_forms_parts_are_its_bytes():
    data = bytes(range(256)) + b"\r\n--b0undar"
    found = parts(form(("image", data), ("prompt", b"a hill")), TYPE, most=5)
    assert [(part.name, part.data) for part in found] == [
        ("image", data),
        ("prompt", b"a hill"),
    ]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", TYPE, "begin"),
        (form(("image", b"x")), "multipart/form-data", "no boundary"),
        (form(("image", b"x"), end=b""), TYPE, "end is missing"),
        (form(*[("image", b"x")] * 6), TYPE, "more than 5 parts"),
        (b"--b0undary\r\n\r\nx\r\n--b0undary--", TYPE, "no name"),
        (b"--b0undary\r\n" + b"a" * 10_000 + b"\r\n--b0undary--", TYPE, "no name"),
    ],
)
def test_a_form_that_is_not_well_made_is_told(body, kind, words):
    with pytest.raises(RequestError, match=words):
        parts(body, kind, most=5)


def test_forms_are_read_like_json():
    limits = Limits(pictures=2, picture_bytes=100)
    two = parts(form(("image", b"1"), ("image", b"2"), ("prompt", b"a hill")), TYPE, most=9)
    assert [(p.data, p.prompt) for p in score_form(two, limits)] == [
        (b"1", "a hill"),
        (b"2", "a hill"),
    ]
    assert compare_form(two, limits).prompt == "a hill"
    for fields, words in (
        ([("image", b"1")], "1 images with 0 prompts"),
        ([("prompt", b"a hill")], "1 to 2 images"),
        ([("image", b"1"), ("prompt", b"\xff")], "no UTF-8"),
        ([("image", b"1"), ("prompt", b" ")], "blank"),
        ([("url", b"http://x")], "named image and prompt only"),
    ):
        with pytest.raises(RequestError, match=words):
            score_form(parts(form(*fields), TYPE, most=9), limits)
    large = parts(form(("image", b"x" * 101), ("prompt", b"a hill")), TYPE, most=9)
    assert "100 bytes" in score_form(large, limits)[0].fault


@given(st.binary(max_size=300), st.text(max_size=40))
def test_any_bytes_are_a_form_or_refused(body, boundary):
    for data in (body, b"--b0undary" + body, form(("image", body))):
        for kind in (TYPE, f"multipart/form-data; boundary={boundary}"):
            try:
                parts(data, kind, most=5)
            except RequestError as error:
                assert error.status == 400
