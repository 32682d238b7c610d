"""What the server answers is as its description says."""

import json

import pytest

from tests.apps.serve.conftest import CONTEXT, HI, NAME, make_server, running
from tests.apps.serve.test_openapi import described, send, validator
from tests.apps.serve.test_weight_updates import ROUTE
from tests.apps.serve.test_weights_folder import written

pytest.importorskip("jsonschema_rs")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    written(folder / "one")
    with running(make_server(folder / "store.sqlite", weights=folder)) as running_server:
        yield running_server


def responses(server):
    """(path as described, method, status, type, content) of a request for each response that can be had here."""
    chat, text = (
        {"model": NAME, "messages": HI, "max_tokens": 3},
        {"model": NAME, "prompt": "Hi", "max_tokens": 3},
    )
    chats, texts, stored = "/v1/chat/completions", "/v1/completions", "/v1/chat/completions/{id}"
    rich = {"n": 2, "logprobs": True, "top_logprobs": 2}
    *_, content = send(
        server, "POST", chats, chat | rich | {"store": True, "metadata": {"a": "b"}, "stop": ["x"]}
    )
    one = f"{chats}/{json.loads(content)['id']}"
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    for pattern, method, path, body, headers in [
        *((own, "GET", own, None, {}) for own in ("/health", "/metrics", "/openapi.json", "/v1/models")),
        ("/v1/models/{model}", "GET", f"/v1/models/{NAME}", None, {}),
        ("/v1/models/{model}", "GET", "/v1/models/other", None, {}),
        (chats, "POST", chats, chat, {}),
        (chats, "POST", chats, chat | rich, {}),
        (chats, "POST", chats, chat | rich | usage, {}),
        (chats, "POST", chats, chat | {"stream": True}, {}),
        (chats, "POST", chats, chat | {"colour": 1}, {}),
        (chats, "POST", chats, b"{", {}),
        (chats, "POST", chats, b" " * 30_000, {}),
        (chats, "POST", chats, chat | {"model": "x"}, {}),
        (chats, "POST", chats, chat | {"max_tokens": CONTEXT}, {}),
        (chats, "POST", chats, chat, {"Authorization": "Bearer no"}),
        (texts, "POST", texts, text | {"logprobs": 2, "echo": True}, {}),
        (texts, "POST", texts, text | {"logprobs": 1, **usage}, {}),
        (texts, "POST", texts, text | {"prompt": [10**6]}, {}),
        (chats, "GET", f"{chats}?limit=1&metadata[a]=b", None, {}),
        (chats, "GET", f"{chats}?limit=0", None, {}),
        (chats, "GET", f"{chats}?after=no", None, {}),
        (stored, "GET", one, None, {}),
        (stored, "POST", one, {"metadata": {"c": "d"}}, {}),
        (f"{stored}/messages", "GET", f"{one}/messages?order=desc", None, {}),
        (stored, "DELETE", one, None, {}),
        (stored, "DELETE", one, None, {}),
        (ROUTE, "POST", ROUTE, {"model_path": "one"}, {}),
        (ROUTE, "POST", ROUTE, {"model_path": "two"}, {}),
        (ROUTE, "POST", ROUTE, {"model_path": "one", "model": "x"}, {}),
    ]:  # fmt: skip
        yield pattern, method, *send(server, method, path, body, **headers)


def test_live_responses_are_as_described(server):
    description, answered = described(server), set()
    for path, method, status, kind, content in responses(server):
        operation = description["paths"][path][method.lower()]
        response = operation["responses"][str(status)]
        if "$ref" in response:
            response = description["components"]["responses"][response["$ref"].rpartition("/")[2]]
        schema = response["content"][kind]["schema"]
        answered.add((operation["operationId"], status))
        if kind == "text/event-stream":
            *events, last = [line for line in content.decode().split("\n\n") if line]
            assert last == "data: [DONE]" and events
            chunk = validator(description, schema["contentSchema"])
            for event in events:
                chunk.validate(json.loads(event.removeprefix("data: ")))
        elif kind == "application/json":
            validator(description, schema).validate(json.loads(content))
    assert {one["operationId"] for ops in description["paths"].values() for one in ops.values()} == {
        name for name, status in answered if status == 200
    }
    assert {status for _, status in answered} == {200, 400, 401, 404, 413}


def test_a_server_that_serves_programs_here_alone_and_a_full_one_answer_as_described():
    with running(make_server(None, key="")) as server:
        description = described(server)
        error = validator(description, {"$ref": "#/components/schemas/Error"})
        status, _, content = send(server, "GET", "/v1/models", Host="evil.example")
        error.validate(json.loads(content))
        assert status == 403 and "403" in description["paths"]["/v1/models"]["get"]["responses"]
        status, _, content = send(server, "GET", "/v1/chat/completions")
        error.validate(json.loads(content))
        assert status == 404, "it has no store"
        server.state.scheduler.capacity = 0  # as if it were full
        status, _, content = send(
            server, "POST", "/v1/completions", {"model": NAME, "prompt": "Hi", "max_tokens": 1}
        )
        error.validate(json.loads(content))
        assert status == 400  # more than it ever takes
