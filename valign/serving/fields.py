"""What a JSON request may hold, as tables of fields: one table checks it and documents it.

In: decoded JSON. Out: values of the right types, or an error that names the field. `schema` gives
the same table as JSON Schema, for the OpenAPI page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from valign.serving.errors import bad

REQUIRED = object()
"""The default of a field that must be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field.

    Attributes:
        kind: its JSON type.
        about: what it means.
        default: what a missing field, or null, stands for.
        low: the least number allowed.
        high: the greatest number allowed, or the most characters or entries.
        choices: the only values allowed.
        items: of an array: the fields of its objects, or the field that each entry is.
    """

    kind: Literal["string", "integer", "number", "boolean", "array", "any"]
    about: str
    default: Any = REQUIRED
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    items: "Mapping[str, Field] | Field | None" = None


def read(body: Any, fields: Mapping[str, Field], within: str = "") -> dict[str, Any]:
    """Return a request's values, defaults filled in.

    Args:
        body: decoded JSON.
        fields: what it may hold.
        within: the name of what is read, for errors (`items[2]`).

    Raises:
        RequestError: 400, naming the field.
    """
    if not isinstance(body, dict):
        raise bad(f"{within or 'the request'} must be a JSON object", within or None)
    prefix = f"{within}." if within else ""
    for name in body:
        if name not in fields:
            known = ", ".join(fields)
            shown = f"{prefix}{name}"[:80].encode("utf-8", "replace").decode()
            raise bad(f"unknown field {shown!r}; known: {known}", shown, "unknown_parameter")
    values = {}
    for name, field in fields.items():
        value = body.get(name)
        if value is None:
            if field.default is REQUIRED:
                raise bad(f"{prefix}{name} is missing", f"{prefix}{name}", "missing_parameter")
            values[name] = field.default
        else:
            values[name] = _value(value, field, f"{prefix}{name}")
    return values


def _value(value: Any, field: Field, name: str) -> Any:
    if field.kind == "string":
        _check_text(value, field, name)
    elif field.kind in ("integer", "number"):
        value = _number(value, field, name)
    elif field.kind == "boolean" and not isinstance(value, bool):
        raise bad(f"{name} must be true or false", name)
    elif field.kind == "array":
        return _entries(value, field, name)
    if field.choices and value not in field.choices:
        raise bad(f"{name} must be one of {', '.join(map(str, field.choices))}", name)
    return value


def _check_text(value: Any, field: Field, name: str) -> None:
    if not isinstance(value, str):
        raise bad(f"{name} must be a string", name)
    if field.high is not None and len(value) > field.high:
        raise bad(
            f"{name} has {len(value):,} characters; at most {field.high:,.0f} are allowed", name
        )
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise bad(f"{name} holds characters that are no text", name)
    if field.low is not None and len(value.strip()) < field.low:
        raise bad(f"{name} must not be blank", name)


def _number(value: Any, field: Field, name: str) -> Any:
    whole = field.kind == "integer"
    if isinstance(value, float) and value.is_integer() and whole:
        value = int(value)
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise bad(f"{name} must be a {'whole number' if whole else 'number'}", name)
    low, high = field.low, field.high
    assert low is not None and high is not None, "a number says its bounds"
    if not low <= value <= high:  # NaN is in no bounds
        raise bad(f"{name} must be from {low:,} to {high:,}", name)
    return value if whole else float(value)


def _entries(value: Any, field: Field, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad(f"{name} must be an array", name)
    low, high = int(field.low or 0), int(field.high or 0)
    if not low <= len(value) <= high:
        raise bad(f"{name} has {len(value):,} entries; it must have {low} to {high}", name)
    if isinstance(field.items, Field):
        one = field.items
        return [_value(entry, one, f"{name}[{place}]") for place, entry in enumerate(value)]
    assert field.items is not None, "an array says what it holds"
    return [read(entry, field.items, f"{name}[{place}]") for place, entry in enumerate(value)]


def schema(fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return the JSON Schema of a table of fields."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, field in fields.items() if field.default is REQUIRED],
        "properties": {name: _field_schema(field) for name, field in fields.items()},
    }


def _field_schema(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = {"description": field.about}
    optional = [] if field.default is REQUIRED else ["null"]  # null stands for the default
    if field.kind != "any":
        found["type"] = [field.kind, *optional] if optional else field.kind
    if field.choices:
        found["enum"] = [*field.choices, *([None] if optional else [])]
    names = {
        "string": ("minLength", "maxLength"),
        "array": ("minItems", "maxItems"),
        "integer": ("minimum", "maximum"),
        "number": ("minimum", "maximum"),
    }.get(field.kind, ())
    for name, bound in zip(names, (field.low, field.high), strict=False):
        if bound is not None:
            found[name] = int(bound) if bound == int(bound) else bound
    if isinstance(field.items, Field):
        found["items"] = _field_schema(field.items)
    elif field.items is not None:
        found["items"] = schema(field.items)
    if field.default is not REQUIRED and field.default is not None:
        found["default"] = field.default
    return found
