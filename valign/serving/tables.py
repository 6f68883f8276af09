"""What each request may hold, and the most of it: the tables that are checked and documented.

The first is OpenAI's Images API and, from `seed` on, what this server adds; a client of OpenAI's
sends the latter as `extra_body`.
"""

from dataclasses import dataclass

from valign.serving.fields import Field

AUTO, NONE = "auto", "none"
FORMATS = ("png", "jpeg", "webp")
LONGEST = 16  # a side in terms of the other: models enlarge the shorter one to their own size
SEED_BITS = 53  # whole numbers that every JSON reader keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that one request may ask for."""

    images: int = 10
    prompt_chars: int = 2_000
    steps: int = 50
    pixels: int = 1 << 20  # of an image, made or sent
    pictures: int = 16  # sent in one request
    picture_bytes: int = 8 << 20  # of one picture's file


def images_fields(limits: Limits) -> dict[str, Field]:
    """Return what a request for images may hold."""
    text = limits.prompt_chars
    only = "Accepted for compatibility; only the first value has a meaning here."
    return {
        "prompt": Field(kind="string", about="What to draw.", low=1, high=text),
        "n": Field(kind="integer", about="How many images.", default=1, low=1, high=limits.images),
        "size": Field(
            kind="string",
            about='Width and height in pixels, such as "512x512"; auto: the model\'s own.',
            default="auto",
            high=11,
        ),
        "response_format": Field(
            kind="string",
            about="Images are returned as base64; there are no URLs.",
            default="b64_json",
            choices=("b64_json",),
        ),
        "output_format": Field(
            kind="string", about="The images' format.", default="png", choices=FORMATS
        ),
        "output_compression": Field(
            kind="integer", about="Quality of JPEG, 1 to 100.", default=95, low=0, high=100
        ),
        "user": Field(kind="string", about="Ignored.", default="", high=256),
        "model": Field(
            kind="string",
            about="One of /v1/models; null: the server's first.",
            default=None,
            high=200,
        ),
        "quality": Field(
            kind="string", about=only, default="auto", choices=("auto", "standard", "high")
        ),
        "background": Field(kind="string", about=only, default="auto", choices=("auto", "opaque")),
        "moderation": Field(kind="string", about=only, default="auto", choices=("auto",)),
        "stream": Field(kind="boolean", about=only, default=False, choices=(False,)),
        "seed": Field(
            kind="integer",
            about="Of the noise: the same seed and request give the same image. Null: drawn.",
            default=None,
            low=0,
            high=2**SEED_BITS - 1,
        ),
        "num_inference_steps": Field(
            kind="integer",
            about="Solver steps; null: the model's own.",
            default=None,
            low=1,
            high=limits.steps,
        ),
        "guidance_scale": Field(
            kind="number",
            about="Classifier-free guidance; 1 is none.",
            default=None,
            low=1,
            high=50,
        ),
        "negative_prompt": Field(kind="string", about="What not to draw.", default="", high=text),
        "principles": Field(
            kind="any",
            about='"auto": the prompt\'s own value principle is found; "none"; or [one key].',
            default=AUTO,
        ),
        "value_strength": Field(
            kind="number",
            about="How much the principle counts: 0 is the base model, 1 the method.",
            default=1.0,
            low=0,
            high=2,
        ),
    }


def score_fields(limits: Limits) -> dict[str, Field]:
    """Return what a request for scores may hold."""
    item = {"image": _picture(limits), "prompt": prompt_field(limits)}
    return {
        "items": Field(
            kind="array",
            about="Pictures with their prompts.",
            items=item,
            low=1,
            high=limits.pictures,
        )
    }


def compare_fields(limits: Limits) -> dict[str, Field]:
    """Return what a request for a comparison may hold."""
    return {
        "prompt": prompt_field(limits),
        "images": Field(
            kind="array",
            about="Two or more pictures.",
            items=_picture(limits),
            low=2,
            high=limits.pictures,
        ),
    }


def prompt_field(limits: Limits) -> Field:
    return Field(
        kind="string", about="What the picture should show.", low=1, high=limits.prompt_chars
    )


def _picture(limits: Limits) -> Field:
    return Field(kind="string", about="A picture's file as base64, or as a data: URL.")
