"""The endpoints of stored completions: list, retrieve, messages, other metadata, delete."""

import asyncio
import re
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jaxtrain.apps.serve import requests, server
from jaxtrain.apps.serve.errors import ApiError, invalid_param
from jaxtrain.apps.serve.server import Server
from jaxtrain.apps.serve.store import CompletionStore

MOST = 100  # completions or messages of a page


async def page(shared: Server, request: Request) -> Response:
    """Stored completions by time, a page."""
    query, metadata = _query(request, ("after", "limit", "order", "model"))
    found = await run_in_threadpool(
        _store(shared).page, query["after"], _limit(query), _descending(query), query["model"], metadata
    )
    if found is None:
        raise _missing(query["after"], "after")
    return _list(*found)


async def get(shared: Server, request: Request) -> Response:
    """A stored completion."""
    return JSONResponse(await _found(shared, request))


async def update(shared: Server, request: Request) -> Response:
    """Gives a stored completion other metadata."""
    metadata = requests.metadata_of(await server.read_body(shared, request))
    number = request.path_params["id"]
    changed = await asyncio.wrap_future(_store(shared).update(number, metadata))
    if changed is None:
        raise _missing(number)
    return JSONResponse(changed)


async def delete(shared: Server, request: Request) -> Response:
    """Deletes a stored completion."""
    number = request.path_params["id"]
    if not await asyncio.wrap_future(_store(shared).delete(number)):
        raise _missing(number)
    return JSONResponse({"object": "chat.completion.deleted", "id": number, "deleted": True})


async def messages(shared: Server, request: Request) -> Response:
    """What a stored completion was asked, a page."""
    query, _ = _query(request, ("after", "limit", "order"))
    found = await _found(shared, request)
    made = [{"id": f"{found['id']}-{i}", "name": None, **one} for i, one in enumerate(found["input"])]
    made = made[::-1] if _descending(query) else made
    start = 0
    if query["after"]:
        start = next((i + 1 for i, one in enumerate(made) if one["id"] == query["after"]), 0)
        if not start:
            raise _missing(query["after"], "after")
    rest, limit = made[start:], _limit(query)
    return _list(rest[:limit], len(rest) > limit)


def _store(shared: Server) -> CompletionStore:
    if shared.store is None:
        raise ApiError(404, "the server was started without a store (--store)", code="no_store")
    return shared.store


async def _found(shared: Server, request: Request) -> dict[str, Any]:
    number = request.path_params["id"]
    found = await run_in_threadpool(_store(shared).get, number)
    if found is None:
        raise _missing(number)
    return found


def _missing(number: str, param: str = "completion_id") -> ApiError:
    return ApiError(404, f"No stored completion has the id '{number[:80]}'.", param=param, code="not_found")


def _list(data: list[dict[str, Any]], more: bool) -> Response:
    ends = (
        {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        if data
        else {"first_id": None, "last_id": None}
    )
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": more})


def _query(request: Request, known: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """(known parameters, empty where they are not given; metadata[KEY]). Raises Refused for others."""
    found, metadata = dict.fromkeys(known, ""), {}
    for name, value in request.query_params.multi_items():
        inside = re.fullmatch(r"metadata\[(.+)\]", name)
        if inside and "model" in known:
            metadata[inside[1]] = value
        elif name in found:
            found[name] = value
        else:
            raise ApiError(
                400, f"Unknown parameter: '{name[:80]}'.", param=name[:80], code="unknown_parameter"
            )
    return found, metadata


def _limit(query: dict[str, str]) -> int:
    text = query["limit"] or "20"
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= MOST:
        raise invalid_param("limit", f"it must be a whole number from 1 to {MOST}, not {text[:80]!r}")
    return int(text)


def _descending(query: dict[str, str]) -> bool:
    if query["order"] not in ("", "asc", "desc"):
        raise invalid_param("order", f"it must be asc or desc, not {query['order'][:80]!r}")
    return query["order"] == "desc"
