"""`valign cluster`: up for real, used, hurt, and down again without a trace."""

import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ray_head
from valign.on_ray import local_cluster

REPOSITORY = Path(__file__).parents[2]
JOB = """
import ray
from valign.storage.objects import open_store
ray.init(log_to_driver=False)
print(sorted((n["Resources"].get("CPU", 0), [k for k in n["Resources"] if k.startswith("node-")])
    for n in ray.nodes()))
where = ray.remote(num_cpus=1, resources={"node-2": 0.5})(ray.util.get_node_ip_address)
open_store("s3://valign/try").write("it", ray.get(where.remote()).encode())
"""


def valign(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `valign cluster`."""
    return subprocess.run(
        [sys.executable, "-m", "valign.cli", "cluster", *words, "--folder", str(folder)],
        env={**os.environ, **variables},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cluster"
    local_cluster.stop(tmp_path / "cluster")


@pytest.mark.ray
def test_a_cluster_goes_up_works_is_hurt_and_goes_down(folder: Path, tmp_path: Path):
    done = valign(folder, "up", "--nodes", "2", "--cpus", "1", "--s3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "`valign cluster down` ends it" in valign(folder, "up").stderr
    assert valign(folder, "status").returncode == 0

    # private: whatever is written is this user's alone, and Ray answers nobody without the token
    for file in (file for file in folder.iterdir() if file.is_file()):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    state = local_cluster.read(folder)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{state['jobs']}/api/jobs/", timeout=60)

    # used: a job sees a head without work and two nodes with resources of their own, and the bucket
    variables = local_cluster.environment(folder)
    assert f"export RAY_ADDRESS={state['gcs']}" in valign(folder, "env").stdout
    script = tmp_path / "job.py"
    script.write_text(JOB)
    environment = {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY)}
    job = [sys.executable, script]
    done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[(0, []), (1.0, ['node-1']), (1.0, ['node-2'])]" in done.stdout
    health = {p["name"]: p["health"] for p in state["processes"]}
    port = health["node-1"].split(":")[2].split("/")[0]
    probe = [REPOSITORY / "cluster/entrypoint.sh", "healthy"]
    here = {**environment, "RAY_AGENT_PORT": port, "VALIGN_PORT": "1"}
    # the image's probe asks loopback, where agents listen as well
    assert subprocess.run(probe, env=here, check=False).returncode == 0

    # hurt: a node that was killed is seen
    pids = {p["name"]: p["pid"] for p in state["processes"]}
    everything = {pid for one in pids.values() for pid in ray_head.tree(one)}
    for pid in ray_head.tree(pids["node-1"]):
        os.kill(pid, 9)
    broken = valign(folder, "status")
    assert broken.returncode == 1
    assert "node-1: does not answer" in broken.stdout

    # down: all of it ends, somebody else's processes do not, and the data stay
    stranger = subprocess.Popen(["sleep", "600"])
    done = valign(folder, "down")
    assert done.stdout.strip() == "ended: node-2, head, s3"
    assert [pid for pid in everything if local_cluster.began(pid)] == []
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    assert not Path(state["temporary"]).exists()
    assert (folder / "s3").exists()
    assert not (folder / "token").exists()
    assert valign(folder, "status").returncode == 1


def test_a_process_that_took_an_old_number_is_not_ended(folder: Path):
    folder.mkdir()
    stranger = subprocess.Popen(["sleep", "600"])
    process = {"name": "head", "pid": stranger.pid, "began": 1, "health": "http://127.0.0.1:1/"}
    state = f'{{"temporary": "{folder / "t"}", "processes": [{process}]}}'.replace("'", '"')
    (folder / "cluster.json").write_text(state)
    assert local_cluster.alive(folder) == {}
    assert local_cluster.stop(folder) == []
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_token_file_is_private(tmp_path: Path):
    file = tmp_path / "ray" / "auth_token"
    local_cluster.write_token(file)
    first = file.read_text()
    local_cluster.write_token(file)
    assert file.read_text() == first
    assert len(first) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
