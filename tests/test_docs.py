"""The documentation is built without network or warning; its links and commands hold."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests import tiny_run
from valign import config
from valign.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def commands(guide: Path) -> list[str]:
    """Return the valign commands of a guide's shell blocks."""
    blocks = re.findall(r"^ *```sh\n(.*?)```", guide.read_text(), re.M | re.S)
    return [found.strip() for b in blocks for found in re.findall(r"^ *(valign [^#\n]*)", b, re.M)]


@pytest.mark.slow
def test_it_is_built_without_a_warning_and_every_page_is_reached(tmp_path: Path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run(
        [*build, DOCS, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "recipes.html").read_text()
    for key in config.valid_keys():
        assert f">{key}<" in reference, key
    assert "from_pretrained" in (tmp_path / "api.html").read_text()
    assert "<svg" in (DOCS / "flow.svg").read_text()
    pages = [page.relative_to(DOCS).with_suffix(".html") for page in PAGES]
    assert [page for page in pages if not (tmp_path / page).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, target


def test_every_command_in_the_docs_is_one_that_the_command_line_knows():
    guides = [*PAGES, ROOT / "README.md", ROOT / "cluster/README.md", ROOT / "SECURITY.md"]
    said = {line for guide in guides for line in commands(guide)}
    assert len(said) > 20
    known = CliRunner().invoke(app, ["--help"]).output
    for line in said:
        words = shlex.split(line.split(" >>")[0].split(" &")[0])
        assert re.search(rf"\b{words[1]}\b", known), line
        for word in words[2:]:
            if config.is_setting(word) and re.match(r"[a-z_.]+=", word) and "..." not in word:
                key = word.partition("=")[0]
                assert key == "recipe" or _is_key(key), line


def _is_key(key: str) -> bool:
    """Say whether a setting exists; below a mapping, names are the user's own."""
    known = config.valid_keys()
    return any(key == one or key.startswith(f"{one}.") for one in known) or any(
        one.startswith(f"{key}.") for one in known
    )


@pytest.mark.campaign
@pytest.mark.parametrize("guide", ["own_prompts", "resume", "gates"])
def test_what_a_guide_says_runs(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands with --inline are run as they stand, with the tiny recipe in the default's place."""
    recipe = tiny_run.write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.tsv").write_text("prompt\na doctor\na hill\n")
    small = ["generate.principles=[gender]", "generate.bias_prompts=1", "resources.workers=1"]
    lines = [one for one in commands(DOCS / "howto" / f"{guide}.md") if "--inline" in one]
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        stages = [word for word in words[1:] if word in (*config.STAGES, "all")]
        if stages == ["evaluate"]:
            words.insert(1, "all")
        own = [] if "prompts=my.tsv" in words else small
        shown = CliRunner().invoke(app, [*words, f"recipe={recipe}", *own])
        assert shown.exit_code in (0, 1 if "--fail-if" in words else 0), shown.output
