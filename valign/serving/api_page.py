"""The description of the API as a page for people, from the OpenAPI document.

In: the document. Out: HTML without a script; it loads nothing but the server's own style sheet.
"""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page/page.css">
</head>
<body class="api">
<header>
<h1>{title}: the API</h1>
<p>{about}</p>
<p>{key} <a href="./">Back to the page</a> &middot; <a href="openapi.json">openapi.json</a></p>
</header>
<main>
<nav class="panel" aria-label="Addresses"><ul>
{links}
</ul></nav>
{sections}
{errors}
</main>
</body>
</html>
"""
_LONGEST_EXAMPLE = 60  # characters of a text that are shown
_SHOWN = ("enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "default")


def html(document: Json) -> str:
    """Return the page of an OpenAPI document."""
    calls = [
        (path, method, call)
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    ]
    calls.sort(key=lambda call: call[1] != "post")  # what it is for comes first
    info = document["info"]
    schemes = document["components"]["securitySchemes"].values()
    return _PAGE.format(
        title=escape(info["title"]),
        about=escape(info["description"]),
        key=" ".join(escape(scheme["description"]) for scheme in schemes)
        + " Send it as <code>Authorization: Bearer KEY</code>.",
        links="\n".join(_link(path, method, call) for path, method, call in calls),
        sections="\n".join(_section(path, method, call) for path, method, call in calls),
        errors=_errors(document, [call for _, _, call in calls]),
    )


def _anchor(path: str, method: str) -> str:
    return escape(f"{method}{path}".replace("/", "-").replace("{", "").replace("}", ""))


def _link(path: str, method: str, call: Json) -> str:
    name = f"<code>{method.upper()} {escape(path)}</code>"
    return f'<li><a href="#{_anchor(path, method)}">{name}</a> {escape(call["summary"])}</li>'


def _section(path: str, method: str, call: Json) -> str:
    """Return what one call takes and gives."""
    anchor = _anchor(path, method)
    keyless = " No key needed." if call.get("security") == [] else ""
    parts = [
        f'<section class="panel" aria-labelledby="{anchor}">',
        f'<h2 id="{anchor}"><code>{method.upper()} {escape(path)}</code></h2>',
        f"<p>{escape(call['summary'])}{keyless}</p>",
    ]
    for kind, body in call.get("requestBody", {"content": {}})["content"].items():
        parts.append(_table(f"Send, as {kind}", body["schema"], required=True))
        if "example" in body:
            parts.append(_example(path, body["example"]))
    answer = call["responses"]["200"]["content"]["application/json"]["schema"]
    parts += [_table("The answer", answer), "</section>"]
    return "\n".join(parts)


def _example(path: str, body: Json) -> str:
    def short(value: Any) -> Any:
        if isinstance(value, str) and len(value) > _LONGEST_EXAMPLE:
            return f"{value[:_LONGEST_EXAMPLE]}..."
        if isinstance(value, list):
            return [short(one) for one in value]
        if isinstance(value, dict):
            return {name: short(one) for name, one in value.items()}
        return value

    text = json.dumps(short(body), ensure_ascii=False)
    words = (
        f"curl -s http://127.0.0.1:8000{path} \\\n"
        '  -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\\n'
        f"  -d '{text}'"
    )
    return f'<pre tabindex="0" aria-label="Example">{escape(words)}</pre>'


def _table(caption: str, schema: Json, *, required: bool = False) -> str:
    """Return a table of an object's fields, those of its parts under it."""
    rows = "\n".join(
        f'<tr><th scope="row"><code>{_breakable(name)}</code></th><td>{escape(kind)}</td>'
        f"<td>{about}</td></tr>"
        for name, kind, about in _rows(schema, "", required)
    )
    head = "".join(f'<th scope="col">{word}</th>' for word in ("field", "type", "meaning"))
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>\n{rows}\n</tbody></table>"
    )


def _breakable(name: str) -> str:
    """Return a field's name, which narrow columns break after dots and underscores."""
    return escape(name).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _rows(schema: Json, within: str, required: bool) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and meaning (HTML) of every field."""
    for name, field in schema["properties"].items():
        full = f"{within}{name}"
        about = escape(field.get("description", ""))
        if required and name in schema.get("required", ()):
            about += " <b>Required.</b>"
        if bounds := _bounds(field):
            about += f' <span class="bounds">{escape(bounds)}</span>'
        yield full, _kind(field), about
        entry = field.get("items", field)
        if "properties" in entry:
            mark = f"{full}[]." if "items" in field else f"{full}."
            yield from _rows(entry, mark, required)


def _kind(field: Json) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"])
    kinds = field.get("type", "any")
    if isinstance(kinds, list):
        return " or ".join(_kind({**field, "type": kind}) for kind in kinds)
    if kinds == "array":
        return f"array of {_kind(field['items'])}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"object of {_kind(field['additionalProperties'])}"
    return str(kinds)


def _bounds(field: Json) -> str:
    """Return what values a field may have, in words."""
    found = {name: field[name] for name in _SHOWN if name in field}
    words = []
    if "enum" in found:
        words.append("one of " + ", ".join(json.dumps(one) for one in found["enum"]))
    for least, most, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " entries"),
    ):
        low, high = found.get(least), found.get(most)
        if low is not None and high is not None:
            words.append(f"{low:,} to {high:,}{unit}")
        elif high is not None:
            words.append(f"at most {high:,}{unit}")
    if found.get("default", "") != "":
        words.append(f"default {json.dumps(found['default'])}")
    return f"({'; '.join(words)})" if words else ""


def _errors(document: Json, calls: list[Json]) -> str:
    """Return the table of refusals and the form that they have."""
    codes = {
        code: answer["description"]
        for call in calls
        for code, answer in call["responses"].items()
        if code != "200"
    }
    rows = "\n".join(
        f'<tr><th scope="row">{code}</th><td>{escape(about)}</td></tr>'
        for code, about in sorted(codes.items())
    )
    form = _table("Its form", document["components"]["schemas"]["Error"])
    return (
        '<section class="panel" aria-labelledby="errors"><h2 id="errors">When there is no answer'
        "</h2><table><caption>Status</caption><thead><tr><th scope='col'>status</th>"
        f"<th scope='col'>when</th></tr></thead><tbody>\n{rows}\n</tbody></table>\n{form}</section>"
    )
