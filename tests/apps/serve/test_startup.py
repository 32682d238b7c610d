"""A server behind a thread: it answers, ends, and says where decoding failed. What it is made of: test_serve.py."""

import dataclasses
import urllib.request

import pytest

from jaxtrain.apps.serve import http
from jaxtrain.apps.serve.config import HttpFlags, Serve
from jaxtrain.apps.serve.startup import BackgroundServer
from jaxtrain.config import Failure
from tests.apps.serve.conftest import eventually, make_server


@pytest.fixture
def background():
    cfg = dataclasses.replace(Serve(), http=HttpFlags(drain=5))
    return BackgroundServer(cfg, make_server(None, key=""), http.listen("127.0.0.1", 0))


def health(server):
    with urllib.request.urlopen(server.url.removesuffix("v1") + "health", timeout=60) as response:
        return response.status


def test_it_answers_until_it_is_closed(background):
    with background as server:
        assert repr(server) == f"serving tiny at {server.url}" and server.url.startswith("http://127.0.0.1:")
        assert health(server) == 200
    with pytest.raises(OSError):
        health(background)
    background.close()


def test_a_failure_of_decoding_ends_it_and_is_raised(background):
    scheduler = background._server.scheduler
    scheduler.failure = RuntimeError("no memory")
    scheduler.on_failure()
    assert eventually(lambda: not background._thread.is_alive())
    with pytest.raises(Failure, match="decoding failed: RuntimeError: no memory"):
        background.close()
