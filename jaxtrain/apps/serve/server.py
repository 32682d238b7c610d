"""What the endpoints share."""

from typing import Any, NamedTuple

from starlette.requests import Request

from jaxtrain.apps.serve import requests
from jaxtrain.apps.serve.errors import ApiError
from jaxtrain.apps.serve.metrics import Metrics
from jaxtrain.apps.serve.responses import ServedModel
from jaxtrain.apps.serve.scheduler import Scheduler
from jaxtrain.apps.serve.store import CompletionStore


class ServerLimits(NamedTuple):
    key: str  # that every request has to have; empty: none
    body: int  # bytes of a request at most


class Server(NamedTuple):
    """A server: its model, its thread, its store."""

    voice: ServedModel
    desk: Scheduler
    store: CompletionStore | None
    limits: ServerLimits
    told: Metrics


async def read_body(house: Server, request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises Refused where it is too big or none."""
    most, told = house.limits.body, request.headers.get("content-length", "0")
    body = bytearray()
    if not told.isdecimal() or int(told) <= most:
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                break
    if len(body) > most or (told.isdecimal() and int(told) > most):
        raise ApiError(413, f"the body is larger than {most:,} bytes", code="request_too_large")
    return requests.parse_body(bytes(body))


def require_model(house: Server, name: str) -> None:
    """Raises Refused for any but the model that is served."""
    if name != house.voice.name:
        raise ApiError(
            404,
            f"The model '{name[:80]}' does not exist here: '{house.voice.name}' does.",
            param="model",
            code="model_not_found",
        )
