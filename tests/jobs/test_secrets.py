"""A whole run in a bucket, submitted as a job: the bytes of an inline run, and no credentials."""

import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ray_head, seaweed, tiny_run
from valign import config
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.storage.objects import open_store

REPOSITORY = Path(__file__).parents[2]
LARGEST_UPLOAD_BYTES = 40 * 2**20
UPLOADS = "session_2*/runtime_resources/working_dir_files/_ray_pkg_*/**/*"


def files_with(secret: bytes, *folders: Path) -> Iterator[str]:
    """Yield the names of the files below the folders that hold the secret."""
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and secret in file.read_bytes():
                yield file.name


@pytest.mark.ray
def test_a_submitted_run_in_a_bucket_is_right_and_shows_no_credentials(
    weed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The nodes of the cluster have the credentials in their environment; the upload is small."""
    recipe, root = tiny_run.write_recipe(tmp_path), f"s3://bucket/{tmp_path.name}"
    folder, cache = tmp_path / "folder", str(tmp_path / "cache")
    words = ["resources.workers=1", "generate.principles=[gender]", "generate.bias_prompts=1"]
    execute(config.STAGES, tiny_run.load(recipe, folder, *words), Inline())
    # a Hub token and the lines for log collectors must not show it, either
    more = {"VALIGN_CACHE": cache, "HF_TOKEN": seaweed.SECRET, "VALIGN_LOG": "json"}
    with ray_head.running(**seaweed.environment(weed), **more) as head:
        submit = ["ray", "job", "submit", "--address", head.jobs, "--working-dir", "."]
        job = ["jobs/pipeline.py", f"recipe={recipe}", f"root={root}", *words]
        done = subprocess.run(
            [*submit, "--", *job],
            cwd=REPOSITORY,
            env={k: v for k, v in head.environment.items() if not k.startswith("AWS_")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        asked = urllib.request.Request(f"{head.jobs}/api/jobs/")
        asked.add_header("Authorization", f"Bearer {ray_head.TOKEN}")
        with urllib.request.urlopen(asked, timeout=60) as answer:
            jobs = answer.read()
        secret = seaweed.SECRET.encode()
        (head.folder / "control").write_bytes(b"..." + secret)
        found = list(files_with(secret, head.folder, tmp_path))
        uploaded = [file for file in head.folder.glob(UPLOADS) if file.is_file()]
        assert any(file.name == "pipeline.py" for file in uploaded), "nothing was uploaded"
        assert sum(file.stat().st_size for file in uploaded) < LARGEST_UPLOAD_BYTES
    assert found == ["control"]
    assert b"jobs/pipeline.py" in jobs
    assert secret not in jobs
    assert seaweed.SECRET not in done.stdout + done.stderr
    for name, value in seaweed.environment(weed).items():
        monkeypatch.setenv(name, value)
    store = open_store(root)
    assert not [key for key in store.list() if secret in store.read(key)]
    assert tiny_run.tree(root) == tiny_run.tree(folder)
