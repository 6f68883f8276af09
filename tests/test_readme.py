"""The README's file map names every file of every room, and nothing that is gone."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ROOMS = ["jobs", "benchmarks", "valign"]
ROOMS += [str(file.parent.relative_to(ROOT)) for file in sorted(ROOT.glob("valign/*/__init__.py"))]


def mapped() -> dict[str, set[str]]:
    """Return room -> the Python files that the map names under its heading."""
    rooms: dict[str, set[str]] = {}
    room = ""
    for row in README.splitlines():
        if heading := re.match(r"\| \*\*`([\w/]+)/`\*\*", row):
            room = heading[1]
            rooms[room] = set()
        elif room and row.startswith("|"):
            rooms[room] |= set(re.findall(r"`(\w+\.py)`", row.split("|")[1]))
    return rooms


@pytest.mark.parametrize("room", ROOMS)
def test_the_map_names_a_rooms_files_and_no_others(room: str):
    there = {file.name for file in (ROOT / room).glob("*.py")} - {"__init__.py"}
    assert mapped()[room] == there


def test_the_map_has_no_other_rooms():
    assert list(mapped()) != []
    assert mapped().keys() == set(ROOMS)


def test_every_link_and_path_in_the_readme_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
