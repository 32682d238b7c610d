"""The HTTP API: OpenAI's chat completions, completions, models and stored completions, and what tells of the server."""

import contextlib
import hmac
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from jaxtrain.apps.serve import completions, stored_completions
from jaxtrain.apps.serve.errors import ApiError
from jaxtrain.apps.serve.responses import ServedModel
from jaxtrain.apps.serve.server import Server, require_model
from jaxtrain.apps.serve.streaming import ClientDisconnected

LOOPBACK = ("127.0.0.1", "localhost", "::1")


Handler = Callable[[Server, Request], Awaitable[Response]]


def app(house: Server) -> Starlette:
    """The application. It closes desk and store when it ends."""
    routes = [
        ("GET", "/health", health, False),
        ("GET", "/metrics", metrics, False),
        ("GET", "/v1/models", models, True),
        ("GET", "/v1/models/{model:path}", model, True),
        ("POST", "/v1/completions", completions.text, True),
        ("POST", "/v1/chat/completions", completions.chat, True),
        ("GET", "/v1/chat/completions", stored_completions.page, True),
        ("GET", "/v1/chat/completions/{id}", stored_completions.get, True),
        ("POST", "/v1/chat/completions/{id}", stored_completions.update, True),
        ("DELETE", "/v1/chat/completions/{id}", stored_completions.delete, True),
        ("GET", "/v1/chat/completions/{id}/messages", stored_completions.messages, True),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(house.desk.close)
        if house.store:
            await run_in_threadpool(house.store.close)

    return Starlette(
        routes=[
            Route(path, _endpoint(house, path, handler, guarded), methods=[method])
            for method, path, handler, guarded in routes
        ],
        exception_handlers={HTTPException: _no_route, Exception: _broken},
        lifespan=lifespan,
    )


def _endpoint(
    house: Server, path: str, handler: Handler, guarded: bool
) -> Callable[[Request], Awaitable[Response]]:
    async def run(request: Request) -> Response:
        try:
            if guarded:
                _require_key(house.limits.key, request)
            response = await handler(house, request)
        except ApiError as error:
            response = error.response()
        except sqlite3.Error as error:
            response = ApiError(500, f"the store: {error}", code="store_error").response()
        except (ClientDisconnected, ClientDisconnect):
            response = Response(status_code=499)  # nobody reads it; nginx's number for it
        house.told.requests.labels(f"{request.method} {path}", response.status_code).inc()
        return response

    return run


def _require_key(key: str, request: Request) -> None:
    """Raises Refused without the key; where none is set, for what a page of another site may send from a browser."""
    if key:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
            said = "Incorrect API key provided" if given else "You didn't provide an API key"
            raise ApiError(401, f"{said}: send it as Authorization: Bearer KEY.", code="invalid_api_key")
        return
    host = request.url.hostname or ""
    if host not in LOOPBACK or "origin" in request.headers:
        raise ApiError(
            403, f"without --api_key only programs on this machine are served, not {host or 'this'}"
        )


async def health(house: Server, request: Request) -> Response:
    """Whether the server can answer, and how much it does."""
    busy, waiting = house.desk.counts
    good = house.desk.failure is None
    told = {"status": "ok" if good else "failed", "model": house.voice.name, "busy": busy, "waiting": waiting}
    return JSONResponse(told | {"rows": house.desk.sampling.rows}, 200 if good else 503)


async def metrics(house: Server, request: Request) -> Response:
    """Prometheus' text."""
    return house.told.response()


async def models(house: Server, request: Request) -> Response:
    """The one model."""
    return JSONResponse({"object": "list", "data": [_model(house.voice)]})


async def model(house: Server, request: Request) -> Response:
    """The model of a name."""
    require_model(house, request.path_params["model"])
    return JSONResponse(_model(house.voice))


def _model(voice: ServedModel) -> dict[str, Any]:
    return {"id": voice.name, "object": "model", "created": voice.created, "owned_by": "jaxtrain"}


async def _no_route(request: Request, error: HTTPException) -> Response:
    said = f"{request.method} {request.url.path}: {error.detail}"
    return ApiError(error.status_code, said, code="unknown_url", headers=error.headers).response()


async def _broken(request: Request, error: Exception) -> Response:
    return ApiError(
        500, f"the server has an error of its own: {type(error).__name__}", code="internal"
    ).response()
