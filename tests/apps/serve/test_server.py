"""The models of a server by their names, and the bounds of a request's body."""

import asyncio
from types import SimpleNamespace

import pytest

from jaxtrain.apps.serve import server
from jaxtrain.apps.serve.errors import ApiError
from tests.apps.serve.scripted import FULL, scripted_server


def named(name, others=()):
    state = scripted_server(FULL)
    return state._replace(model=state.model._replace(name=name), others=tuple(others))


def test_each_model_has_its_own_server():
    b = named("b")
    a = named("a", [b])
    assert server.server_of(a, "b") is b and server.server_of(a, "a").scheduler is a.scheduler
    with pytest.raises(ApiError, match="'c' does not exist here: 'a', 'b' do") as error:
        server.server_of(a, "c")
    assert (error.value.status, error.value.code) == (404, "model_not_found")
    with pytest.raises(ApiError, match="'b' does"):
        server.server_of(b, "a")


@pytest.mark.parametrize(("size", "length"), [(100_001, ""), (1, "100001"), (100_001, "x")])
def test_a_body_that_is_too_large_is_refused(size, length):
    async def stream():
        yield b" " * size

    request = SimpleNamespace(headers={"content-length": length} if length else {}, stream=stream)
    with pytest.raises(ApiError, match="larger than 100,000 bytes") as error:
        asyncio.run(server.read_body(named("a"), request))
    assert error.value.status == 413


def test_a_body_is_a_json_object():
    async def stream():
        yield b'{"a":'
        yield b" 1}"

    request = SimpleNamespace(headers={"content-length": "8"}, stream=stream)
    assert asyncio.run(server.read_body(named("a"), request)) == {"a": 1}
