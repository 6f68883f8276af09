"""The ingress' edge: who is let in, what is read of him, and how he is answered or refused.

A request is admitted (key, limits), then read (size, time), then answered (deadline), then put into
the audit file; whatever happens, it ends in JSON of OpenAI's form. Nothing here is decoded but
JSON and forms. Once the edge is closed it lets nobody in, and what was begun is finished.
"""

import asyncio
import contextlib
import json
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

from valign.config import Run
from valign.on_ray.audit_file import AuditFile
from valign.on_ray.desk import Desk
from valign.on_ray.gate import Gate
from valign.on_ray.metrics import ServeCounters
from valign.serving import multipart, wire
from valign.serving.audit import Audit
from valign.serving.errors import RequestError
from valign.serving.page import SEALED
from valign.stages import serve as stage

BODIES = 8  # largest requests that are held at a time; more are refused
MOST_PARTS = 64  # of a form
PROBE_S = 10.0  # a probe of readiness is answered by then
PROBED_EVERY_S = 1.0  # whoever asks in between is told what was found
LOOKED_AT_EVERY_S = 0.05
SENT_S = 0.5  # an answer is on its way to its caller by then

Lacking = Callable[[], Awaitable[list[str]]]


def sealed(found: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    """Return JSON with the headers that every answer has."""
    body = json.dumps(found, allow_nan=False, separators=(",", ":"))
    return Response(body, status, {**SEALED, **(headers or {})}, "application/json")


def refusal(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    """Return an error in OpenAI's form."""
    headers = dict(headers or {})
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return sealed(error.body(), headers, error.status)


def stopping() -> RequestError:
    """Return the error of whoever comes once the edge is closed."""
    return RequestError(503, "the server is stopping", code="stopping", retry_after_s=10)


async def _nothing() -> list[str]:
    return []


class Edge:
    """Admits, reads and answers requests; `routes` says which.

    Args:
        run: the run.
        desk: what does the work.
        lacking: names the parts of the server of which no process runs.

    Raises:
        LookupError: there is no key file.
        ValueError: it is wrong.
    """

    def __init__(self, run: Run, desk: Desk, lacking: Lacking = _nothing) -> None:
        self.desk = desk
        self._lacking = lacking
        self._settings = run.serve
        self._gate = Gate(run.serve.keys, run.serve.cors_origins)
        self._counters = ServeCounters()
        self._largest = int(run.serve.max_body_mib * 2**20)
        self._held = 0  # bytes of bodies
        self.under_way = 0
        self._closed = False
        self._probe: asyncio.Task[dict[str, Any] | RequestError] | None = None
        self._probed = 0.0
        self._audit = AuditFile(stage.audit_file(run))

    async def close(self) -> None:
        """Let nobody in any more, and wait until all that was begun is answered.

        Each request has its deadline, so this ends.
        """
        self._closed = True
        while self.under_way:
            await asyncio.sleep(LOOKED_AT_EVERY_S)
        await asyncio.sleep(SENT_S)

    async def ready(self) -> Response:
        """Say whether requests can be answered, soon enough for a probe.

        Everybody may ask, so that many who do cost no more than one.
        """
        if self._closed:
            return refusal(stopping())
        if self._probe is None or time.monotonic() - self._probed > PROBED_EVERY_S:
            self._probe, self._probed = asyncio.ensure_future(self._look()), float("inf")
        found = await asyncio.shield(self._probe)
        return refusal(found) if isinstance(found, RequestError) else sealed(found)

    async def _look(self) -> dict[str, Any] | RequestError:
        try:
            async with asyncio.timeout(PROBE_S):
                ready = await self.desk.ready()
                lacking = await self._lacking()
            if lacking:
                return RequestError(503, f"waits for {', '.join(lacking)}", retry_after_s=5)
            return ready
        except RequestError as error:
            return error
        except TimeoutError:
            return RequestError(503, "not ready yet", retry_after_s=5)
        finally:
            self._probed = time.monotonic()

    def preflight(self, request: Request) -> Response:
        """Say whether another origin's page may ask."""
        return Response(None, 204, {**SEALED, **self._cors(request)})

    async def answer(
        self,
        request: Request,
        route: str,
        work: Callable[..., Awaitable[Any]],
        *,
        forms: bool = False,
        most: int | None = None,
    ) -> Response:
        """Admit, read and answer a request, and put it into the audit file.

        Args:
            request: what came.
            route: its address, as the audit names it.
            work: answers it; of a POST, with its body and the audit's record.
            forms: whether its body may be a form.
            most: bytes of the body, if fewer than of others.
        """
        began = time.perf_counter()
        audit = Audit(time_s=round(time.time(), 3), request_id=uuid.uuid4().hex, route=route)
        headers = {"X-Request-Id": audit.request_id, **self._cors(request)}
        self.under_way += 1
        self._counters.waiting.set(self.under_way)
        try:
            found = await self._admitted(request, work, audit, forms=forms, most=most)
            audit.status, audit.verdict = 200, "answered"
            answer = sealed(found, headers)
        except RequestError as error:
            audit.status, audit.verdict = error.status, error.code or "refused"
            answer = refusal(error, headers)
        except Exception as error:  # the edge: nobody else would put it into words
            audit.status, audit.verdict = 500, "failed"
            name, frames = type(error).__name__, traceback.format_tb(error.__traceback__)
            # where it failed, but not its words: they may quote the prompt
            logging.getLogger("ray.serve").error(
                "%s failed: %s\n%s", audit.request_id, name, "".join(frames)
            )
            answer = refusal(RequestError(500, "the server failed; it is not your fault"), headers)
        except asyncio.CancelledError:
            audit.status, audit.verdict = 499, "caller gone"
            with contextlib.suppress(RequestError):
                self._audit.add(audit)
            raise
        finally:
            self.under_way -= 1
            self._counters.waiting.set(self.under_way)
            self._counters.add(audit, time.perf_counter() - began)
        try:
            self._audit.add(audit)
        except RequestError as error:
            return refusal(error, headers)
        return answer

    async def _admitted(
        self,
        request: Request,
        work: Callable[..., Awaitable[Any]],
        audit: Audit,
        *,
        forms: bool,
        most: int | None,
    ) -> Any:
        if self._closed:
            raise stopping()
        server = request.scope.get("server") or ("", 0)
        key = self._gate.identify(str(server[0]), request.headers)
        audit.key = key.id
        with self._gate.meter.admitted(key):
            try:
                async with asyncio.timeout(self._settings.deadline_s):
                    if request.method != "POST":
                        return await work()
                    return await self._read_and_work(request, work, audit, forms, most)
            except TimeoutError:
                seconds = f"{self._settings.deadline_s:g}"
                raise RequestError(
                    504, f"there was no answer within {seconds} s", code="deadline"
                ) from None

    async def _read_and_work(
        self,
        request: Request,
        work: Callable[..., Awaitable[Any]],
        audit: Audit,
        forms: bool,
        most: int | None,
    ) -> Any:
        content_type = request.headers.get("content-type", "")
        is_form = forms and content_type.lower().startswith("multipart/form-data")
        if not is_form and content_type.partition(";")[0].strip().lower() != "application/json":
            kinds = "application/json" + (" or multipart/form-data" if forms else "")
            raise RequestError(415, f"send the request as {kinds}")
        data = bytearray()
        size = 0
        try:
            await self._read(request, data, min(self._largest, most or self._largest))
            size = len(data)
            # what waits for its answer still counts as held, though only the work holds it now
            return await work(_taken(data, content_type if is_form else None), audit)
        finally:
            self._held -= size or len(data)

    async def _read(self, request: Request, data: bytearray, most: int) -> None:
        """Read the body into `data`, which counts as held.

        Raises:
            RequestError: 413, 408, or 503 where too much is held already.
        """
        too_large = RequestError(413, f"this request has at most {most:,} bytes")
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:19]) > most:
            raise too_large
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                async for chunk in request.stream():
                    if len(data) + len(chunk) > most:
                        raise too_large
                    if self._held + len(chunk) > BODIES * self._largest:
                        raise RequestError(
                            503, "too many large requests", code="overloaded", retry_after_s=2
                        )
                    data += chunk
                    self._held += len(chunk)
        except TimeoutError:
            raise RequestError(408, "the request did not arrive in time") from None

    def _cors(self, request: Request) -> dict[str, str]:
        origin = request.headers.get("origin", "")
        if origin not in self._settings.cors_origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Allow-Methods": "GET, POST",
            "Vary": "Origin",
        }


def _taken(data: bytearray, form: str | None) -> Any:
    """A body as fields, parts of a form of this content type or JSON; emptied, to be held once."""
    sent = bytes(data)
    data.clear()
    return wire.decoded(sent) if form is None else multipart.parts(sent, form, most=MOST_PARTS)
