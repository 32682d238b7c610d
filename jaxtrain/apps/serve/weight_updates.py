"""POST /update_weights_from_disk: a running server takes over the weights of a folder, as a trainer writes them."""

import asyncio
from pathlib import Path

import jax
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jaxtrain.apps.serve import errors, request_params, weights_folder
from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.apps.serve.http import in_thread
from jaxtrain.apps.serve.scheduler import ModelRunner, SchedulerClosed
from jaxtrain.apps.serve.server import Server, read_body, server_of
from jaxtrain.config import ConfigError
from jaxtrain.types import Params


async def update(server: Server, request: Request) -> Response:
    """Load the weights of a folder into a running model; completions of earlier requests keep those they began with."""
    body = await read_body(server, request)
    if server.weights is None:
        raise ApiError(
            404, "this server loads no weights: start it with --weights_dir=DIR", code="weights_disabled"
        )
    params = request_params.weights_params(body)
    if params.model:
        server = server_of(server, params.model)
    elif server.others:
        served = ", ".join(f"'{name}'" for name in server.by_model)
        raise invalid_param("model", f"name one of {served}")
    folder, scheduler = server.weights.locate(params.model_path), server.scheduler
    async with server.weights.lock:
        try:
            ready = await in_thread(_read, scheduler.runner, folder)
        except ConfigError as error:
            raise invalid_param("model_path", str(error), "invalid_weights") from error
        version = params.weight_version or await in_thread(weights_folder.version_of, folder)
        try:
            done = scheduler.update(scheduler.runner._replace(params=ready, weight_version=version))
            del ready
            await asyncio.wrap_future(done)
        except SchedulerClosed as error:
            raise errors.server_down("the server is shutting down, or decoding has failed") from error
    message = f"{server.model.name} has the weights of {params.model_path}"
    return JSONResponse({"success": True, "message": message, "weight_version": version})


def _read(runner: ModelRunner, folder: Path) -> Params:
    try:
        return jax.block_until_ready(runner.read_weights(folder))
    except FileNotFoundError as error:  # removed meanwhile
        raise ConfigError(f"{error.filename}: it is gone") from error
