"""Serve's proxy speaks in our form when the ingress cannot; the ingress' words stay its own."""

import asyncio
import json

import pytest

from valign.on_ray.proxy import PlainErrors


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
