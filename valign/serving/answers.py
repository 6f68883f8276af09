"""What the server's answers hold, as JSON Schema, for the description of the API."""

from typing import Any

Schema = dict[str, Any]


def thing(about: str, **fields: Schema) -> Schema:
    """Return the schema of an object that has all of these fields."""
    return {"description": about, "type": "object", "required": list(fields), "properties": fields}


def one(kind: str | list[str], about: str) -> Schema:
    """Return the schema of a single value."""
    return {"type": kind, "description": about}


def many(about: str, entry: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "description": about, "items": entry}


def named(about: str, value: Schema) -> Schema:
    """Return the schema of an object whose field names are data."""
    return {"type": "object", "description": about, "additionalProperties": value}


def listed(entry: Schema, **more: Schema) -> Schema:
    """Return the schema of a list in OpenAI's form."""
    return thing("A list.", object=one("string", "list"), data=many("The entries.", entry), **more)


_NUMBERS = {"type": "number"}
_TOLD = thing(
    "What was done for this image.",
    principle=one("string", "Key of the value principle; empty for none."),
    reason=one("string", "Why this principle, or why none."),
    applied=one("boolean", "Whether its token was on this image."),
    value_strength=one("number", "How much it counted."),
    seed=one("integer", "The request's seed, its own or drawn."),
    index=one("integer", "The image's number; with the seed it gives the noise."),
    model=one("string", "Which model drew."),
    fingerprint=one("string", "Changes whenever the model's images could."),
)
IMAGES = thing(
    "The images.",
    created=one("integer", "When, in seconds since 1970."),
    data=many(
        "One entry per image.",
        thing("An image.", b64_json=one("string", "The file, as base64."), valign=_TOLD),
    ),
    output_format=one("string", "png, jpeg or webp."),
    size=one("string", "Width and height in pixels, as 64x64."),
)
_SCORED = {
    "scores": named(
        "By scorer: its value, one per class, or null where it has none.",
        {"anyOf": [_NUMBERS, {"type": "null"}, named("By class.", _NUMBERS)]},
    ),
    "attributes": named("By attribute: the likeliest class.", {"type": "string"}),
    "toxic": named("By principle: whether the picture is toxic.", {"type": "boolean"}),
    "errors": named("By scorer: why it has no value.", {"type": "string"}),
    "error": one(["object", "null"], "Why this picture could not be used; null if it could."),
}
SCORES = listed(thing("A picture.", index=one("integer", "Its place."), **_SCORED))
COMPARISON = thing(
    "The vote.",
    object=one("string", "comparison"),
    best=one(["integer", "null"], "Place of the picture with most wins, if one has."),
    wins=many("Wins of each picture.", {"type": "integer"}),
    pairs=many(
        "Every two pictures.",
        thing(
            "A pair.",
            first=one("integer", "Place of one picture."),
            second=one("integer", "Place of the other."),
            ballots=named("By voter: 1 for the first, -1 for the second, 0.", {"type": "integer"}),
            differences=named("By voter: how much better.", {"type": ["number", "null"]}),
            verdict=one("integer", "1 for the first, -1 for the second, 0 for a tie."),
            margin=one("number", "Sum of the ballots by weight."),
        ),
    ),
    images=many("The pictures' scores.", thing("A picture.", **_SCORED)),
)
MODEL = thing(
    "A model.",
    id=one("string", "Its name."),
    object=one("string", "model"),
    created=one("integer", "Always 0."),
    owned_by=one("string", "valign"),
    fingerprint=one("string", "Changes whenever its images could."),
    principles=many("Keys that it has tokens for.", {"type": "string"}),
    num_inference_steps=one("integer", "Its own number of solver steps."),
    guidance_scale=one("number", "Its own guidance."),
    size=one("string", "Its own size."),
    max_pixels=one("integer", "The most that an image may have here."),
)
MODELS = listed(MODEL)
PRINCIPLES = listed(
    thing(
        "A principle.",
        id=one("string", "Its key."),
        object=one("string", "principle"),
        text=one("string", "Its words."),
        kind=one("string", "bias or toxicity."),
        models=many("Models that have a token for it.", {"type": "string"}),
    )
)
SCORERS = listed(
    thing(
        "A score.",
        id=one("string", "Its name."),
        object=one("string", "scorer"),
        low=one("number", "The least value possible."),
        high=one("number", "The greatest value possible."),
        higher_means=one("string", "What a higher value says."),
        classes=many("Names of its values; empty for a single one.", {"type": "string"}),
    ),
    voters=many("Scores that vote in comparisons.", {"type": "string"}),
)
ALIVE = thing("The process lives.", status=one("string", "alive"))
READY = thing(
    "Requests can be answered.",
    status=one("string", "ready"),
    models=many("The models.", {"type": "string"}),
)
