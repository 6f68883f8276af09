"""What may be asked of the server, and what each request says when it has been checked.

In: decoded JSON. Out: typed records, or a `RequestError` that names the field. Images come as bytes
only: no URL is ever fetched. The guard reads every prompt.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from valign.catalogue import guard
from valign.serving.errors import RequestError, bad
from valign.serving.fields import read
from valign.serving.multipart import Part
from valign.serving.tables import (
    AUTO,
    LONGEST,
    NONE,
    Limits,
    compare_fields,
    images_fields,
    prompt_field,
    score_fields,
)

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,20};base64,")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesRequest:
    """Images of one prompt; None leaves the choice to the model."""

    prompt: str
    n: int
    size: tuple[int, int] | None  # width, height in pixels
    output_format: str
    quality: int  # of lossy formats, 1..100
    model: str | None
    seed: int | None
    steps: int | None
    guidance: float | None
    negative_prompt: str
    principles: str  # AUTO, NONE or a principle's key
    value_strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture that was sent: its bytes, or why it has none."""

    data: bytes
    prompt: str
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """Pictures of one prompt."""

    prompt: str
    pictures: tuple[Picture, ...]


_ESCAPED = 12  # bytes of a character as JSON may write it
_OTHER_FIELDS = 8_192  # bytes
_MOST_PARTS = 100_000  # a value of one byte takes up to eighty in memory


def most_bytes_of_images(limits: Limits) -> int:
    """Return how long a request for images can be: two prompts, and a little."""
    return 2 * _ESCAPED * limits.prompt_chars + _OTHER_FIELDS


def decoded(body: bytes) -> Any:
    """Return a body's JSON.

    Raises:
        RequestError: 400, it is none, or has more parts than any request.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > _MOST_PARTS:
        raise bad("the body has too many parts", code="invalid_json")

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError):  # numbers of thousands of digits are ValueErrors too
        raise bad("the body is no JSON", code="invalid_json") from None


def images_request(body: Any, limits: Limits) -> ImagesRequest:
    """Return a checked request for images.

    Raises:
        RequestError: 400; what is wrong and with which field.
    """
    values = read(body, images_fields(limits))
    refuse(values["prompt"], "prompt")
    return ImagesRequest(
        prompt=values["prompt"],
        n=values["n"],
        size=_size(values["size"], limits),
        output_format=values["output_format"],
        quality=max(1, values["output_compression"]),
        model=values["model"],
        seed=values["seed"],
        steps=values["num_inference_steps"],
        guidance=values["guidance_scale"],
        negative_prompt=values["negative_prompt"],
        principles=_principle(values["principles"]),
        value_strength=values["value_strength"],
    )


def score_request(body: Any, limits: Limits) -> tuple[Picture, ...]:
    """Return the pictures of a request for scores; one that cannot be read says so itself.

    Raises:
        RequestError: 400; what is wrong and with which field.
    """
    values = read(body, score_fields(limits))
    return tuple(from_base64(item["image"], item["prompt"], limits) for item in values["items"])


def compare_request(body: Any, limits: Limits) -> CompareRequest:
    """Return a checked request for a comparison.

    Raises:
        RequestError: 400; what is wrong and with which field.
    """
    values = read(body, compare_fields(limits))
    prompt = values["prompt"]
    refuse(prompt, "prompt")
    pictures = tuple(from_base64(text, prompt, limits) for text in values["images"])
    return CompareRequest(prompt=prompt, pictures=pictures)


def score_form(form: Sequence[Part], limits: Limits) -> tuple[Picture, ...]:
    """Return the pictures of a form: parts `image`, and a `prompt` for all or one for each.

    Raises:
        RequestError: 400; what is wrong and with which field.
    """
    images, prompts = _form(form, limits)
    if len(prompts) not in (1, len(images)):
        raise bad(f"{len(images)} images with {len(prompts)} prompts: give one, or one for each")
    texts = prompts * len(images) if len(prompts) == 1 else prompts
    return tuple(from_bytes(data, text, limits) for data, text in zip(images, texts, strict=True))


def compare_form(form: Sequence[Part], limits: Limits) -> CompareRequest:
    """Return a checked request for a comparison from a form: parts `image`, and one `prompt`.

    Raises:
        RequestError: 400; what is wrong and with which field.
    """
    images, prompts = _form(form, limits)
    if len(images) < 2 or len(prompts) != 1:
        raise bad("a comparison needs two or more images and one prompt")
    refuse(prompts[0], "prompt")
    pictures = tuple(from_bytes(data, prompts[0], limits) for data in images)
    return CompareRequest(prompt=prompts[0], pictures=pictures)


def _form(form: Sequence[Part], limits: Limits) -> tuple[list[bytes], list[str]]:
    """Return the images and the prompts of a form."""
    for part in form:
        if part.name not in ("image", "prompt"):
            raise bad("a form has parts named image and prompt only")
    images = [part.data for part in form if part.name == "image"]
    if not 1 <= len(images) <= limits.pictures:
        raise bad(f"a form has 1 to {limits.pictures} images", "image")
    field = {"prompt": prompt_field(limits)}
    texts = [part.text() for part in form if part.name == "prompt"]
    return images, [read({"prompt": text}, field)["prompt"] for text in texts]


def refuse(prompt: str, param: str) -> None:
    """Raise what the guard has against a prompt."""
    if refusal := guard.refuse(prompt):
        raise RequestError(
            400, f"the prompt is refused: it {refusal.reason}", param, "content_policy_violation"
        )


def from_base64(text: str, prompt: str, limits: Limits) -> Picture:
    """Return a picture that came as base64; its pixels are not looked at here."""
    if text.startswith(("http://", "https://", "file://", "ftp://")):
        return Picture(data=b"", prompt=prompt, fault="send the picture's bytes; URLs are not read")
    start = match.end() if (match := _DATA_URL.match(text)) else 0
    if (len(text) - start) * 3 // 4 > limits.picture_bytes + 2:
        return _too_large(prompt, limits)
    try:
        data = base64.b64decode(text[start:].encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return Picture(data=b"", prompt=prompt, fault="it is no base64")
    return from_bytes(data, prompt, limits)


def from_bytes(data: bytes, prompt: str, limits: Limits) -> Picture:
    """Return a picture that came as bytes, with its faults that show without decoding."""
    if len(data) > limits.picture_bytes:
        return _too_large(prompt, limits)
    if refusal := guard.refuse(prompt):
        return Picture(data=b"", prompt=prompt, fault=f"its prompt {refusal.reason}")
    return Picture(data=data, prompt=prompt)


def _too_large(prompt: str, limits: Limits) -> Picture:
    fault = f"its file has more than {limits.picture_bytes:,} bytes"
    return Picture(data=b"", prompt=prompt, fault=fault)


def _size(text: str, limits: Limits) -> tuple[int, int] | None:
    if text == "auto":
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise bad('size must be "auto" or WIDTHxHEIGHT in pixels, such as "512x512"', "size")
    width, height = int(match[1]), int(match[2])
    if max(width, height) > LONGEST * min(width, height):
        raise bad(f"size {text}: one side is more than {LONGEST} times the other", "size")
    if width * height > limits.pixels:
        raise bad(f"size {text} is more than {limits.pixels:,} pixels", "size")
    return width, height


def _principle(given: Any) -> str:
    if isinstance(given, list) and len(given) > 1:
        raise bad(
            "principles: more than one at a time is not possible yet; give one, or auto",
            "principles",
        )
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
        if isinstance(given, str) and given not in (AUTO, NONE) and 0 < len(given) <= 100:
            return given
    elif given in (AUTO, NONE) or given == []:
        return str(given) if given else NONE
    raise bad('principles must be "auto", "none" or a list of one key', "principles")
