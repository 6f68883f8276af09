"""What the server answers, as an OpenAPI document, from the tables that requests are checked by."""

from typing import Any

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
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_READS = {
    "/v1/models": "The models.",
    "/v1/principles": "The value principles, and which models know them.",
    "/v1/scorers": "The scores, and who votes in comparisons.",
    "/healthz": "Whether the process lives.",
    "/readyz": "Whether requests can be answered.",
}
_OPEN = ("/healthz", "/readyz")
_FORM = {
    "type": "object",
    "properties": {
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "prompt": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["image", "prompt"],
}


def document(limits: Limits) -> dict[str, Any]:
    """Return the document for a server with these limits."""
    asks = {
        "/v1/images/generations": ("Draw images.", images_fields(limits), False),
        "/v1/score": ("Score pictures.", score_fields(limits), True),
        "/v1/compare": ("Let the scorers vote between pictures.", compare_fields(limits), True),
    }
    paths: dict[str, Any] = {
        path: {"get": {"summary": about, "responses": _responses(path in _OPEN)}}
        for path, about in _READS.items()
    }
    for path, (about, fields, forms) in asks.items():
        content: dict[str, Any] = {"application/json": {"schema": schema(fields)}}
        if forms:
            content["multipart/form-data"] = {"schema": _FORM}
        body = {"required": True, "content": content}
        paths[path] = {
            "post": {"summary": about, "requestBody": body, "responses": _responses(False)}
        }
    for path in _OPEN:
        paths[path]["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {"title": "valign", "version": "1"},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR},
        },
        "security": [{"key": []}],
        "paths": paths,
    }


def _responses(everyone: bool) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    codes = (503,) if everyone else (400, 401, 403, 404, 408, 413, 415, 429, 503, 504)
    refusals = {str(code): {"description": "Refused.", "content": error} for code in codes}
    return {"200": {"description": "The answer."}, **refusals}
