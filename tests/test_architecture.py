"""The house keeps its shape: who may import whom, who owns which package, and how files look.

The tables below are the design's dependency rule. `broken_rules` walks every import of `valign` and
`jobs`, also those inside functions, and is itself tested on planted violations.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_JOB = 350, 30
VAGUE_NAMES = {"utils", "common", "base", "helpers", "core", "misc"}

ROOMS = (
    "records",
    "pictures",
    "settings",
    "evaluate_settings",
    "label_settings",
    "principle_settings",
    "serve_settings",
    "train_settings",
    "recipe_errors",
    "config",
    "catalogue",
    "preferences",
    "evaluation",
    "models",
    "miniature",
)
ROOMS += ("training", "serving", "storage", "stages", "reproduction")

# room -> rooms it may import; a room is a package or a module directly under valign, or jobs.
MAY_IMPORT: dict[str, set[str]] = {
    "records": set(),
    "pictures": set(),
    "settings": set(),
    "evaluate_settings": {"settings"},
    "label_settings": {"settings"},
    "principle_settings": {"settings"},
    "serve_settings": {"settings", "label_settings"},
    "train_settings": {"settings"},
    "recipe_errors": set(),
    "config": {
        *("records", "settings", "label_settings", "principle_settings", "serve_settings"),
        *("train_settings", "evaluate_settings", "recipe_errors"),
    },
    "catalogue": {"records"},
    "preferences": {"records"},
    "evaluation": {"records"},
    "models": {"records", "catalogue"},  # of the catalogue only its guard
    "miniature": {"records", "catalogue", "models"},
    "training": {"config", "settings", "train_settings", "records", "models"},
    "serving": {"records", "pictures", "catalogue", "models", "preferences", "evaluation"},
    "storage": {"config", "settings", "records"},
    "stages": set(ROOMS) - {"stages", "reproduction"},
    "reproduction": {"config", "train_settings", "records", "catalogue", "evaluation", "storage"}
    | {"stages"},
    "on_ray": set(ROOMS) - {"reproduction"},
    "terminal": set(),
    "cli_cluster": {"on_ray", "terminal"},
    "cli_data": {"stages", "storage", "terminal"},
    "cli_operate": {"stages", "storage", "cli_results", "terminal"},
    "cli_reproduce": {"config", "stages", "reproduction", "on_ray", "terminal"},
    "cli_results": {"stages", "terminal"},
    "cli_serve": {"stages", "on_ray", "terminal"},
    "cli": {"config", "stages", "on_ray", "storage", "cli_data", "cli_results", "terminal"}
    | {"cli_cluster", "cli_operate", "cli_reproduce", "cli_serve"},
    "jobs": {"config", "stages", "reproduction", "on_ray"},
}

# room -> packages it may import at module level; anything more is imported where it is used.
AT_MODULE_LEVEL: dict[str, set[str]] = {
    "records": set(),
    "pictures": {"numpy", "PIL"},
    "settings": {"pydantic"},
    "evaluate_settings": {"pydantic"},
    "label_settings": {"pydantic"},
    "principle_settings": {"pydantic"},
    "serve_settings": {"pydantic"},
    "train_settings": {"pydantic"},
    "recipe_errors": {"pydantic"},
    "config": {"pydantic", "yaml"},
    "catalogue": set(),
    "preferences": {"numpy"},
    "evaluation": {"numpy", "PIL", "jinja2", "markupsafe", "matplotlib", "scipy"},
    "models": {
        *("torch", "numpy", "PIL", "safetensors"),
        *("diffusers", "transformers", "open_clip", "peft"),
    },
    "miniature": {
        *("torch", "numpy", "PIL", "safetensors"),
        *("diffusers", "transformers", "open_clip"),
    },
    "training": {"torch", "numpy"},
    "serving": {"numpy", "PIL"},
    "storage": {"pyarrow", "numpy", "safetensors", "boto3", "botocore"},
    "stages": {"numpy", "PIL"},
    "reproduction": {"numpy", "PIL", "yaml"},
    "on_ray": {"ray", "numpy", "fastapi"},
    "terminal": {"typer", "rich"},
    "cli_cluster": {"typer"},
    "cli_data": {"typer"},
    "cli_operate": {"typer"},
    "cli_reproduce": {"typer"},
    "cli_results": {"typer", "rich"},
    "cli_serve": {"typer"},
    "cli": {"typer", "rich"},
    "jobs": set(),
}

# package -> files that may import it, also inside functions.
OWNED: dict[str, tuple[str, ...]] = {
    "ray": ("valign/on_ray/",),
    "fastapi": tuple(f"valign/on_ray/{name}.py" for name in ("deploy", "edge", "proxy")),
    "boto3": ("valign/storage/",),
    "botocore": ("valign/storage/",),
    "pyarrow": ("valign/storage/",),
    "deepspeed": ("valign/training/engine.py",),
    "diffusers": ("valign/models/", "valign/miniature/"),
    "transformers": ("valign/models/", "valign/miniature/"),
    "open_clip": ("valign/models/", "valign/miniature/"),
    "peft": ("valign/models/", "valign/miniature/"),
    "openai": ("valign/models/llm.py",),
}


@dataclass(frozen=True)
class Import:
    """One imported module, `from a import b` as both `a` and `a.b`."""

    module: str
    line: int
    deferred: bool  # inside a function, or for the type checker only


def imports(tree: ast.Module) -> Iterator[Import]:
    """Yield every import of a module, `importlib.import_module("name")` included."""

    def walk(node: ast.AST, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, deferred)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield Import(module, node.lineno, deferred)
            for alias in node.names:
                yield Import(f"{module}.{alias.name}", node.lineno, deferred)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield Import(str(argument.value), node.lineno, deferred)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        types_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, deferred or inside or types_only)

    yield from walk(tree, deferred=False)


def room_of(path: str) -> str:
    """Return the room of a file, from its path relative to the repository."""
    parts = path.removesuffix(".py").split("/")
    return "jobs" if parts[0] == "jobs" else parts[1]


def broken_import(path: str, found: Import) -> str | None:
    """Say what is wrong with an import of a file, or return None."""
    room, names = room_of(path), found.module.split(".")
    if found.module.startswith("."):
        return "relative import: write the whole name"
    if names[0] == "valign":
        other = names[1] if len(names) > 1 else room
        if other != room and other not in MAY_IMPORT[room]:
            return f"{room} may not import valign.{other}"
        return None
    if names[0] in sys.stdlib_module_names:
        return None
    owners = OWNED.get(names[0])
    if owners is not None and not path.startswith(owners):
        return f"{names[0]} belongs to {', '.join(owners)}"
    if not found.deferred and names[0] not in AT_MODULE_LEVEL[room]:
        return f"{room} may not import {names[0]} at module level"
    return None


def broken_rules(root: Path) -> list[str]:
    """Return every broken rule of the tree under `root`, as `file:line: what`."""
    broken = []
    for file in sorted([*root.glob("valign/**/*.py"), *root.glob("jobs/**/*.py")]):
        path, text = file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")
        tree, lines = ast.parse(text), text.count("\n")
        if VAGUE_NAMES & set(path.removesuffix(".py").split("/")):
            broken.append(f"{path}: says nothing about what is in it")
        if lines > LONGEST_FILE:
            broken.append(f"{path}: {lines} lines, more than {LONGEST_FILE}")
        if ast.get_docstring(tree) is None:
            broken.append(f"{path}: has no docstring")
        if path.startswith("jobs/") and lines >= LONGEST_JOB:
            broken.append(f"{path}: {lines} lines; a job has fewer than {LONGEST_JOB}")
        if file.name == "__init__.py":
            if len(tree.body) != 1:
                broken.append(f"{path}: holds more than a docstring")
        elif room_of(path) not in MAY_IMPORT:
            broken.append(f"{path}: {room_of(path)} is no room of the house")
        else:
            reasons = ((found.line, broken_import(path, found)) for found in imports(tree))
            broken += dict.fromkeys(f"{path}:{line}: {why}" for line, why in reasons if why)
    return broken


def test_the_tables_speak_of_the_same_rooms() -> None:
    assert MAY_IMPORT.keys() == AT_MODULE_LEVEL.keys()
    assert set().union(*MAY_IMPORT.values()) <= MAY_IMPORT.keys()


def test_the_rooms_form_no_circle() -> None:
    order = [*ROOMS, "on_ray", "cli"]
    for room in order:
        later = order[order.index(room) :]
        assert not MAY_IMPORT[room] & set(later), f"{room} may import what comes after it"


def test_the_house_keeps_its_rules() -> None:
    assert broken_rules(ROOT) == []


@pytest.mark.parametrize(
    ("path", "code", "expected"),
    [
        ("valign/preferences/x.py", "import torch", "preferences may not import torch"),
        ("valign/preferences/x.py", "from valign import storage", "not import valign.storage"),
        ("valign/models/x.py", "from valign.miniature.oracle import Oracle", "valign.miniature"),
        ("valign/stages/x.py", "def f():\n    from ray import data", "ray belongs to"),
        ("valign/stages/x.py", "def f():\n    import pyarrow.fs", "pyarrow belongs to"),
        ("valign/stages/x.py", "import torch", "torch at module level"),
        ("valign/training/loop.py", "def f():\n    import deepspeed", "deepspeed belongs to"),
        ("valign/on_ray/pool.py", "def f():\n    import fastapi", "fastapi belongs to"),
        ("valign/models/clip.py", "import openai", "openai belongs to"),
        (
            "valign/training/x.py",
            "import importlib\ndef f():\n    importlib.import_module('diffusers')",
            "diffusers belongs to",
        ),
        (
            "valign/storage/x.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray",
            "ray belongs to",
        ),
        ("valign/storage/x.py", "from . import files", "relative import"),
        ("valign/storage/utils.py", "", "says nothing"),
        ("valign/storage/__init__.py", "import os", "more than a docstring"),
        ("valign/attic/x.py", "", "attic is no room"),
        ("valign/storage/x.py", "\n" * 400, "more than 350"),
        ("jobs/x.py", "\n" * 30, "fewer than 30"),
        ("jobs/x.py", "from valign.models import clip", "jobs may not import valign.models"),
    ],
)
def test_the_checker_finds_what_is_planted(
    tmp_path: Path, path: str, code: str, expected: str
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(f'"""Planted."""\n{code}\n')
    assert any(expected in line for line in broken_rules(tmp_path)), broken_rules(tmp_path)


def test_the_checker_accepts_what_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "valign/stages/x.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        '"""Fine."""\nimport os\nimport numpy as np\nfrom valign.storage import tables\n'
        "from valign.stages import y\n\ndef f():\n    import torch\n"
    )
    assert broken_rules(tmp_path) == []


def test_a_missing_docstring_is_found(tmp_path: Path) -> None:
    file = tmp_path / "valign/stages/x.py"
    file.parent.mkdir(parents=True)
    file.write_text("import os\n")
    assert broken_rules(tmp_path) == ["valign/stages/x.py: has no docstring"]
