"""The documentation is built without network or warning; its links and commands hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests import command_lines, tiny_run
from valign import config
from valign.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


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


def test_every_command_in_the_docs_is_one_that_could_be_typed():
    guides = [ROOT / name for name in ("README.md", "cluster/README.md", "SECURITY.md")]
    said = {line for guide in (*PAGES, *guides) for line in command_lines.shown(guide.read_text())}
    assert sum(line.whole for line in said) > 40
    for program in ("valign", "make", "python jobs/", "ray job submit"):
        assert any(line.text.startswith(program) for line in said), program
    for line in sorted(said):
        try:
            command_lines.check(line)
        except Exception as error:
            pytest.fail(f"{line.text}: {error}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("valign rnu all", "no command 'rnu'"),
        ("valign cluster upp", "no command 'upp'"),
        ("valign sample 'a hill' --imagez 3", "No such option: --imagez"),
        ("valign sample 'a hill' --images 99", "less than or equal to 64"),
        ("valign sample", "Missing parameter: prompt"),
        ("valign run genrate", "no such stages"),
        ("valign run all train.stepz=3  # a comment", "unknown key 'train.stepz'"),
        ("valign run all recipe=minature", "no recipe minature"),
        ("make tset", "no target .*tset"),
        ("python jobs/trian.py", "no jobs/trian.py"),
        ("python jobs/reproduce.py --sedes 3", "has no --sedes"),
        ("python -m valign.nothing", "no module valign.nothing"),
        ("ray job submit --working-dir . -- jobs/train.py seed.x=3", "not a section"),
    ],
)
def test_a_command_that_could_not_be_typed_is_found(text, fault):
    (line,) = command_lines.shown(f"```sh\n{text}\n```\n")
    with pytest.raises(Exception, match=fault):
        command_lines.check(line)


@pytest.mark.campaign
@pytest.mark.parametrize("guide", ["own_prompts", "resume", "gates"])
def test_what_a_guide_says_runs(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands with --inline are run as they stand, with the tiny recipe in the default's place."""
    recipe = tiny_run.write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.tsv").write_text("prompt\na doctor\na hill\n")
    small = ["generate.principles=[gender]", "generate.bias_prompts=1", "resources.workers=1"]
    said = command_lines.shown((DOCS / "howto" / f"{guide}.md").read_text())
    lines = [line for line in said if line.whole and "--inline" in line.text]
    assert lines
    for line in lines:
        words = command_lines.words_of(line.text)[1:]
        stages = [word for word in words[1:] if word in (*config.STAGES, "all")]
        if stages == ["evaluate"]:
            words.insert(1, "all")
        own = [] if "prompts=my.tsv" in words else small
        shown = CliRunner().invoke(app, [*words, f"recipe={recipe}", *own])
        assert shown.exit_code in (0, 1 if "--fail-if" in words else 0), shown.output
