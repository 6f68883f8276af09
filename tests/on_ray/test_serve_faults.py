"""A server while people use it: processes die, models are replaced, too much is asked, it ends.

One cluster as operators have it: `ray start`, then the job `jobs/serve.py` that joins it, then
`serve deploy` from a bucket.
"""

import base64
import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from PIL import Image

from tests import ray_head, seaweed
from tests.on_ray.serving_world import Server, ask, build, counted, running, upload
from tests.ray_head import Head, free_ports
from tests.stages.hostile_pictures import encoded
from valign.on_ray import proxy
from valign.serving.access import new_key

pytestmark = pytest.mark.campaign
DRAW = "/v1/images/generations"
PATIENCE_S = 900
JOB = Path(__file__).parents[2] / "jobs/serve.py"
CALLERS = 6
GROWTH_MIB = 4 * proxy.MOST_BYTES >> 20  # of what is let in: sent, decoded, and on its way
BROKEN = 0  # in place of a status: the connection broke, or the answer was no JSON
PARTS = (
    "serve.generator={replicas: 2, max_replicas: 3, cpus: 0.1}",
    "serve.evaluator={cpus: 0.1}",
    "serve.deadline_s=300",
    "serve.queue=400",
)


@pytest.fixture(scope="module")
def head(weed: str) -> Iterator[Head]:
    more = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": proxy.WHERE}
    with ray_head.running(cpus=4, **more, **seaweed.environment(weed)) as head:
        yield head


@pytest.fixture(scope="module")
def server(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server on that cluster, whose command has ended."""
    folder = tmp_path_factory.mktemp("server")
    root, keys = build(folder / "root"), folder / "keys.jsonl"
    key, line = new_key("tester", requests_per_minute=100_000, concurrent=1_000)
    keys.write_text(line + "\n")
    (port,) = free_ports(1)
    server = Server(f"http://127.0.0.1:{port}", key, root, keys, 0, head.folder)
    deploy(head, server, root)
    return server


def deploy(head: Head, server: Server, root: Path) -> None:
    """Run the job, which joins the cluster and leaves the server there."""
    words = [f"serve.port={server.url.rpartition(':')[2]}", f"serve.keys={server.keys}", *PARTS]
    done = subprocess.run(
        [sys.executable, JOB, str(root), *words],
        env={**head.environment, "RAY_ADDRESS": head.gcs},
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def replicas(head: Head, name: str) -> dict[int, int]:
    """Return the processes of a deployment of this cluster, and their own MiB in memory."""
    return processes(head, f"ServeReplica:valign:{name}")


def processes(head: Head, *names: str) -> dict[int, int]:
    """The cluster's processes of these names: pid, and MiB of memory of its own."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = str(head.folder.parent) in (folder / "environ").read_text(errors="replace")
            words = (folder / "cmdline").read_text(errors="replace")
            memory = (folder / "status").read_text().partition("RssAnon:")[2]
        except OSError:
            continue
        if mine and any(part in words for part in names):
            found[int(folder.name)] = int(memory.split()[0]) // 1024
    return found


@contextlib.contextmanager
def load(server: Server, callers: int = CALLERS) -> Iterator[Counter[int]]:
    """Ask for images all the while; count the statuses of answers, all of them JSON."""
    stop, statuses, numbers = threading.Event(), Counter(), itertools.count()

    def one() -> None:
        while not stop.is_set():
            number = next(numbers)
            body = {"prompt": f"a bus {number % 5}", "seed": number}
            try:
                status, found, headers = ask(server, DRAW, body)
                assert isinstance(found, dict), found
                if status == 503:
                    assert int(headers["retry-after"]) > 0
                    assert found["error"]["type"] == "overloaded_error"
            except BaseException:
                statuses[BROKEN] += 1
                raise
            statuses[status] += 1

    with ThreadPoolExecutor(callers) as pool:
        work = [pool.submit(one) for _ in range(callers)]
        try:
            yield statuses
        finally:
            stop.set()
    for each in work:
        each.result()


def until(statuses: Counter[int], answered: int) -> None:
    goal, deadline = statuses[200] + answered, time.monotonic() + PATIENCE_S
    while statuses[200] < goal:
        assert time.monotonic() < deadline, statuses
        assert not statuses[BROKEN], statuses
        time.sleep(0.2)


@pytest.mark.parametrize("part", ["generator", "ingress"])
def test_a_killed_process_costs_only_what_it_was_at(head, server, part):
    with load(server) as statuses:
        until(statuses, 20)
        before = replicas(head, part)
        assert before
        killed = next(iter(before))
        os.kill(killed, signal.SIGKILL)
        until(statuses, 60)
    assert set(statuses) <= {200, 503}, statuses
    assert statuses[503] <= CALLERS, statuses  # each caller had one request under way
    assert set(before) - {killed} <= set(replicas(head, part)), "others died with it"
    deadline = time.monotonic() + PATIENCE_S
    while len(replicas(head, part)) < len(before) or killed in replicas(head, part):
        assert time.monotonic() < deadline, "it was not replaced"
        time.sleep(1)
    while ask(server, "/readyz")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(1)


def test_a_model_is_replaced_under_load_without_one_failure(head, server, tmp_path):
    def fingerprint() -> str:
        return ask(server, "/v1/models/aligned")[1]["fingerprint"]

    first = fingerprint()
    with load(server) as statuses:
        until(statuses, 10)
        deploy(head, server, build(tmp_path / "other", seed=2))
        deadline = time.monotonic() + PATIENCE_S
        while fingerprint() == first:
            assert time.monotonic() < deadline
            time.sleep(1)
        until(statuses, 40)
    assert set(statuses) == {200}, statuses
    drawn = ask(server, DRAW, {"prompt": "a bus"})[1]["data"][0]["valign"]["fingerprint"]
    assert drawn == fingerprint() != first


def test_200_callers_with_large_bodies_find_bounded_memory(head, server):
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    picture = base64.b64encode(encoded(Image.fromarray(noise))).decode()
    body = json.dumps({"items": [{"image": picture, "prompt": "a bus"}] * 4}).encode()
    assert len(body) > 3 << 20
    names = ("ingress", "generator", "evaluator", "retriever")
    parts = {name: f"ServeReplica:valign:{name}" for name in names} | {"proxy": "ray::ProxyActor"}

    def memory() -> dict[str, int]:
        return {name: sum(processes(head, words).values()) for name, words in parts.items()}

    before, stop = memory(), threading.Event()
    most = dict(before)

    def watch() -> None:
        while not stop.wait(0.5):
            for name, now in memory().items():
                most[name] = max(most[name], now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda _: sent(server, "/v1/score", body), range(200)))
    finally:
        stop.set()
        watcher.join()
    statuses = Counter(status for status, _ in answers)
    print(statuses, before, most)
    assert set(statuses) <= {200, 408, 503}, statuses
    assert statuses[200]
    assert all(int(after or 0) for status, after in answers if status == 503)
    assert sum(most.values()) - sum(before.values()) < GROWTH_MIB, (before, most)
    assert ask(server, DRAW, {"prompt": "a bus"})[0] == 200


def sent(server: Server, path: str, body: bytes) -> tuple[int, str | None]:
    """Return status and Retry-After of a large request, also where it is refused half read."""
    address = urlsplit(server.url)
    link = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE_S)
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        link.request("POST", path, body, headers)
    answer = link.getresponse()
    answer.read()
    link.close()
    return answer.status, answer.headers["retry-after"]


def test_serve_deploy_serves_a_run_from_a_bucket(head, server, weed, tmp_path):
    target = upload(build(tmp_path / "third", seed=3), weed)
    settings = [f"serve.keys={server.keys}", f"serve.audit={tmp_path / 'audit.jsonl'}", *PARTS]
    port = int(server.url.rpartition(":")[2])
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": port, "request_timeout_s": 330},
        "applications": [
            {
                "name": "valign", "route_prefix": "/",
                "import_path": "valign.on_ray.server:application",
                "args": {"target": target, "settings": settings},
            }
        ],
    }  # fmt: skip
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    before = ask(server, "/v1/models/aligned")[1]["fingerprint"]
    words = ["serve", "deploy", str(tmp_path / "serve.yaml"), f"--address={head.jobs}"]
    done = subprocess.run(
        words, env=head.environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + PATIENCE_S
    while ask(server, "/v1/models/aligned")[1].get("fingerprint", before) == before:
        assert time.monotonic() < deadline, dashboard(head)
        time.sleep(2)
    parts = dashboard(head)["applications"]["valign"]["deployments"]
    growth = parts["generator"]["deployment_config"]["autoscaling_config"]
    assert (growth["min_replicas"], growth["max_replicas"]) == (2, 3)
    assert parts["evaluator"]["deployment_config"]["max_queued_requests"] == 400
    assert ask(server, DRAW, {"prompt": "a bus", "n": 2})[0] == 200
    assert (tmp_path / "audit.jsonl").read_text().count("\n") >= 1


def dashboard(head: Head) -> dict:
    """Return what Serve says of itself to `serve status` and the dashboard."""
    request = urllib.request.Request(
        f"{head.jobs}/api/serve/applications/",
        headers={"Authorization": f"Bearer {ray_head.TOKEN}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_a_server_that_is_told_to_end_answers_what_it_has_begun(tmp_path):
    with running(tmp_path, "serve.deadline_s=300") as server:
        body = {"prompt": "a bus", "n": 10, "num_inference_steps": 40}
        with ThreadPoolExecutor(3) as pool:
            begun = [pool.submit(ask, server, DRAW, body) for _ in range(3)]
            deadline = time.monotonic() + 60
            while counted(server, "ray_valign_serve_requests_under_way") < len(begun):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            os.kill(server.pid, signal.SIGTERM)
            refused = None
            while refused is None and not all(one.done() for one in begun):
                try:
                    status, found, _ = ask(server, "/v1/models")
                    refused = found["error"]["code"] if status == 503 else None
                except OSError:
                    break
            assert refused == "stopping"
            statuses = [one.result()[0] for one in begun]
        assert statuses == [200] * 3
        with pytest.raises(OSError):
            while True:  # it ends
                assert time.monotonic() < deadline + 60
                ask(server, "/healthz")
                time.sleep(1)
