"""Attacks by requests: on the server of a tiny model nothing falls, and on one with a fault they find it."""

import random

import pytest

from jaxtrain.apps.serve import app
from jaxtrain.apps.serve.server import ServerLimits
from jaxtrain.apps.soak import request_faults
from jaxtrain.apps.soak.request_faults import Address, RawResponse, attack_server
from tests.apps.serve.conftest import KEY, make_server, running


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    pytest.importorskip("schemathesis")
    state = make_server(tmp_path_factory.mktemp("store") / "store.sqlite")
    with running(state) as server:
        outcomes, stored = attack_server(Address(server.url, KEY), 200, 1)
    return outcomes, stored, state


def test_nothing_falls(attacked):
    outcomes, stored, _ = attacked
    assert [one for one in outcomes if one.held != one.times] == []
    assert (
        len(outcomes) == 10
        and all(one.times for one in outcomes)
        and sum(one.times for one in outcomes) > 150
    )
    assert len(stored) == 10 and all(one.detail for one in outcomes)


FAULTS = {
    "broken JSON bodies": ("_broken_body", "jaxtrain.apps.serve.request_params.parse_body"),
    "pipelined requests": ("_pipelined", "jaxtrain.apps.serve.app._model_body"),
    "lies": ("_lying", "jaxtrain.apps.serve.request_params.chat_params"),
}


def broken(*_, **__):
    raise RuntimeError("a fault")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_server_is_found(monkeypatch, name):
    function, place = FAULTS[name]
    monkeypatch.setattr(place, broken)
    with running(make_server(None)) as server:
        rng, address = random.Random(0), Address(server.url, KEY)
        found = [getattr(request_faults, function)(address, rng) for _ in range(20)]
    assert any(("500" in one) for one in found)


def test_a_route_without_the_key_is_found(monkeypatch):
    monkeypatch.setattr(app, "_require_key", lambda *_: None)
    with running(make_server(None)) as server:
        rng, address = random.Random(0), Address(server.url, KEY)
        found = [request_faults._without_key(address, rng) for _ in range(60)]
    assert any(one.startswith("200 to b'GET ") for one in found)


def test_a_server_that_sends_other_fields_is_found(monkeypatch):
    pytest.importorskip("schemathesis")
    monkeypatch.setattr(app, "_model_body", lambda model: {"id": model.name, "more": 1})
    with running(make_server(None)) as server:
        outcome = request_faults._described(Address(server.url, KEY), 40, 0)
    assert outcome.held < outcome.times and "/v1/models" in outcome.detail


def test_replies_are_read_as_http_has_them():
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"
    assert request_faults._replies(one + one) == [RawResponse(200, b"ab")] * 2
    assert request_faults._replies(b"HTTP/1.1 100 Continue\r\n\r\n" + one) == [RawResponse(200, b"ab")]
    assert request_faults._replies(one + b"x")[1].status == 999
    assert (
        request_faults._problem(RawResponse(0, b"")) == request_faults._problem(RawResponse(503, b"")) == ""
    )
    assert "500" in request_faults._problem(RawResponse(500, b"")) and "no answer" in request_faults._problem(
        RawResponse(-1, b"")
    )


def test_a_limit_is_enforced_whatever_the_body(tmp_path):
    state = make_server(None)._replace(limits=ServerLimits(KEY, 100))
    with running(state) as server:
        rng, address = random.Random(3), Address(server.url, KEY)
        assert not any(request_faults._lying(address, rng) for _ in range(10))
