"""What whoever runs it sees and does: status, a failure's last words, logs, releases, gc."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests import tiny_run
from valign import config
from valign.cli import app
from valign.on_ray.server import follow
from valign.stages import collect, release, results, status
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.stages.serve import run_of
from valign.storage import layout
from valign.storage.objects import open_store

SMALL = (
    *("generate.principles=[gender]", "generate.bias_prompts=1", "generate.shard_rows=4"),
    "train.steps=2",
)
WITHOUT_MODELS = """
import sys
for name in ("ray", "torch", "diffusers", "transformers"):
    sys.modules[name] = None
from valign.cli import app
app(["status", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def made(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose score failed once, and that was then finished; what was seen is beside it."""
    folder = tmp_path_factory.mktemp("operate")
    root = folder / "run"
    run = tiny_run.load(recipe, root, *SMALL)
    execute(("generate",), run, Inline())
    part = next(root.glob("generate/part-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(b"damaged")
    words = ["run", "score", "--inline", f"recipe={recipe}", f"root={root}", *SMALL]
    shown = CliRunner().invoke(app, words)
    (folder / "failure.txt").write_text(f"{shown.exit_code}\n{shown.output}")
    (folder / "status.txt").write_text("\n".join(status.lines(status.read(open_store(str(root))))))
    part.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VALIGN_LOG", "json")
        done = subprocess.run(
            [sys.executable, "-m", "valign.cli", "run", "all", *words[2:]],
            capture_output=True,
            text=True,
            check=True,
        )
    (folder / "log.txt").write_text(done.stdout)
    return root


def test_a_failed_job_ends_with_what_failed_first_and_how_to_go_on(made: Path):
    code, *lines = (made.parent / "failure.txt").read_text().strip().splitlines()
    assert code == "2"
    end = lines[next(i for i, line in enumerate(lines) if "failed first" in line) :]
    assert end[0].startswith("score failed first: ")
    assert "  generate: finished" in " ".join(end)
    assert f"{made}/recipe.yaml" in "".join(end)
    assert end[-1].endswith("What is finished is kept.")


def test_status_says_what_failed_until_it_is_mended(made: Path):
    before = (made.parent / "status.txt").read_text()
    assert "failed in score: " in before
    assert "generate: finished" in before
    assert "train: not begun" in before
    assert not (made / layout.FAILED).exists()


def test_status_reads_storage_alone_and_counts_what_is_there(made: Path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MODELS, str(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train: finished · checkpoint at step 2" in done.stdout
    found = status.read(open_store(str(made)))
    by_name = {one.prefix: one for one in found.work}
    assert [one for one in by_name if "/" not in one] == list(config.STAGES)
    parts = len(list(made.glob("generate/done/*")))
    assert by_name["generate"].shards == by_name["score"].shards == parts
    assert by_name["generate"].rows == by_name["generate"].planned
    assert by_name["evaluate/images"].rows > 0
    assert found.driver is None
    assert json.loads(found.to_json())["root"] == found.root


def test_status_of_half_a_stage_gives_a_rate_and_the_last_checkpoint(made: Path, tmp_path: Path):
    shutil.copytree(made, tmp_path / "half")
    store = open_store(str(tmp_path / "half"))
    for stage in ("generate", "train"):
        store.delete(layout.manifest(stage))
    store.create(layout.attempt("generate", 0, 1), b"")
    found = {one.prefix: one for one in status.read(store).work}
    assert found["generate"].state == "begun"
    assert found["generate"].retries == 1
    assert found["generate"].rows_per_s is None or found["generate"].rows_per_s > 0
    assert found["train"].step == 2


def test_json_logs_have_run_stage_shard_and_rank(made: Path):
    lines = (made.parent / "log.txt").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith('{"time"')]
    assert {event["run"] for event in events} == {events[0]["run"]}
    finished = [event["stage"] for event in events if event["event"] == "finished"]
    assert finished == list(config.STAGES[1:])  # generate was finished before
    shards = [event["shard"] for event in events if event["event"] == "shard"]
    assert len(shards) >= 3
    assert all(event["written"] > 0 for event in events if event["event"] == "shard")
    steps = [event for event in events if event["event"] == "steps"]
    assert sum(event["steps"] for event in steps) == 2
    assert {event["rank"] for event in steps} == {0}


def test_gc_removes_what_nothing_refers_to_and_nothing_else(made: Path, tmp_path: Path):
    root = tmp_path / "run"
    shutil.copytree(made, root)
    store, whole = open_store(str(root)), tiny_run.tree(root)
    assert collect.collect(store) == []
    store.delete(layout.manifest("encode"))
    kept = tiny_run.tree(root)
    orphans = [
        layout.part("generate", 99),
        layout.attempt("score", 0, 1),
        layout.part("encode", 98),
        layout.quarantine("encode", 98),
        f"{layout.checkpoint('train', 1)}/tensors-00000.safetensors",
        layout.driver(7),
    ]
    dead = {"host": "elsewhere", "pid": 1, "machine": "", "beat": 0, "beat_s": 0.01, "token": ""}
    for key in orphans:
        store.write(key, json.dumps(dead).encode())
    hidden = root / "generate" / ".0123456789abcdef.tmp"
    hidden.write_bytes(b"half")
    named = [*sorted(orphans), "generate/.0123456789abcdef.tmp"]
    shown = CliRunner().invoke(app, ["gc", str(root), "--dry-run"])
    assert shown.output.splitlines() == [*named, f"{len(named)} would be removed"]
    assert hidden.exists()
    removed = collect.collect(store)
    assert sorted(removed) == sorted(named)
    assert not hidden.exists()
    assert tiny_run.tree(root) == kept
    assert whole.keys() - kept.keys() == {layout.manifest("encode")}
    with pytest.raises(LookupError, match="is no run"):
        collect.collect(open_store(str(tmp_path / "nothing")))


def test_a_run_is_promoted_only_if_it_passes_and_can_be_rolled_back(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    releases, other = str(tmp_path / "releases"), tmp_path / "other"
    shutil.copytree(made, other)
    passes = results.parse(["bias.gender.d1 > 1000"])
    with pytest.raises(ValueError, match="name what a release must pass"):
        release.promote(str(made), releases, [])
    with pytest.raises(ValueError, match="not promoted"):
        release.promote(str(made), releases, results.parse(["bias.gender.d1 >= 0"]))
    assert release.current(releases) is None
    first, _ = release.promote(str(made), releases, passes)
    second, said = release.promote(str(other), releases, passes)
    assert (first.number, second.number, second.previous) == (1, 2, 1)
    assert second.passed == tuple(said)
    assert release.verified_root(f"release:{releases}") == open_store(str(other)).url

    weights = next(file for file in other.glob("train/aligned/**/*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(ValueError, match="is not the file that was promoted"):
        release.verified_root(f"release:{releases}")

    shown = CliRunner().invoke(app, ["rollback", releases])
    assert shown.exit_code == 0, shown.output
    assert release.verified_root(f"release:{releases}") == open_store(str(made)).url
    with pytest.raises(LookupError, match="no release before 1"):
        release.rollback(releases)
    target = f"release:{releases}"
    run, served = run_of(target), release.pointer(target)
    assert open_store(run.root).url == open_store(str(made)).url
    assert follow(target, (), served, run) == (served, run)  # the pointer was not moved
    third, _ = release.promote(str(made), releases, passes)
    assert (third.number, third.previous) == (3, 1)

    changed = tmp_path / "releases" / "000003.json"
    changed.write_text(changed.read_text().replace(str(made), "/elsewhere"))
    with pytest.raises(ValueError, match="is not what was promoted"):
        release.current(releases)
    assert follow(target, (), served, run) == (served, run)  # what is wrong is not served
    assert f"{target}: keeps what it serves" in capsys.readouterr().out
