"""The server's state, and the checks of requests that its endpoints share."""

from typing import Any, NamedTuple

from starlette.requests import Request

from jaxtrain.apps.serve import request_params
from jaxtrain.apps.serve.errors import ApiError
from jaxtrain.apps.serve.metrics import Metrics
from jaxtrain.apps.serve.responses import ServedModel
from jaxtrain.apps.serve.scheduler import Scheduler
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.apps.serve.weights_folder import WeightsFolder
from jaxtrain.files import cache


class ServerLimits(NamedTuple):
    """Who may send requests, and how large they may be."""

    api_key: str  # that every request must have; empty: none
    max_body_bytes: int


class Server(NamedTuple):
    """A server: its model, scheduler, store, limits and metrics; `others` have further models, the rest is shared."""

    model: ServedModel
    scheduler: Scheduler
    store: CompletionStore | None
    limits: ServerLimits
    metrics: Metrics
    others: tuple["Server", ...] = ()
    weights: WeightsFolder | None = None  # where other weights may be loaded from

    @property
    def current(self) -> "Server":
        """The same, whose model has the version and fingerprint of the weights that requests now begin with."""
        version, model = self.scheduler.runner.weight_version, self.model
        if version == model.weight_version:
            return self
        fingerprint = f"fp_{cache.digest(model.fingerprint, version)}"
        return self._replace(model=model._replace(weight_version=version, fingerprint=fingerprint))

    @property
    def by_model(self) -> dict[str, "Server"]:
        """The server of each model, by the model's name."""
        return {one.model.name: one for one in (self, *self.others)}


async def read_body(server: Server, request: Request) -> dict[str, Any]:
    """The JSON object of a request's body. Raises ApiError where it is too large or not a JSON object."""
    limit, length = server.limits.max_body_bytes, request.headers.get("content-length", "0")
    body = bytearray()
    if not length.isdecimal() or int(length) <= limit:
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                break
    if len(body) > limit or (length.isdecimal() and int(length) > limit):
        raise ApiError(413, f"the body is larger than {limit:,} bytes", code="request_too_large")
    return request_params.parse_body(bytes(body))


def server_of(server: Server, name: str) -> Server:
    """The server of the model of this name. Raises ApiError where none is served."""
    servers = server.by_model
    if name not in servers:
        served = ", ".join(f"'{one}'" for one in servers)
        raise ApiError(
            404,
            f"The model '{name[:80]}' does not exist here: {served} {'does' if len(servers) == 1 else 'do'}.",
            param="model",
            code="model_not_found",
        )
    return servers[name]
