"""The command line: help that teaches, errors that a person can act on."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from tests import command_lines, tiny_run
from tests.stages.foreign_sources import folder, png
from valign import cli
from valign.cli import app
from valign.models.aligned import AlignedPipeline
from valign.records import noise_seed
from valign.stages import generator

runner = CliRunner()


def test_help_names_every_command_and_where_to_start():
    shown = runner.invoke(app, ["--help"]).output
    for command in {path[0] for path in command_lines.every_command()}:
        assert re.search(rf"│ {command} ", shown), command
    assert "valign demo" in shown


def test_the_help_of_every_command_says_what_it_does_and_shows_an_example_that_holds():
    commands = command_lines.every_command()
    assert len(commands) > 20
    for path, told in commands.items():
        command = " ".join(("valign", *path))
        assert re.match(r"[A-Z].{20,}", told), f"{command} does not say what it does"
        examples = re.findall(rf"(?:^|(?<= )|\()({command}(?=[ )]|$).*)", told, re.M)
        assert examples, f"{command} --help shows no example"
        for example in examples:
            command_lines.check(command_lines.Line(example))


def test_recipes_lists_what_is_shipped_with_a_line_each():
    shown = " ".join(runner.invoke(app, ["recipes"]).output.split())
    assert "miniature_long" in shown
    assert "The default" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "genrate"], "no stage 'genrate'"),
        (["run", "root=x"], "name a stage"),
        (["run", "evaluate", "--fail-if", "toxicity.avg_r over 5%"], "is no condition"),
        (["run", "score", "--fail-if", "toxicity.avg_r > 0.05"], "name that stage, too"),
        (["compare", "NOWHERE", "NOWHERE"], "run evaluate on this root first"),
        (["run", "generate", "train.stepz=3"], "did you mean 'train.steps'"),
        (["run", "score", "--inline", "root=NOWHERE"], "run generate on this root first"),
        (["sample", "a doctor", "--model", "NOWHERE"], "holds no aligned model"),
        (["sample", "a bloody corpse", "--model", "NOWHERE"], "--show-toxic draws it all the same"),
        (["sample", "a hill", "--principle", "nudity"], "nudity is about toxic content"),
        (["sample", "a bloody corpse", "--show-toxic", "--model", "NOWHERE"], "holds no aligned"),
        (["import", "NOWHERE", "root=NOWHERE", "--inline"], "nowhere"),
        (["export", "csv", "NOWHERE", "NOWHERE"], "there are pick-a-pic, livo"),
        (["export", "livo", "NOWHERE", "NOWHERE"], "run label on this root first"),
        (["purge", "NOWHERE"], "a principle, a prompt or an age"),
        (["purge", "NOWHERE", "--principle", "nudity"], "there is nothing to purge"),
    ],
)
def test_errors_are_one_message_with_a_remedy(arguments, message, tmp_path):
    arguments = [word.replace("NOWHERE", str(tmp_path / "nowhere")) for word in arguments]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_sample_draws_the_base_models_images_above_and_refuses_what_the_guard_refuses(tmp_path):
    recipe = tiny_run.write_recipe(tmp_path)
    root = tmp_path / "root"
    words = [f"recipe={recipe}", f"root={root}", "generate.principles=[gender]"]
    done = runner.invoke(
        app, ["run", "generate", "score", "label", "encode", "train", "--inline", *words]
    )
    assert done.exit_code == 0, done.output
    out, images, seed = tmp_path / "grid.png", 4, 3
    options = ["--model", str(root), "--images", str(images), "--out", str(out)]
    run = tiny_run.load(recipe, root)
    base, sampler = generator.load_generator(run), generator.sampler(run)
    pipeline = AlignedPipeline.from_pretrained(root / "train" / "aligned")
    for prompt, principle, applied in (
        ("a photo of a doctor", "gender", 2),  # the token is on half of the images
        ("a hill", "auto", 0),
    ):
        more = ["--principle", principle, "--seed", str(seed)]
        drawn = runner.invoke(app, ["sample", prompt, *more, *options])
        assert drawn.exit_code == 0, drawn.output
        grid = np.asarray(Image.open(out))
        assert grid.shape == (2 * 192, images * 192, 3)
        assert np.array_equal(grid, grid[::3, ::3].repeat(3, axis=0).repeat(3, axis=1))
        upper, lower = (np.split(row, images, axis=1) for row in np.split(grid[::3, ::3], 2))
        seeds = [noise_seed(seed, prompt, sample) for sample in range(images)]
        expected = base.sample(base.condition([prompt] * images), seeds, sampler)
        assert np.array_equal(upper, expected)
        key = "" if principle == "auto" else principle
        changed = [not np.array_equal(*pair) for pair in zip(upper, lower, strict=True)]
        assert changed == pipeline.applied([prompt] * images, [key] * images, seeds).tolist()
        assert sum(changed) == applied
    refused = runner.invoke(app, ["sample", "a naked child", *options])
    assert refused.exit_code == 2
    assert "refused" in refused.output


def test_imported_images_are_purged_only_when_the_user_says_so(tmp_path):
    recipe = tiny_run.write_recipe(tmp_path)
    source, root = tmp_path / "mine", tmp_path / "root"
    files = {"1.png": png(1), "2.png": png(2)}
    rows = [
        {"file_name": "1.png", "caption": "a bloody corpse on the floor"},
        {"file_name": "2.png", "caption": "a hill"},
    ]
    words = [str(folder(source, files, rows)), f"recipe={recipe}", f"root={root}", "--inline"]
    done = runner.invoke(app, ["import", *words])
    assert done.exit_code == 0, done.output
    assert f"recipe={root}/recipe.yaml" in done.output
    before = tiny_run.tree(root)
    asked = runner.invoke(app, ["purge", str(root), "--principle", "bloody"], input="n\n")
    assert asked.exit_code == 1
    assert "images 1 · pairs 0" in asked.output
    assert tiny_run.tree(root) == before
    purged = runner.invoke(app, ["purge", str(root), "--prompt", "a hill"], input="y\n")
    assert purged.exit_code == 0, purged.output
    assert "purged: images 1 · pairs 0 · evaluation images 0" in purged.output
    assert "Not reached: weights trained on what is gone" in purged.output
    assert png(1) in b"".join(path.read_bytes() for path in root.rglob("part-*"))
    assert png(2) not in b"".join(path.read_bytes() for path in root.rglob("part-*"))
    (root / "purging.json").write_text(
        '{"schema_version": 1, "by": {}, "counts": {"images": 0, "pairs": 0, '
        '"evaluation images": 0}, "gone": {}, "principle": ""}'
    )
    finished = runner.invoke(app, ["purge", str(root)])
    assert finished.exit_code == 0, finished.output
    assert "finished an interrupted purge" in finished.output


def test_bars_show_new_resumed_and_finished_work_each_at_its_own_pace(
    monkeypatch: pytest.MonkeyPatch,
):
    now_s = [0.0]
    screen = Console(
        file=io.StringIO(), width=120, force_terminal=True, get_time=lambda: now_s[0], record=True
    )
    monkeypatch.setattr(cli, "console", screen)

    def rows(bars: cli.Bars) -> list[str]:
        paper = Console(file=io.StringIO(), width=120)
        paper.print(bars.progress.get_renderable())
        lines = paper.file.getvalue().splitlines()
        return [" ".join(re.sub(r"[━╸╺]", "", line).split()) for line in lines]

    with cli.Bars() as bars:
        bars("generate", 0, 1200, "images")
        bars("score", 60, 100, "images")  # an earlier run did 60
        assert rows(bars) == [
            "generate 0 of 1,200 images -:--:--",
            "score 60 of 100 images -:--:--",
        ]
        for second in (1, 2, 3):
            now_s[0] = float(second)
            bars("generate", 300 * second, 1200, "images")
            bars("score", 60 + 10 * second, 100, "images")
        assert rows(bars) == [
            "generate 900 of 1,200 images 300.0/s 0:00:01",
            "score 90 of 100 images 10.0/s 0:00:01",
        ]
        now_s[0] = 4.0
        bars("generate", 1200, 1200, "images")
        bars("encode", 5, 5, "images and texts")  # an earlier run did all of it
        assert len(bars.progress.tasks) == 3
        assert [task.finished for task in bars.progress.tasks] == [True, False, True]
        assert rows(bars)[2] == "encode 5 of 5 images and texts 0:00:00"
    assert "1,200 of 1,200 images" in screen.export_text()


@pytest.mark.ray
def test_check_ends_well_where_all_is_well_and_else_says_what_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ["check", f"recipe={tiny_run.write_recipe(tmp_path)}", f"root={tmp_path / 'root'}"]
    words.append("resources.workers=1")
    try:
        fine = runner.invoke(app, words)
        broken = runner.invoke(app, [*words, "generator=/no/such/folder"])
    finally:
        ray.shutdown()
    looked_at = ["torch", "storage", "generator", "scorers", "ray"]
    assert fine.exit_code == 0, fine.output
    assert re.findall(r"^✓ (\w+):", fine.output, re.M) == looked_at
    assert "✗" not in fine.output
    assert broken.exit_code == 1
    assert re.findall(r"^✗ (\w+):", broken.output, re.M) == ["generator"]
    assert "Set generator=" in broken.output
