"""The endpoints of stored completions: list, retrieve, list messages, update metadata, delete."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jaxtrain.apps.serve import request_params
from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.apps.serve.request_params import MAX_METADATA
from jaxtrain.apps.serve.server import Server, read_body
from jaxtrain.apps.serve.store import CompletionStore

MAX_LIMIT, LIMIT = 100, 20  # completions or messages of a page: most, and without the parameter
_TEXT = {"type": "string"}
# Parameters of a query, with their JSON schemas. A page of completions also has metadata[KEY].
MESSAGES_QUERY = {
    "after": _TEXT,
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": LIMIT},
    "order": {"enum": ["asc", "desc"], "default": "asc"},
}
_METADATA = {
    "type": "object",
    "maxProperties": MAX_METADATA,
    "propertyNames": {"minLength": 1},
}
PAGE_QUERY = {**MESSAGES_QUERY, "model": _TEXT, "metadata": _METADATA}


async def page(server: Server, request: Request) -> Response:
    """A page of stored completions in the order of time."""
    query, metadata = _query(request, PAGE_QUERY)
    completions = await run_in_threadpool(
        _store(server).page, query["after"], _limit(query), _descending(query), query["model"], metadata
    )
    if completions is None:
        raise _not_found(query["after"], "after")
    return _list(*completions)


async def get(server: Server, request: Request) -> Response:
    """A stored completion."""
    return JSONResponse(await _completion(server, request))


async def update(server: Server, request: Request) -> Response:
    """A stored completion whose metadata are replaced by the request's."""
    metadata = request_params.metadata_of(await read_body(server, request))
    completion_id = request.path_params["id"]
    completion = await asyncio.wrap_future(_store(server).update(completion_id, metadata))
    if completion is None:
        raise _not_found(completion_id)
    return JSONResponse(completion)


async def delete(server: Server, request: Request) -> Response:
    """The confirmation that a stored completion is deleted."""
    completion_id = request.path_params["id"]
    if not await asyncio.wrap_future(_store(server).delete(completion_id)):
        raise _not_found(completion_id)
    return JSONResponse({"object": "chat.completion.deleted", "id": completion_id, "deleted": True})


async def messages(server: Server, request: Request) -> Response:
    """A page of the input messages of a stored completion."""
    query, _ = _query(request, MESSAGES_QUERY)
    completion = await _completion(server, request)
    inputs = [
        {"id": f"{completion['id']}-{i}", "name": None, **message}
        for i, message in enumerate(completion["input"])
    ]
    inputs = inputs[::-1] if _descending(query) else inputs
    start = 0
    if query["after"]:
        start = next((i + 1 for i, message in enumerate(inputs) if message["id"] == query["after"]), 0)
        if not start:
            raise _not_found(query["after"], "after")
    rest, limit = inputs[start:], _limit(query)
    return _list(rest[:limit], len(rest) > limit)


def _store(server: Server) -> CompletionStore:
    if server.store is None:
        raise ApiError(404, "the server was started without a store (--store)", code="no_store")
    return server.store


async def _completion(server: Server, request: Request) -> dict[str, Any]:
    completion_id = request.path_params["id"]
    completion = await run_in_threadpool(_store(server).get, completion_id)
    if completion is None:
        raise _not_found(completion_id)
    return completion


def _not_found(completion_id: str, param: str = "completion_id") -> ApiError:
    return ApiError(
        404, f"No stored completion has the id '{completion_id[:80]}'.", param=param, code="not_found"
    )


def _list(data: list[dict[str, Any]], has_more: bool) -> Response:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return JSONResponse(
        {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}
    )


def _query(request: Request, known: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """(the parameters, with their defaults; the KEYs of metadata[KEY]). Raises ApiError for others."""
    query, metadata = {name: str(schema.get("default", "")) for name, schema in known.items()}, {}
    pairs = request.query_params.multi_items()
    for name, value in pairs:
        key = re.fullmatch(r"metadata\[(.+)\]", name, re.DOTALL)
        if key and "metadata" in known:
            metadata[key[1]] = value
        elif name in known and name != "metadata":
            query[name] = value
        else:
            raise ApiError(
                400, f"Unknown parameter: '{name[:80]}'.", param=name[:80], code="unknown_parameter"
            )
    if len(metadata) > MAX_METADATA:
        raise invalid_param("metadata", f"at most {MAX_METADATA} keys, not {len(metadata)}")
    if len(pairs) > len(request.query_params):
        raise invalid_param("query", "a parameter is given more than once")
    return query, metadata


def _limit(query: dict[str, str]) -> int:
    text = query["limit"]
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise invalid_param("limit", f"it must be a whole number from 1 to {MAX_LIMIT}, not {text[:80]!r}")
    return int(text)


def _descending(query: dict[str, str]) -> bool:
    if query["order"] not in ("asc", "desc"):
        raise invalid_param("order", f"it must be asc or desc, not {query['order'][:80]!r}")
    return query["order"] == "desc"
