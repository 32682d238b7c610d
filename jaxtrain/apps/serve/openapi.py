"""The OpenAPI 3.1 description of the server, made of the rules that requests are checked by."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxtrain.apps.serve import request_params, stored_completions
from jaxtrain.apps.serve.request_params import Rules
from jaxtrain.apps.serve.response_schemas import SCHEMAS

Json = dict[str, Any]
_JSON, _EVENTS, _PLAIN = "application/json", "text/event-stream", "text/plain"
_ABOUT = (
    "OpenAI's API. Each GET path takes HEAD too. A parameter that would change a completion and is not "
    "supported, or that is unknown, is an error."
)
_EVENTS_ABOUT = (
    "With stream=true: events `data: {chunk}`, the last one `data: [DONE]`; an error is an event too."
)


class Route(NamedTuple):
    """A route as the application has it."""

    method: str
    path: str
    summary: str
    guarded: bool  # whether it needs the key


class _Operation(NamedTuple):
    """What the description says of a route besides."""

    response: str  # name of its schema; empty: plain text
    body: Rules | None = None
    query: Mapping[str, Any] = {}
    chunk: str = ""  # name of the schema of a stream's chunks
    errors: tuple[int, ...] = ()


_STORED = "/v1/chat/completions/{id}"
_OPERATIONS: Mapping[tuple[str, str], _Operation] = {
    ("GET", "/health"): _Operation("Health"),
    ("GET", "/metrics"): _Operation(""),
    ("GET", "/openapi.json"): _Operation("OpenAPI"),
    ("GET", "/v1/models"): _Operation("ModelList"),
    ("GET", "/v1/models/{model:path}"): _Operation("Model", errors=(404,)),
    ("POST", "/v1/completions"): _Operation(
        "TextCompletion", request_params.TEXT, chunk="TextCompletionChunk", errors=(404, 429, 503)
    ),
    ("POST", "/v1/chat/completions"): _Operation(
        "ChatCompletion", request_params.CHAT, chunk="ChatCompletionChunk", errors=(404, 429, 500, 503)
    ),
    ("GET", "/v1/chat/completions"): _Operation(
        "StoredCompletionPage", query=stored_completions.PAGE_QUERY, errors=(404, 500)
    ),
    ("GET", _STORED): _Operation("StoredCompletion", errors=(404, 500)),
    ("POST", _STORED): _Operation("StoredCompletion", request_params.METADATA, errors=(404, 500)),
    ("DELETE", _STORED): _Operation("DeletedCompletion", errors=(404, 500)),
    ("GET", f"{_STORED}/messages"): _Operation(
        "MessagePage", query=stored_completions.MESSAGES_QUERY, errors=(404, 500)
    ),
    ("POST", "/update_weights_from_disk"): _Operation(
        "WeightsUpdate", request_params.WEIGHTS, errors=(404, 503)
    ),
}
# An error -> (what it means, whether its body is an error object); those of the connection have no body.
_ERRORS: Mapping[int, tuple[str, bool]] = {
    400: ("The request is not valid; one that is not HTTP is answered in plain text", True),
    401: ("The key is missing or wrong", True),
    403: ("Without a key the server takes requests of programs on its machine only", True),
    404: ("There is no such model or stored completion, or weights are not loaded", True),
    408: ("The request did not come in time; the connection is closed", False),
    413: ("The body is too large", True),
    429: (
        "As many completions are running or waiting as can be; retry after the seconds in Retry-After",
        True,
    ),
    500: ("The store cannot be read or written", True),
    503: ("The server shuts down, or decoding has failed", True),
    504: ("The answer was not complete in time; the connection is closed", False),
}


def describe(routes: Iterable[Route], key_required: bool) -> Json:
    """The description of the server that has these routes. Raises KeyError for a route that is not described."""
    paths: dict[str, Json] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        operation = _operation(path, route, _OPERATIONS[route.method, route.path], key_required)
        paths.setdefault(path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "jaxtrain", "version": "1", "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "responses": {str(status): _error(status) for status in _ERRORS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(path: str, route: Route, about: _Operation, key_required: bool) -> Json:
    body = {} if about.body is None else {"requestBody": _request_body(about.body)}
    errors = {400, 403, 408, 504, *about.errors}
    errors |= {401} if route.guarded and key_required else set()
    errors |= {413} if body else set()
    responses = {"200": _response(about)} | {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(errors)
    }
    if path == "/health":
        responses["503"] = _response(about) | {"description": "Decoding has failed"}
    return {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{path}").strip("_"),
        "parameters": [*_path_parameters(path), *map(_query_parameter, about.query.items())],
        **body,
        "responses": responses,
        "security": [{"key": []}] if route.guarded and key_required else [],
    }


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameter(item: tuple[str, Any]) -> Json:
    name, schema = item
    deep = {"style": "deepObject", "explode": True} if schema.get("type") == "object" else {}
    return {"name": name, "in": "query", "schema": schema, **deep}


def _request_body(rules: Rules) -> Json:
    return {"required": True, "content": {_JSON: {"schema": request_params.body_schema(rules)}}}


def _schema(name: str) -> Json:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _response(about: _Operation) -> Json:
    if not about.response:
        return {"description": "Prometheus metrics", "content": {_PLAIN: {"schema": {"type": "string"}}}}
    content = {_JSON: _schema(about.response)}
    if about.chunk:
        content[_EVENTS] = {"schema": {"type": "string", "contentSchema": _schema(about.chunk)["schema"]}}
    return {"description": _EVENTS_ABOUT if about.chunk else "It is served", "content": content}


def _error(status: int) -> Json:
    about, has_body = _ERRORS[status]
    content = {_JSON: _schema("Error")} if has_body else {}
    if status == 400:
        content[_PLAIN] = {"schema": {"type": "string"}}
    return {"description": about, **({"content": content} if content else {})}
