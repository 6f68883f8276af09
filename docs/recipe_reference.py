"""The directive `recipe-reference`: every setting of a recipe, from the config models."""

from typing import Any, get_args, get_origin

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx

from valign.config import Run


def lines(model: type[BaseModel] = Run, prefix: str = "") -> list[str]:
    """Return the reference as Markdown: a table for each section, sections in their order."""
    own, sections = [], []
    for name, field in model.model_fields.items():
        inner, path = _section(field), f"{prefix}{name}"
        if inner is not field.annotation:
            cells = (f"`{path}`", _type(field), _default(field), _about(field))
            own.append(f"| {' | '.join(cells)} |")
        if inner is not None:
            each = {"tuple": "[]", "dict": ".NAME"}.get(_outer(field), "")
            about = " ".join((inner.__doc__ or "").split("\n\n")[0].split())
            sections += ["", f"## {path}{each}", "", about, "", *lines(inner, f"{path}{each}.")]
    table = ["| key | type | default | |", "|---|---|---|---|", *own] if own else []
    return [*table, *sections]


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that a field holds, one of or several of."""
    kinds = (field.annotation, *get_args(field.annotation))
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return models[0] if models else None


def _outer(field: FieldInfo) -> str:
    return getattr(get_origin(field.annotation), "__name__", "")


def _type(field: FieldInfo) -> str:
    def told(kind: Any) -> str:
        if kind is type(None):
            return "none"
        if kind is Ellipsis:
            return ""
        if str(get_origin(kind)) == "typing.Literal":
            return ", ".join(f"`{value}`" for value in get_args(kind))
        if isinstance(kind, type) and not get_args(kind):
            return kind.__name__
        inner = [word for word in map(told, get_args(kind)) if word]
        outer = getattr(get_origin(kind), "__name__", "")
        joined = " or ".join(inner) if outer in ("Union", "UnionType") else ", ".join(inner)
        return (
            joined if outer in ("Union", "UnionType", "Annotated", "") else f"{outer} of {joined}"
        )

    return told(field.annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    shown = "none" if value is None else "`true`" if value is True else f"`{value}`"
    return "" if value in ("", (), {}, []) else shown.replace("|", "\\|")


def _about(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")


class RecipeReference(Directive):
    """Writes the reference where it stands."""

    def run(self) -> list[nodes.Node]:
        """Return the parsed tables."""
        holder = nodes.section()
        holder.document = self.state.document
        text = StringList(lines(), source="valign/config.py")
        self.state.nested_parse(text, self.content_offset, holder, match_titles=True)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("recipe-reference", RecipeReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
