"""What is wrong with a recipe, in words: a line per fault, with the nearest valid names."""

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel], keys: Sequence[str]) -> str:
    """Return every fault that pydantic found.

    Args:
        error: what it raised.
        root: the model of the whole recipe.
        keys: all its keys, dotted.
    """
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path)
        if problem["type"] == "extra_forbidden":
            near = " or ".join(map(repr, _nearest(path, root, keys)))
            lines.append(f"unknown key {key!r}" + (f"; did you mean {near}?" if near else ""))
        elif key:
            lines.append(f"{key}: {problem['msg']} (got {problem['input']!r})")
        else:
            lines.append(problem["msg"].removeprefix("Value error, "))
    return "the recipe is not valid:\n  " + "\n  ".join(lines)


def _nearest(path: Sequence[str], root: type[BaseModel], keys: Sequence[str]) -> list[str]:
    """Return what an unknown key may have meant: one of its section, or its name in others.

    The path leads through lists by numbers, and through mappings by names of the user's own.
    """
    *above, last = path
    sections = [root]
    for part in above:
        fields = [each.model_fields[part] for each in sections if part in each.model_fields]
        sections = [each for field in fields for each in _sections(field.annotation)] or sections
    names = [name for section in sections for name in section.model_fields]
    close = difflib.get_close_matches(last, names, n=1, cutoff=0.75)
    elsewhere = [key for key in keys if key.endswith(f".{last}")]
    if not close and elsewhere:
        return elsewhere
    return [".".join([*above, name]) for name in close or difflib.get_close_matches(last, names, 1)]


def _sections(kind: Any) -> list[type[BaseModel]]:
    """Return the models in a field's type, also those of its lists, mappings and alternatives."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [section for part in get_args(kind) for section in _sections(part)]
