"""What Ray Serve adds to the server: batches, queues, and processes of its own."""

import base64
import http.client
import io
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
from PIL import Image

from tests.on_ray.serving_world import ask, counted, metrics, processes, raw
from tests.stages.hostile_pictures import encoded
from valign.models.aligned import AlignedPipeline
from valign.records import noise_seed
from valign.storage import layout

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROMPT = "a photo of a doctor, said the canary"
DRAW = "/v1/images/generations"
SIZES, ITEMS = "ray_valign_serve_batch_size", "ray_valign_serve_items_total"
GROWTH_MIB = 400


def pixels(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)


def test_the_openai_client_draws_the_offline_images_in_any_batch(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)

    def drawn(key: str) -> list[np.ndarray]:
        more = {"seed": 7, "principles": [key] if key else "none"}
        made = client.images.generate(prompt=PROMPT, n=3, extra_body=more)
        return [pixels(image.b64_json) for image in made.data]

    keys = ["nudity", "", "nudity", ""]
    with ThreadPoolExecutor(len(keys)) as pool:  # together, so that they share batches
        found = list(pool.map(drawn, keys))
    offline = AlignedPipeline.from_pretrained(server.root / layout.ALIGNED)
    seeds = [noise_seed(7, PROMPT, index) for index in range(3)]
    deadline = time.monotonic() + 60
    part = 'part="generator"'
    alone = (f"{SIZES}_bucket", part, 'le="1.0"')
    while counted(server, f"{SIZES}_count", part) <= counted(server, *alone):
        assert time.monotonic() < deadline, "no images shared a batch"
        time.sleep(0.5)
    for key, images in zip(keys, found, strict=True):
        expected = offline([PROMPT] * 3, [key] * 3, seeds).astype(int)
        assert np.abs(np.stack(images) - expected).max() <= 1


def test_pictures_are_scored_and_compared(server):
    body = {"prompt": "a red bus", "n": 2, "seed": 1}
    made = ask(server, "/v1/images/generations", body)[1]["data"]
    images = [image["b64_json"] for image in made]
    status, found, _ = ask(server, "/v1/compare", {"prompt": "a red bus", "images": images})
    assert (status, len(found["pairs"])) == (200, 1)
    items = [{"image": each, "prompt": "a red bus"} for each in (images[0], "no picture")]
    good, bad = ask(server, "/v1/score", {"items": items})[1]["data"]
    assert good["scores"]["clip_score"] == pytest.approx(
        found["images"][0]["scores"]["clip_score"], abs=1e-3
    )
    assert bad["error"]
    assert ask(server, "/v1/models", Authorization="")[0] == 401


def memory_mib(server) -> int:
    replicas = processes(server, "ray::ServeReplica") | processes(server, "ray::ProxyActor")
    assert len(replicas) >= 5
    return sum(replicas.values())


def test_200_callers_get_an_answer_or_a_refusal_that_says_when_in_bounded_memory(server):
    before = memory_mib(server)
    picture = base64.b64encode(encoded(Image.effect_noise((64, 64), 60).convert("RGB"))).decode()

    def one(number: int) -> tuple[int, str | None]:
        bodies = {
            0: (DRAW, {"prompt": f"a bus number {number % 7}", "n": 2, "seed": number}),
            1: (DRAW, {"prompt": "a bus", "n": 99}),
            2: ("/v1/score", {"items": [{"image": picture, "prompt": "a bus"}] * 4}),
            3: (DRAW, {"prompt": "a bus", "n": 2, "size": "128x128"}),
        }
        status, found, headers = ask(server, *bodies[number % 4])
        assert status == 200 or set(found["error"]) == {"message", "type", "param", "code"}
        return status, headers.get("retry-after")

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(one, range(200)))
    statuses = Counter(status for status, _ in answers)
    assert {200, 400, 503} <= set(statuses) <= {200, 400, 408, 503}, statuses
    assert all(after for status, after in answers if status == 503)
    assert memory_mib(server) - before < GROWTH_MIB
    assert ask(server, DRAW, {"prompt": "a bus"})[0] == 200


def test_a_caller_who_goes_is_not_drawn_for(server):
    def drawn() -> float:
        """Return how many images were drawn once that no longer changes."""
        found, last = -1.0, -2.0
        while found != last:
            time.sleep(2)  # several times the interval of Ray's metrics
            found, last = counted(server, ITEMS, 'part="generator"'), found
        return found

    before, address = drawn(), urlsplit(server.url)
    for _ in range(4):
        link = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        body = json.dumps({"prompt": "a bus", "n": 10, "num_inference_steps": 50})
        headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
        link.request("POST", DRAW, body, headers)
        time.sleep(0.3)
        link.close()
    assert ask(server, DRAW, {"prompt": "a bus"})[0] == 200
    assert 1 <= drawn() - before < 30  # of 41


def test_what_was_asked_is_on_rays_metrics_port(server):
    for more in [{"principles": ["nudity"]}] * 4 + [{"prompt": "a nude child"}]:
        ask(server, DRAW, {"prompt": PROMPT, **more})
    ask(server, "/v1/score", {"items": [{"image": "", "prompt": PROMPT}]})
    deadline = time.monotonic() + 60
    tags = ('model="aligned"', 'principle="nudity"')
    while not counted(server, "ray_valign_serve_images_total", *tags):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    answered = counted(server, "ray_valign_serve_requests_total", f'route="{DRAW}"', 'status="200"')
    assert answered >= 4
    assert counted(server, "ray_valign_serve_seconds_count", f'route="{DRAW}"') >= answered
    assert counted(server, ITEMS, 'part="generator"') >= answered
    assert counted(server, ITEMS, 'part="evaluator"') >= 1
    assert counted(server, "ray_valign_serve_refusals_total") >= 1
    assert "ray_valign_serve_requests_under_way" in metrics(server)
    assert "the canary" not in metrics(server)


def test_slow_and_oversized_bodies_end_in_an_error(server):
    start = (
        f"POST {DRAW} HTTP/1.1\nHost: x\nContent-Type: application/json\n"
        f"Authorization: Bearer {server.key}\n"
    )
    assert b" 408 " in raw(server, start + "Content-Length: 100\n\n", b'{"prompt"', wait_s=60)
    assert b" 413 " in raw(server, start + "Content-Length: 99999999999\n\n", wait_s=60)
    assert ask(server, "/readyz")[0] == 200


def test_no_prompt_and_no_key_is_in_any_log_of_ray(server):
    files = [file for file in server.ray.rglob("logs/**/*") if file.is_file()]
    assert any("replica_valign_generator" in file.name for file in files)
    for file in [*files, server.root / "serve/audit.jsonl"]:
        text = file.read_bytes()
        assert b"the canary" not in text, file
        assert server.key.encode() not in text, file
