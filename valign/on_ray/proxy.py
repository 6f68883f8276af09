"""What Serve's own proxy lets in, and what callers read when it answers in the ingress' place.

The proxy reads all that it is sent at once, for however many requests: `BoundedBodies` refuses what
would be too much together. And it answers itself when the ingress' queue is full, when its process
is lost, and when there is no application; in plain text, or with nothing at all: `PlainErrors` puts
that into our form. `middlewares` is named to the proxy by an environment variable of Serve's, which
`server` sets where it starts Ray itself.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.middleware import Middleware

from valign.serving.errors import RequestError
from valign.serving.page import SEALED

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

WHERE = "valign.on_ray.proxy:middlewares"
MOST_BYTES = 256 << 20  # of bodies that one proxy holds at a time
PASSED_BY_S = 20.0  # a refused body that takes longer is cut off
_FIRST_ERROR = 400
_OWN = "/-/"  # Serve's addresses
_FOUND = {
    404: RequestError(404, "there is nothing here", code="not_found"),
    408: RequestError(408, "the request took too long", code="timeout"),
    503: RequestError(503, "the server is busy; try again", code="overloaded", retry_after_s=2),
}
_LOST = RequestError(
    503, "a process of the server was lost; try again", code="lost", retry_after_s=5
)


class PlainErrors:
    """Puts the proxy's own errors into OpenAI's form; the ingress' answers pass as they are."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].startswith(_OWN):
            await self._app(scope, receive, send)
            return
        begun = replaced = False

        async def watched(message: Message) -> None:
            nonlocal begun, replaced
            if message["type"] == "http.response.start":
                begun = True
                if message["status"] >= _FIRST_ERROR and not _is_json(message):
                    replaced = True
                    await _answer(_FOUND.get(message["status"], _LOST), send)
            if not replaced:
                await send(message)

        await self._app(scope, receive, watched)
        if not begun:
            await _answer(_LOST, send)


class BoundedBodies:
    """Refuses requests whose bodies would be too much beside those that are under way.

    Args:
        app: what is asked.
        most: bytes of bodies at a time; a request that is alone is let in whatever its size, and
            the ingress has its own limit for one.
    """

    def __init__(
        self, app: Callable[[Message, Receive, Send], Awaitable[None]], most: int = MOST_BYTES
    ) -> None:
        self._app = app
        self._most = most
        self._held = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        mine = _length(scope) if scope["type"] == "http" else 0
        if mine > self._most:
            mine = 0  # the ingress refuses it, or it is counted as it arrives
        if mine and self._held and self._held + mine > self._most:
            await self._refuse(receive, send)
            return
        self._held += mine
        arrived = 0
        refused = False

        async def counted() -> Message:
            nonlocal arrived, mine, refused
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > mine:  # it did not say its length
                self._held += arrived - mine
                mine = arrived
                if self._held > max(self._most, mine):
                    refused = True
                    await self._refuse(receive, send, more=message.get("more_body", False))
                    return {"type": "http.disconnect"}
            return message

        async def allowed(message: Message) -> None:
            if not refused:
                await send(message)

        try:
            await self._app(scope, counted, allowed)
        finally:
            self._held -= mine

    async def _refuse(self, receive: Receive, send: Send, *, more: bool = True) -> None:
        """Let the rest of the body pass by, so that the caller comes to read the answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PASSED_BY_S):
                while more:
                    message = await receive()
                    more = message["type"] == "http.request" and message.get("more_body", False)
        await _answer(_FOUND[503], send)


def middlewares() -> list[Middleware]:
    """Return what Serve's proxy puts before its own application."""
    return [Middleware(PlainErrors), Middleware(BoundedBodies)]


def _length(scope: Message) -> int:
    """Return how many bytes a request says that it has; 0: it does not say."""
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value[:19])
    return 0


def _is_json(message: Message) -> bool:
    kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
    return any(kind.startswith(b"application/json") for kind in kinds)


async def _answer(error: RequestError, send: Send) -> None:
    body = json.dumps(error.body()).encode()
    headers = {**SEALED, "Content-Type": "application/json", "Content-Length": str(len(body))}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": sent})
    await send({"type": "http.response.body", "body": body})
