"""What Ray Serve adds to the server: batches, queues, and processes of its own."""

import base64
import http.client
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
from PIL import Image

from tests.on_ray.serving_world import ask
from valign.models.aligned import AlignedPipeline
from valign.records import noise_seed
from valign.storage import layout

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROMPT = "a photo of a doctor, said the canary"


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


def test_many_callers_get_images_or_a_refusal_that_says_when(server):
    def one(number: int) -> tuple[int, str | None]:
        body = {"prompt": f"a bus number {number % 7}", "n": 3, "seed": number}
        status, _, headers = ask(server, "/v1/images/generations", body)
        return status, headers.get("retry-after")

    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(one, range(60)))
    statuses = {status for status, _ in answers}
    assert statuses <= {200, 503, 504}
    assert 200 in statuses
    assert 503 in statuses  # 180 images are more than a queue holds
    assert all(after for status, after in answers if status == 503)
    assert ask(server, "/v1/images/generations", {"prompt": "a bus"})[0] == 200


def test_a_caller_who_goes_leaves_nothing_behind(server):
    address = urlsplit(server.url)
    for _ in range(3):
        link = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        body = json.dumps({"prompt": "a bus", "n": 10, "num_inference_steps": 20})
        headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
        link.request("POST", "/v1/images/generations", body, headers)
        time.sleep(0.3)
        link.close()
    assert ask(server, "/v1/images/generations", {"prompt": "a bus"})[0] == 200


def test_no_prompt_and_no_key_is_in_any_log_of_ray(server):
    files = [file for file in server.ray.rglob("logs/**/*") if file.is_file()]
    assert any("replica_valign_generator" in file.name for file in files)
    for file in [*files, server.root / "serve/audit.jsonl"]:
        text = file.read_bytes()
        assert b"the canary" not in text, file
        assert server.key.encode() not in text, file
