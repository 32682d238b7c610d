"""The description that the server publishes: its routes and what requests may be."""

import http.client
import json

import pytest

from jaxtrain.apps.serve import app, chat_page, openapi, request_params
from tests.apps.serve.conftest import HI, KEY, NAME, make_server
from tests.apps.serve.test_request_messages import VALUES

jsonschema_rs = pytest.importorskip("jsonschema_rs")
PATHS = {"/v1/models/{model:path}": "/v1/models/{model}"}


def send(server, method, path, body=None, **headers):
    """(status, type of the content, content)"""
    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    text = body if body is None or isinstance(body, bytes) else json.dumps(body)
    link.request(method, path, text, {"Authorization": f"Bearer {KEY}", **headers})
    response = link.getresponse()
    content = response.read()
    link.close()
    return response.status, response.headers.get("content-type", "").partition(";")[0], content


def described(server):
    """The server's description."""
    status, kind, content = send(server, "GET", "/openapi.json")
    assert (status, kind) == (200, "application/json")
    return json.loads(content)


@pytest.fixture(scope="module")
def description(server):
    return described(server)


def validator(description, schema):
    return jsonschema_rs.Draft202012Validator({**schema, "components": description["components"]})


def test_the_routes_are_those_of_the_description(server, description):
    routes = {
        (PATHS.get(route.path, route.path), *(route.methods - {"HEAD"}))
        for route in app.app(server.state).routes
        if route.path not in {path for _, path, *_ in chat_page.ROUTES}
    }
    published = {
        (path, method.upper()) for path, methods in description["paths"].items() for method in methods
    }
    assert routes == published and len(published) == len(openapi._OPERATIONS) == 13
    operations = [one for methods in description["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == 13 and all(one["summary"] for one in operations)
    open_paths = {
        path for path, one in description["paths"].items() if not one.get("get", {"security": 1})["security"]
    }
    assert open_paths == {"/health", "/metrics"}


def test_a_server_without_a_key_says_so():
    published = app.app(make_server(None, key="")).state.description
    operations = [one for methods in published["paths"].values() for one in methods.values()]
    assert not any(one["security"] or "401" in one["responses"] for one in operations)


@pytest.mark.parametrize("path, rules, required", [
    ("/v1/chat/completions", request_params.CHAT, {"model": "m", "messages": HI}),
    ("/v1/completions", request_params.TEXT, {"model": "m", "prompt": "Hi"}),
    ("/v1/chat/completions/{id}", request_params.METADATA, {}),
    ("/update_weights_from_disk", request_params.WEIGHTS, {"model_path": "a"}),
])  # fmt: skip
def test_what_a_request_may_be_is_in_the_schema(description, path, rules, required):
    """What the check takes the schema takes; and but for few values, what it refuses the schema refuses."""
    schema = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"].keys() == rules.keys() and {*schema["required"]} == required.keys()
    schema, taken, looser = validator(description, schema), 0, []
    assert schema.is_valid(required) and not schema.is_valid(required | {"unknown": 1})
    for name in rules:
        for value in VALUES:
            if (value is None and name in required) or "\\ud800" in json.dumps(value):
                continue  # the validator takes no half surrogate
            try:
                request_params._parse({**required, name: value}, rules)
            except request_params.ApiError:
                if schema.is_valid({**required, name: value}):
                    looser.append((name, value))
            else:
                assert schema.is_valid({**required, name: value}), (name, value)
                taken += 1
    assert taken >= len(rules)
    # Parts are read when the messages are.
    assert looser == [("messages", VALUES[-5])] * ("messages" in rules)


def test_queries(server, client):
    made = client.chat.completions.create(model=NAME, messages=HI, max_tokens=2, store=True)
    many = "&".join(f"metadata[k{i}]=v" for i in range(17))
    path = "/v1/chat/completions"
    for query in ("limit=", "limit=00000000011000", "limit=1_0", "limit=٣", "order=", "order=ASC",
                  "order=asc&order=asc",
                  "limit=1&limit=2", "metadata=x", "metadata[]=x", "metadata[a]=x&metadata[a]=y", many,
                  "&".join([many] * 100)):  # fmt: skip
        assert send(server, "GET", f"{path}?{quoted(query)}")[0] == 400, query[:60]
        if "metadata" not in query:
            assert send(server, "GET", f"{path}/{made.id}/messages?{quoted(query)}")[0] == 400, query
    assert send(server, "GET", f"{path}?limit=9&order=desc&metadata[a%0ab]=%00")[0] == 200


def quoted(text):
    return text.encode("ascii", "xmlcharrefreplace").decode().replace("#", "%23")


def test_a_key_that_stands_twice_is_refused(server):
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "a", "content": "b"}]}'
    status, _, content = send(server, "POST", "/v1/chat/completions", body)
    assert status == 400 and b"the key 'content' twice" in content
