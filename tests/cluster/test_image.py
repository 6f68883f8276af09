"""The image is linted and pinned, its entry point refuses what is unsafe, `ray up` takes it."""

import copy
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from valign import config
from valign.stages.estimate import estimate

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UP = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
TEXTS = [file.read_text() for file in CLUSTER.rglob("*") if file.is_file()]


def entrypoint(*words: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the entry point as a container would, in an environment of its own."""
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home)}
    return subprocess.run(
        [CLUSTER / "entrypoint.sh", *words],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_dockerfile_passes_its_linter():
    hadolint = Path(sys.executable).parent / "hadolint"
    subprocess.run([hadolint, CLUSTER / "Dockerfile"], check=True)


def test_the_image_holds_the_pinned_versions_and_the_tested_python():
    assert re.search(r"^ARG PYTHON=(.*)$", DOCKERFILE, re.M)[1] == "3.11"
    assert "Programming Language :: Python :: 3.11" in PROJECT["classifiers"]
    assert "pip install -c constraints.txt -r requirements.txt" in DOCKERFILE
    tags = {tag for text in TEXTS for tag in re.findall(r"valign:([\w.]+)", text)}
    assert tags == {PROJECT["version"]}


def test_what_the_image_copies_is_sent_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in lines if line.startswith("!")]
    copied = {
        source
        for words in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
        for source in words.split()[:-1]
        if not source.startswith("--")
    }
    assert copied <= set(sent)
    assert all((ROOT / name).exists() for name in sent)


@pytest.mark.parametrize("role", ["head", "worker"])
def test_a_node_without_a_token_does_not_start(role: str, tmp_path: Path):
    done = entrypoint(role, "somewhere:6379", home=tmp_path)
    assert done.returncode == 64
    assert "no token" in done.stderr


def test_the_entry_point_runs_jobs_by_name_and_says_what_it_can(tmp_path: Path):
    assert "there is no job" in entrypoint("job", "nonsense", home=tmp_path).stderr
    assert "seven" in entrypoint("echo", "seven", home=tmp_path).stdout
    assert entrypoint("healthy", home=tmp_path, RAY_AGENT_PORT="1", VALIGN_PORT="1").returncode != 0
    told = entrypoint(home=tmp_path).stdout
    for role in re.findall(r"^    (\w+)\)$", (CLUSTER / "entrypoint.sh").read_text(), re.M):
        assert role == "help" or f"  {role} " in told


def test_ray_up_accepts_the_cluster_file():
    validate_config(prepare_config(copy.deepcopy(UP)))  # Ray's own schema and rules


def test_ray_up_starts_a_guarded_head_without_work_and_spot_workers():
    head, draw, train = (UP["available_node_types"][name] for name in ("head", "draw", "train"))
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert draw["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert all("IamInstanceProfile" in kind["node_config"] for kind in (head, draw, train))
    starts = [*UP["head_start_ray_commands"], *UP["worker_start_ray_commands"]]
    for line in (line for line in starts if "ray start" in line):
        assert "RAY_AUTH_MODE=token" in line
    assert any("--dashboard-host=127.0.0.1" in line and "--num-cpus=0" in line for line in starts)
    ports = [rule["ToPort"] for rule in UP["provider"]["security_group"]["IpPermissions"]]
    assert ports == [22]
    text = (CLUSTER / "ray-cluster.yaml").read_text()
    assert not re.search(r"AKIA|SECRET|PASSWORD", text)


def test_the_guide_names_jobs_recipes_and_files_that_exist():
    guide = (CLUSTER / "README.md").read_text()
    assert all((ROOT / job).exists() for job in re.findall(r"jobs/\w+\.py", guide))
    links = re.findall(r"\]\((?!http)([^)#]+)", guide)
    assert links
    assert not [link for link in links if not (CLUSTER / link).exists()]


@pytest.mark.parametrize("recipe", ["livo_sd15", "balanced_dpo_sd15"])
def test_the_guide_sizes_the_papers_runs_as_the_plan_does(recipe: str):
    found = estimate(config.load(recipe))
    guide = (CLUSTER / "README.md").read_text()
    hours = sum(found.device_hours.values())
    wall = sum(line.hours / line.devices for line in found.lines)
    assert f"| **{hours:.1f}** | **{wall:.1f}** |" in guide
    assert f"Cost: {found.cost(2.5):.2f} at 2.50" in guide
    for line in found.lines:
        assert f"{line.hours:.1f} |" in guide, line
