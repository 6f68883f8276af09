"""Requests that nobody would write: whatever comes, the server answers 2xx, 4xx or 503."""

import base64
import random
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.on_ray.conftest import SETTINGS
from tests.on_ray.local_server import local
from tests.on_ray.serving_world import ask
from tests.stages.hostile_pictures import HOSTILE, encoded, picture

pytestmark = pytest.mark.slow
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 25  # of each address and each way of making them
BATCH = 16


@pytest.fixture(scope="module")
def small(parts, tmp_path_factory):
    """A server on which a request that is right costs little."""
    folder = tmp_path_factory.mktemp("small")
    cheap = ("serve.max_images=2", "serve.max_steps=2", f"serve.audit={folder / 'audit.jsonl'}")
    with local(folder, parts, *SETTINGS, *cheap) as (server, _):
        yield server


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_requests_made_from_the_description_are_answered_as_it_says(small, mode):
    headers = {"Authorization": f"Bearer {small.key}"}
    description = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    statuses = Counter()
    for found in description.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
            continue  # nothing about it can be wrong

        @seed(1)
        @settings(
            max_examples=EXAMPLES, database=None, phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask_one(case):
            answer = case.call_and_validate(headers=headers, checks=CHECKS, timeout=300)
            statuses[case.path, answer.status_code] += 1

        ask_one()
    wanted = 200 if mode is GenerationMode.POSITIVE else 400
    for path in ("/v1/images/generations", "/v1/score", "/v1/compare"):
        assert statuses[path, wanted], statuses


def malformed() -> list[bytes]:
    """Return pictures that are damaged in many ways, the same ones every time."""
    chance = random.Random(0)
    found = [data for data, _, _ in HOSTILE.values() if data is not None]
    for form in ("PNG", "JPEG", "WEBP"):
        whole = encoded(picture(), form)
        for _ in range(24):
            data = bytearray(whole)
            for _ in range(chance.choice((1, 3, 30))):
                data[chance.randrange(len(data))] = chance.randrange(256)
            start, end = sorted(chance.sample(range(len(data)), 2))
            cut = chance.choice((data, data[:end], data[start:], data[:start] + data[end:]))
            found.append(bytes(cut))
    return found


def test_no_malformed_picture_costs_the_others_their_answer(small):
    good = encoded(picture())
    pictures = malformed()
    refused = 0
    for start in range(0, len(pictures), BATCH - 1):
        images = [*pictures[start : start + BATCH - 1], good]
        items = [{"image": base64.b64encode(one).decode(), "prompt": "a hill"} for one in images]
        status, found, _ = ask(small, "/v1/score", {"items": items})
        assert status == 200, found
        *bad, last = found["data"]
        assert last["error"] is None
        assert all(one["error"]["message"] for one in bad if not one["scores"])
        refused += sum(one["error"] is not None for one in bad)
        status, compared, _ = ask(
            small, "/v1/compare", {"prompt": "a hill", "images": [one["image"] for one in items]}
        )
        told = [one["error"] is None for one in found["data"]]
        assert status == (200 if sum(told) > 1 else 422)
        if status == 200:
            assert [one["error"] is None for one in compared["images"]] == told
        else:
            assert compared["error"]["param"] == "images"
            assert "images[0]: " in compared["error"]["message"]
    assert refused > len(pictures) // 2


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_no_body_makes_the_server_fail(small, kind):
    chance = random.Random(0)
    start = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--x--'
    if kind == "application/json":
        start = b'{"prompt": "a bus", "n": 1, "seed": 1, "items": [{}], "images": ["", ""]}'
    for turn in range(60):
        data = bytearray(start)
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.randrange(len(data))
            data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        path = ("/v1/images/generations", "/v1/score", "/v1/compare")[turn % 3]
        status, found, _ = ask(small, path, bytes(data), Content_Type=kind)
        assert status == 200 or 400 <= status < 500, (path, bytes(data), found)
