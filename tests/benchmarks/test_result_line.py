"""Every benchmark ends with one line of JSON, of the same keys, that one function prints."""

import ast
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
STATED = {"benchmark", "figure", "goal", "unit", "spread"}


def test_the_line_holds_what_was_measured_and_on_what(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from shared import host

    host.print_result(benchmark="b", figure=1.5, goal="> 1", unit="ratio", spread=(1.2, 1.9))
    host.print_result(benchmark="b", figure=None, goal="> 1", unit="s", spread=None, device="a GPU")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(first) == ["benchmark", "figure", "goal", "unit", "spread", "machine"]
    assert list(second) == list(first)
    assert (first["figure"], first["spread"], second["spread"]) == (1.5, [1.2, 1.9], None)
    assert "cores" in first["machine"]
    assert "a GPU" in second["machine"]
    with pytest.raises(ValueError, match="JSON"):
        host.print_result(benchmark="b", figure=float("nan"), goal="", unit="", spread=None)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_prints_it_last_and_words_before_it(script: Path):
    tree = ast.parse(script.read_text())
    bodies = [
        body
        for node in ast.walk(tree)
        for body in (getattr(node, "body", None), getattr(node, "orelse", None))
        if isinstance(body, list)
    ]
    calls = 0
    for body in bodies:
        for place, statement in enumerate(body):
            if not _calls(statement, "print_result"):
                continue
            calls += 1
            stated = {each.arg for each in statement.value.keywords}
            assert stated - {"device"} == STATED
            after = body[place + 1 :]
            assert not after or isinstance(after[0], ast.Return), "nothing may follow it"
    named = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == "print_result"]
    assert len(named) == calls >= 1
    assert any(isinstance(n, ast.Name) and n.id == "print" for n in ast.walk(tree))


def _calls(statement: ast.stmt, name: str) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name
