"""What callers read when Serve's own proxy answers in the ingress' place: an error of our form.

The proxy answers when the ingress' queue is full, when its process is lost, and when there is no
application; in plain text, or with nothing at all. `middlewares` is named to it by an environment
variable of Serve's, which `server` sets where it starts Ray itself.
"""

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


def middlewares() -> list[Middleware]:
    """Return what Serve's proxy puts before its own application."""
    return [Middleware(PlainErrors)]


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
