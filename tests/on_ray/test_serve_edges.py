"""Deadlines, filters, other origins and closing, on servers that differ by a setting."""

import threading
import time

import pytest

from tests.on_ray.conftest import SETTINGS
from tests.on_ray.local_server import local
from tests.on_ray.serving_world import ask

pytestmark = pytest.mark.slow
DRAW = "/v1/images/generations"
NAKED = "a naked statue"  # with some seeds the image is toxic, with others not


@pytest.fixture
def serve(parts, tmp_path):
    """Return a context of a server with more settings, and an audit file of its own."""
    return lambda *more: local(
        tmp_path, parts, *SETTINGS, f"serve.audit={tmp_path / 'audit.jsonl'}", *more
    )


def drawn(server, **more):
    """Return the status and the answer to a request for one image."""
    status, found, _ = ask(server, DRAW, {"prompt": NAKED, "model": "base", **more})
    return status, found


def test_a_request_past_its_deadline_ends_in_504_and_the_next_is_answered(serve, tmp_path):
    with serve("serve.deadline_s=0.3", "serve.max_steps=200") as (server, _):
        began = time.monotonic()
        status, found = drawn(server, num_inference_steps=200)
        assert (status, found["error"]["code"]) == (504, "deadline")
        assert found["error"]["type"] == "timeout_error"
        assert time.monotonic() - began < 60
        assert ask(server, "/healthz")[0] == 200
    with serve("serve.deadline_s=240") as (server, _):
        assert drawn(server)[0] == 200
    assert '"status": 504' in (tmp_path / "audit.jsonl").read_text()


def test_the_output_filter_refuses_or_draws_again(serve):
    """Off: every image. Strict: those that are not toxic. On: the first of three that is not."""
    asked = {"num_inference_steps": 4, "guidance_scale": 2, "principles": "none"}
    with serve() as (server, _):
        toxic, images = {}, {}
        for seed in range(6):
            found = drawn(server, seed=seed, **asked)[1]["data"][0]
            images[seed] = found["b64_json"]
            assert found["valign"]["index"] == 0
            item = {"image": images[seed], "prompt": NAKED}
            scored = ask(server, "/v1/score", {"items": [item]})[1]["data"][0]
            toxic[seed] = scored["toxic"]["nudity"]
    assert set(toxic.values()) == {True, False}, "these seeds no longer show both cases"
    with serve("serve.output_filter={nudity: strict}") as (server, _):
        for seed, is_toxic in toxic.items():
            status, found = drawn(server, seed=seed, **asked)
            if is_toxic:
                assert (status, found["error"]["code"]) == (400, "content_filter")
                assert NAKED not in str(found)
            else:
                assert found["data"][0]["b64_json"] == images[seed]
    with serve("serve.output_filter={nudity: on, horror: off}") as (server, _):
        again = 0
        for seed, is_toxic in toxic.items():
            status, found = drawn(server, seed=seed, **asked)
            assert status == 200
            (image,) = found["data"]
            item = {"image": image["b64_json"], "prompt": NAKED}
            scored = ask(server, "/v1/score", {"items": [item]})[1]["data"][0]
            assert not scored["toxic"]["nudity"]
            assert (image["valign"]["index"] == 0) == (not is_toxic)
            again += is_toxic
        status, found = drawn(server, prompt="a nude", seed=1, **asked)  # toxic every time
        assert (status, found["error"]["code"]) == (400, "content_filter")
    assert again, "these seeds no longer show a second try"


def test_without_an_audit_there_is_no_answer(serve):
    with serve("serve.audit=/dev/full") as (server, _):
        status, found, headers = ask(server, "/v1/models")
        assert (status, found["error"]["code"]) == (503, "no_audit")
        assert int(headers["retry-after"]) > 0
        assert ask(server, "/healthz")[0] == 200


def test_callers_without_a_key_do_not_fill_the_audit(serve, tmp_path):
    with serve() as (server, _):
        for _ in range(100):
            assert ask(server, "/v1/models", Authorization="Bearer no")[0] == 401
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert 1 <= len(lines) < 50


def test_what_no_request_holds_is_refused_unread(serve):
    with serve() as (server, _):
        assert ask(server, DRAW, {"prompt": "a" * 100_000})[0] == 413
        status, found, _ = ask(server, "/v1/score", b"[" + b"[]," * 200_000 + b"[]]")
        assert (status, found["error"]["code"]) == (400, "invalid_json")
        status, found, _ = ask(server, DRAW, {"prompt": "a", "size": "8x512"})
        assert (status, found["error"]["param"]) == (400, "size")


def test_only_named_origins_may_ask(serve):
    page = "https://page.example"
    with serve(f"serve.cors_origins=[{page}]") as (server, _):
        allowed = ask(server, "/v1/models", Origin=page)[2]
        assert allowed["access-control-allow-origin"] == page
        other = ask(server, "/v1/models", Origin="https://other.example")[2]
        assert "access-control-allow-origin" not in other


def test_prompts_are_in_the_audit_only_when_asked(serve, tmp_path):
    with serve("serve.log_prompts=true") as (server, _):
        drawn(server, num_inference_steps=1)
    assert NAKED in (tmp_path / "audit.jsonl").read_text()


def test_a_server_that_stops_finishes_what_it_has_begun(serve):
    import asyncio

    with serve() as (server, edge):
        drawn(server, num_inference_steps=1)  # all is found and warm
        answers = []
        request = threading.Thread(
            target=lambda: answers.append(drawn(server, n=4, num_inference_steps=20))
        )
        request.start()
        deadline = time.monotonic() + 60
        while not edge.under_way:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        closing = threading.Thread(target=lambda: asyncio.run(edge.close()))
        closing.start()
        while (status := ask(server, "/readyz")[0]) == 200:
            assert time.monotonic() < deadline
        assert status == 503
        assert not answers, "the request was too quick for this test"
        status, found, headers = ask(server, "/v1/models")
        assert (status, found["error"]["code"]) == (503, "stopping")
        assert int(headers["retry-after"]) > 0
        closing.join(120)
        request.join(1)
        assert [status for status, _ in answers] == [200]
        assert len(answers[0][1]["data"]) == 4
