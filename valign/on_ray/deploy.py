"""The ingress: every address of the server and what answers it, by FastAPI on Ray Serve.

`edge` lets requests in and `desk` answers them. The page, its files and the description of the API
are open to everyone who can reach the server, and so are the health checks; all else needs a key
where there are keys.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

from valign.config import Run
from valign.on_ray.desk import Desk
from valign.on_ray.edge import Edge, refusal, sealed
from valign.serving import api_page, page, wire
from valign.serving.errors import RequestError
from valign.serving.openapi import document


def routes(edge: Edge) -> FastAPI:
    """Return the application: every address and what answers it."""
    app = FastAPI(title="valign", docs_url=None, redoc_url=None, openapi_url=None)
    desk = edge.desk

    described = document(desk.limits)
    readable = api_page.html(described).encode()

    reads: dict[str, Callable[[], Awaitable[Any]]] = {
        "/v1/models": desk.models,
        "/v1/principles": desk.principles,
        "/v1/scorers": desk.scorers,
    }
    asks: dict[str, tuple[Callable[..., Awaitable[Any]], bool, int | None]] = {
        "/v1/images/generations": (desk.images, False, wire.most_bytes_of_images(desk.limits)),
        "/v1/score": (desk.score, True, None),
        "/v1/compare": (desk.compare, True, None),
    }

    def reading(path: str, work: Callable[[], Awaitable[Any]]) -> None:
        @app.get(path)
        async def read(request: Request) -> Response:
            return await edge.answer(request, path, work)

    def asking(
        path: str, work: Callable[..., Awaitable[Any]], forms: bool, most: int | None
    ) -> None:
        @app.post(path)
        async def ask(request: Request) -> Response:
            return await edge.answer(request, path, work, forms=forms, most=most)

    for path, work in reads.items():
        reading(path, work)
    for path, (work, forms, most) in asks.items():
        asking(path, work, forms, most)
    for path in (*reads, *asks):
        app.add_api_route(path, _preflight(edge), methods=["OPTIONS"])

    @app.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> Response:
        return await edge.answer(request, "/v1/models", lambda: desk.models(name))

    @app.get("/healthz")
    async def healthz() -> Response:
        return sealed({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> Response:
        return await edge.ready()

    @app.get("/openapi.json")
    async def description() -> Response:
        return sealed(described)

    @app.get("/api")
    async def readable_description() -> Response:
        return _shown(readable, page.FILES["page.html"])

    @app.get("/")
    async def page_itself() -> Response:
        return _shown(*page.file("page.html"))

    @app.get("/page/{name}")
    async def page_file(name: str) -> Response:
        if name not in page.FILES:
            return refusal(RequestError(404, "there is nothing here"))
        return _shown(*page.file(name))

    async def no_such_route(request: Request, _: Exception) -> Response:
        return refusal(RequestError(404, "there is nothing here; see /api"))

    async def no_such_method(request: Request, _: Exception) -> Response:
        return refusal(RequestError(405, "this address has other methods; see /api"))

    app.add_exception_handler(404, no_such_route)
    app.add_exception_handler(405, no_such_method)
    return app


def _preflight(edge: Edge) -> Callable[[Request], Awaitable[Response]]:
    async def preflight(request: Request) -> Response:
        return edge.preflight(request)

    return preflight


def _shown(data: bytes, kind: str) -> Response:
    return Response(data, 200, {**page.SEALED, "Content-Security-Policy": page.POLICY}, kind)


async def _lacking() -> list[str]:
    """Return the deployments of this application of which no process runs; asks the controller."""
    name = serve.get_replica_context().app_name
    found = (await asyncio.to_thread(serve.status)).applications[name].deployments
    return [part for part, said in found.items() if not said.replica_states.get("RUNNING")]


class Ingress:
    """The deployment: Serve builds its application from `__serve_build_asgi_app__`."""

    def __init__(
        self,
        run: Run,
        retriever: DeploymentHandle,
        generator: DeploymentHandle,
        evaluator: DeploymentHandle,
    ) -> None:
        self._edge = Edge(run, Desk(run, retriever, generator, evaluator), _lacking)

    async def close(self) -> None:
        """Let nobody in any more, and wait until all that was begun is answered."""
        await self._edge.close()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return what answers HTTP."""
        return routes(self._edge)
