"""Commands as guides and help texts show them: found in a text, and held against what exists.

    for line in shown(page.read_text()):
        check(line)

Names of commands, options and their values, settings, recipes, stages, files and make's targets
are checked; nothing is run. Names of a user's own files are not.
"""

import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import typer

from valign import config
from valign.cli import app

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^ *```(?:sh|yaml)\n(.*?)```", re.M | re.S)
_SPAN = re.compile(r"(?<!`)`((?:valign|make|python|ray job submit|jobs/\w+\.py) [^`]+)`(?!`)")
_BEFORE = r"(?:- run: |\$ )?(?:[A-Z_]+=\S+ )*(?:nohup |eval \"\$\()?"
_LINE = re.compile(rf"^ *{_BEFORE}((?:valign|make|python|ray job submit) .*)$", re.M)


@dataclass(frozen=True, order=True)
class Line:
    """One command; a whole one could be typed as it stands, others only name what is meant."""

    text: str
    whole: bool = True


def shown(markdown: str) -> list[Line]:
    """Return the commands of a page's shell and YAML blocks, and those within its sentences."""
    found = [
        Line(text)
        for block in _BLOCK.findall(markdown)
        for text in _LINE.findall(block.replace("\\\n", " "))
    ]
    sentences = re.sub(r"^ *```.*?```", "", markdown, flags=re.M | re.S)
    return found + [Line(" ".join(text.split()), whole=False) for text in _SPAN.findall(sentences)]


def words_of(text: str) -> list[str]:
    """Return the words of a command, up to its comment, redirection, pipe or end."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        words.append(word)
    return words


def check(line: Line) -> None:
    """Raise an error that says what in a command does not exist."""
    words = words_of(line.text)
    if words[:3] == ["ray", "job", "submit"]:
        words = words[words.index("--") + 1 :] if "--" in words else []
    if words[:1] == ["python"]:
        words = words[2:] if words[1] == "-m" and _is_module(words[2]) else words[1:]
    if not words:
        return
    program, *rest = words
    if program == "valign":
        _check_valign(rest, whole=line.whole)
    elif program == "make":
        _check_targets(rest)
    else:
        _check_script(program, rest)
    for word in rest:
        _check_setting(word)


def every_command() -> dict[tuple[str, ...], str]:
    """Return every command of `valign` by its words, with its help text."""

    def below(command: typer.core.TyperCommand, path: tuple[str, ...]) -> dict:
        if not isinstance(command, typer.core.TyperGroup):
            return {path: command.help or ""}
        found = (below(each, (*path, name)) for name, each in command.commands.items())
        return {path: text for each in found for path, text in each.items()}

    return below(typer.main.get_command(app), ())


def _check_valign(words: list[str], *, whole: bool) -> None:
    command, context = typer.main.get_command(app), None
    name = "valign"
    while isinstance(command, typer.core.TyperGroup):
        context = command.context_class(command, parent=context, info_name=name)
        assert words or not whole, f"{name} needs a command"
        if not words:
            return
        name, words = words[0], words[1:]
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    if not whole:  # values may be words in capitals, or missing
        command.make_parser(command.context_class(command, parent=context)).parse_args(list(words))
        return
    try:
        command.make_context(name, list(words), parent=context)
    except Exception as error:
        if "does not exist" not in str(error):  # a user's own file
            raise
    if name == "run":
        stages = [word for word in words if re.fullmatch(r"[a-z]+", word)]
        assert set(stages) <= {*config.STAGES, "all"}, f"no such stages: {stages}"


def _check_targets(words: list[str]) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    unknown = {word for word in words if "=" not in word} - set(phony[1].split())
    assert not unknown, f"make has no target {unknown}"


def _is_module(name: str) -> bool:
    assert importlib.util.find_spec(name), f"there is no module {name}"
    return True


def _check_script(script: str, words: list[str]) -> None:
    path = ROOT / script
    assert path.is_file(), f"there is no {script}"
    sources = [path.read_text()]
    for package, names in re.findall(r"^from (valign[\w.]*) import (.*)$", sources[0], re.M):
        parent = ROOT / package.replace(".", "/")
        files = [parent.with_suffix(".py"), *(parent / f"{n}.py" for n in names.split(", "))]
        sources += [file.read_text() for file in files if file.is_file()]
    for word in words:
        if word.startswith("--"):
            option = word.partition("=")[0]
            assert any(f'"{option}"' in source for source in sources), f"{script} has no {option}"


def _check_setting(word: str) -> None:
    """Fail over a setting, or a recipe, that does not exist."""
    key, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[a-z_0-9.-]+", key):
        return
    if key == "recipe":
        known = value in config.recipes() or "/" in value or value.endswith((".yaml", "..."))
        assert known, f"there is no recipe {value}"
        return
    try:
        config.load("miniature", [word])
    except ValueError as error:  # a value in capitals, or dots, is no fault
        assert "unknown key" not in str(error), error
        assert "not a section" not in str(error), error
