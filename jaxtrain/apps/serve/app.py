"""The HTTP API: OpenAI's chat completions, completions, models and stored completions; health, metrics, description.

Beside it the chat page, at /.
"""

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

from jaxtrain.apps.serve import chat_page, completions, http, openapi, stored_completions, weight_updates
from jaxtrain.apps.serve.errors import ApiError
from jaxtrain.apps.serve.responses import ServedModel
from jaxtrain.apps.serve.server import Server, server_of
from jaxtrain.apps.serve.streaming import ClientDisconnected

Handler = Callable[[Server, Request], Awaitable[Response]]

_ONLY_LOCAL = "without --api_key only programs on this machine are served"


def app(server: Server) -> Starlette:
    """The ASGI application. It closes the scheduler and the store when it ends."""
    routes = [
        ("GET", "/health", health, False),
        ("GET", "/metrics", metrics, False),
        ("GET", "/openapi.json", description, True),
        ("GET", "/v1/models", models, True),
        ("GET", "/v1/models/{model:path}", model, True),
        ("POST", "/v1/completions", completions.text, True),
        ("POST", "/v1/chat/completions", completions.chat, True),
        ("GET", "/v1/chat/completions", stored_completions.page, True),
        ("GET", "/v1/chat/completions/{id}", stored_completions.get, True),
        ("POST", "/v1/chat/completions/{id}", stored_completions.update, True),
        ("DELETE", "/v1/chat/completions/{id}", stored_completions.delete, True),
        ("GET", "/v1/chat/completions/{id}/messages", stored_completions.messages, True),
        ("POST", "/update_weights_from_disk", weight_updates.update, True),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        for one in server.by_model.values():
            await run_in_threadpool(one.scheduler.close)
        if server.store:
            await run_in_threadpool(server.store.close)

    application = Starlette(
        routes=[
            Route(path, _endpoint(server, path, handler, guarded), methods=[method])
            for method, path, handler, guarded in [*routes, *chat_page.ROUTES]
        ],
        exception_handlers={HTTPException: _unknown_url, Exception: _internal_error},
        lifespan=lifespan,
    )
    application.router.redirect_slashes = False  # a redirection would be an answer without the key
    described = [
        openapi.Route(method, path, (handler.__doc__ or "").strip(), guarded)
        for method, path, handler, guarded in routes
    ]
    application.state.description = openapi.describe(described, bool(server.limits.api_key))
    return application


def _endpoint(
    server: Server, path: str, handler: Handler, guarded: bool
) -> Callable[[Request], Awaitable[Response]]:
    async def run(request: Request) -> Response:
        try:
            if guarded:
                _require_key(server.limits.api_key, request)
            elif not server.limits.api_key:
                _require_local(request)
            response = await handler(server, request)
        except ApiError as error:
            response = error.response()
        except sqlite3.Error as error:
            response = ApiError(500, f"the store: {error}", code="store_error").response()
        except (ClientDisconnected, ClientDisconnect):
            response = Response(status_code=499)  # nobody reads it; 499 is nginx's status for it
        server.metrics.requests.labels(f"{request.method} {path}", response.status_code).inc()
        return response

    return run


def _require_key(key: str, request: Request) -> None:
    """Raises ApiError without the key; where none is set, for what another site's page may send from a browser."""
    if key:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), key.encode()):
            problem = "Incorrect API key provided" if token else "You didn't provide an API key"
            raise ApiError(401, f"{problem}: send it as Authorization: Bearer KEY.", code="invalid_api_key")
        return
    _require_local(request)
    if not http.is_same_site(request):
        raise ApiError(403, f"{_ONLY_LOCAL} and its own page, not a page of another site")


def _require_local(request: Request) -> None:
    if not http.is_local(request):
        raise ApiError(403, f"{_ONLY_LOCAL}, not {http.host_name(request) or 'this'}")


async def health(server: Server, request: Request) -> Response:
    """The server's state and load, of all models; status 503 once decoding has failed."""
    servers = server.by_model
    schedulers = [one.scheduler for one in servers.values()]
    counts, healthy = [one.counts for one in schedulers], all(one.failure is None for one in schedulers)
    body = {
        "status": "ok" if healthy else "failed",
        "model": ",".join(servers),
        "busy": sum(one.running for one in counts),
        "waiting": sum(one.waiting for one in counts),
        "rows": sum(one.runner.rows for one in schedulers),
    }
    return JSONResponse(body, 200 if healthy else 503)


async def metrics(server: Server, request: Request) -> Response:
    """The metrics as Prometheus reads them."""
    return server.metrics.response()


async def description(server: Server, request: Request) -> Response:
    """The OpenAPI description of the server."""
    return JSONResponse(request.app.state.description)


async def models(server: Server, request: Request) -> Response:
    """The list of the served models."""
    data = [_model_body(one.current.model) for one in server.by_model.values()]
    return JSONResponse({"object": "list", "data": data})


async def model(server: Server, request: Request) -> Response:
    """The model object of the name in the path, if it is served."""
    return JSONResponse(_model_body(server_of(server, request.path_params["model"]).current.model))


def _model_body(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "jaxtrain",
        "weight_version": model.weight_version,
        "single_turn": model.single_turn,
    }


async def _unknown_url(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail}"
    return ApiError(error.status_code, message, code="unknown_url", headers=error.headers).response()


async def _internal_error(request: Request, error: Exception) -> Response:
    return ApiError(500, f"internal server error: {type(error).__name__}", code="internal").response()
