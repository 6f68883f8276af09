"""Serve's proxy speaks in our form when the ingress cannot; the ingress' words stay its own."""

import asyncio
import json

import pytest

from valign.on_ray.proxy import BoundedBodies, PlainErrors


def asked(messages, path="/v1/models"):
    """Return status, headers and body of what a caller reads when the proxy sends these."""
    sent = []

    async def proxy(scope, receive, send):
        for message in messages:
            await send(message)

    async def keep(message):
        sent.append(message)

    scope = {"type": "http", "path": path}
    asyncio.run(PlainErrors(proxy)(scope, None, keep))
    start, *rest = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(message["body"] for message in rest)


def said(status, kind, body):
    headers = [(b"content-type", kind)]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]


@pytest.mark.parametrize(
    ("messages", "status", "code"),
    [
        ([], 503, "lost"),  # the process ended before it began to answer
        (said(500, b"text/plain", b"Internal Server Error"), 503, "lost"),
        (said(503, b"text/plain", b"queue is full"), 503, "overloaded"),
        (said(404, b"text/plain", b"no route"), 404, "not_found"),
        (said(408, b"text/plain", b"timed out"), 408, "timeout"),
    ],
)
def test_the_proxys_own_errors_get_our_form(messages, status, code):
    found, headers, body = asked(messages)
    error = json.loads(body)["error"]
    assert (found, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert headers["x-content-type-options"] == "nosniff"
    assert int(headers["content-length"]) == len(body)
    assert ("retry-after" in headers) == (status == 503)


@pytest.mark.parametrize(
    ("status", "kind", "path"),
    [
        (200, b"text/html; charset=utf-8", "/"),
        (400, b"application/json", "/v1/score"),
        (503, b"application/json", "/v1/score"),
        (503, b"text/plain", "/-/healthz"),  # Serve's own address
    ],
)
def test_all_other_answers_pass_as_they_are(status, kind, path):
    found, headers, body = asked(said(status, kind, b"as it is"), path)
    assert (found, headers, body) == (status, {"content-type": kind.decode()}, b"as it is")


def test_bodies_that_are_too_much_together_are_refused_until_one_is_answered():
    async def main():
        release = asyncio.Event()

        async def proxy(scope, receive, send):
            while (message := await receive()).get("more_body"):
                pass
            if message["type"] == "http.disconnect":
                return
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        door = BoundedBodies(proxy, most=100)

        async def ask(size, *, says=True):
            chunks = [bytes(10)] * (size // 10)
            sent = []

            async def receive():
                await asyncio.sleep(0)
                body = chunks.pop()
                return {"type": "http.request", "body": body, "more_body": bool(chunks)}

            async def send(message):
                sent.append(message)

            length = [(b"content-length", str(size).encode())] if says else []
            await door({"type": "http", "headers": length}, receive, send)
            assert not chunks, "the caller was cut off"
            (start, *_) = sent
            return start["status"]

        release.set()
        assert await ask(500) == 200  # alone, whatever its size
        release.clear()
        first, second = (asyncio.create_task(ask(60 - 20 * at)) for at in range(2))
        await asyncio.sleep(0.05)
        assert await ask(10) == 503
        assert await ask(10, says=False) == 503
        assert await ask(500) == 503
        release.set()
        assert [await first, await second] == [200, 200]
        assert await ask(100, says=False) == 200

    asyncio.run(main())
