"""The README's file map names every file, and nothing that is gone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_file_has_its_phrase_in_the_map():
    files = [*ROOT.glob("jobs/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("valign/**/*.py")]
    named = [file for file in files if file.name != "__init__.py"]
    missing = [str(f.relative_to(ROOT)) for f in named if f"`{f.name}`" not in README]
    assert not missing


def test_every_link_and_path_in_the_readme_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_map_names_no_file_that_is_gone():
    there = {file.name for file in ROOT.glob("**/*.py") if ".venv" not in file.parts}
    named = set(re.findall(r"`(\w+\.py)`", README))
    assert named <= there
