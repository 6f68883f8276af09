"""What the server answers, as an OpenAPI document, from the tables that requests are checked by."""

from typing import Any

from valign.serving import answers
from valign.serving.fields import schema
from valign.serving.tables import Limits, compare_fields, images_fields, score_fields

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong and what to do."},
                "type": {"type": "string", "description": "The kind of error, as OpenAI names it."},
                "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                "code": {"type": ["string", "null"], "description": "A word for programs."},
            },
        }
    },
}
REFUSALS = {
    400: "A field is wrong, or the prompt or the output filter refuses: see `param` and `code`.",
    401: "No API key, or a wrong one.",
    403: "A server without keys was asked from elsewhere, or by another site's page.",
    404: "There is no such model.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    415: "The body is of another kind.",
    422: "Fewer than two pictures of a comparison can be used.",
    429: "The key's own limit is reached; Retry-After says when to ask again.",
    500: "The server failed.",
    503: "The queues are full, a process was lost, or the server starts or stops; see Retry-After.",
    504: "There was no answer within the server's deadline.",
}
_READS = {
    "/v1/models": ("The models.", answers.MODELS),
    "/v1/models/{model}": ("One model.", answers.MODEL),
    "/v1/principles": ("The value principles, and which models know them.", answers.PRINCIPLES),
    "/v1/scorers": ("The scores, and who votes in comparisons.", answers.SCORERS),
    "/healthz": ("Whether the process lives.", answers.ALIVE),
    "/readyz": ("Whether requests can be answered.", answers.READY),
}
_OPEN = ("/healthz", "/readyz")
_COMPARE = "/v1/compare"
_FORM = {
    "type": "object",
    "properties": {
        "image": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "Files: PNG, JPEG or WebP.",
        },
        "prompt": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What they should show: one text for all, or, for scores, one for each.",
        },
    },
    "required": ["image", "prompt"],
}
_DOT = (  # a PNG of 8x8 pixels
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAPklEQVR42mP8dUfjnNM3BgzAdM7pm9E+LiwSDAwM"
    "WOWYIBSmHBOchSbHhKwKWY4JzWi4HOMJOTlMJxnt4wIAY8MYEWFdUScAAAAASUVORK5CYII="
)
_EXAMPLES = {
    "/v1/images/generations": {"prompt": "A photo of the face of a doctor", "n": 2, "seed": 7},
    "/v1/score": {"items": [{"image": _DOT, "prompt": "a red bus"}]},
    _COMPARE: {"prompt": "a red bus", "images": [_DOT, _DOT]},
}


def document(limits: Limits) -> dict[str, Any]:
    """Return the document for a server with these limits."""
    asks = {
        "/v1/images/generations": (
            "Draw images.", images_fields(limits), answers.IMAGES, False,
        ),
        "/v1/score": ("Score pictures.", score_fields(limits), answers.SCORES, True),
        _COMPARE: (
            "Let the scorers vote between pictures.", compare_fields(limits), answers.COMPARISON,
            True,
        ),
    }  # fmt: skip
    paths: dict[str, Any] = {}
    for path, (about, answer) in _READS.items():
        codes = (503,) if path in _OPEN else (400, 401, 403, 404, 429, 500, 503, 504)
        paths[path] = {"get": {"summary": about, "responses": _responses(answer, codes)}}
    paths["/v1/models/{model}"]["get"]["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    for path, (about, fields, answer, forms) in asks.items():
        content: dict[str, Any] = {
            "application/json": {"schema": schema(fields), "example": _EXAMPLES[path]}
        }
        if forms:
            content["multipart/form-data"] = {"schema": _FORM}
        body = {"required": True, "content": content}
        paths[path] = {
            "post": {
                "summary": about,
                "requestBody": body,
                "responses": _responses(
                    answer, tuple(code for code in REFUSALS if code != 422 or path == _COMPARE)
                ),
            }
        }
    for path in _OPEN:
        paths[path]["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "valign",
            "version": "1",
            "description": "Images by models that keep to stated values, as in OpenAI's Images "
            "API; scores of pictures; and the scorers' vote between them.",
        },
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key of this server, if it has any.",
                }
            },
            "schemas": {"Error": _ERROR},
        },
        "security": [{"key": []}],
        "paths": paths,
    }


def _responses(answer: dict[str, Any], codes: tuple[int, ...]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refusals = {str(code): {"description": REFUSALS[code], "content": error} for code in codes}
    found = {"description": "The answer.", "content": {"application/json": {"schema": answer}}}
    return {"200": found, **refusals}
