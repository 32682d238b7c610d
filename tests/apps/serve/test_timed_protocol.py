"""Connections that send or read slowly, against a small application."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from jaxtrain.apps.serve import http, timed_protocol

SIZE = 30 << 20  # bytes: more than the buffers of the kernel hold
ENOUGH = 10.0  # seconds in which a closed connection is seen to be so


async def echo(request):
    return PlainTextResponse(await request.body() or b"none")


async def endless(request):
    async def pieces():
        yield b"first"
        await asyncio.sleep(600)

    return StreamingResponse(pieces())


async def large(request):
    return PlainTextResponse(b"x" * SIZE)


async def unanswered(request):
    await asyncio.sleep(600)


@pytest.fixture
def address(monkeypatch):
    with serving(monkeypatch, 0.5) as own:
        yield own


@contextlib.contextmanager
def serving(monkeypatch, answer_seconds):
    """The address of a server that waits half a second for requests."""
    monkeypatch.setattr(timed_protocol, "READ_SECONDS", 0.5)
    sock = http.listen("127.0.0.1", 0)
    routes = [Route("/", echo, methods=["GET", "POST"]), Route("/endless", endless)]
    routes += [Route("/large", large), Route("/unanswered", unanswered)]
    settings = uvicorn.Config(
        Starlette(routes=routes), http=timed_protocol.timed_protocol(answer_seconds), log_level="critical"
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    yield sock.getsockname()[:2]
    server.should_exit = server.force_exit = True
    thread.join(ENOUGH)
    assert not thread.is_alive()


def until_closed(link):
    """All that the server sends until it closes the connection; raises TimeoutError where it does not."""
    link.settimeout(ENOUGH)
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := link.recv(1 << 20):
            received += piece
    return bytes(received)


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: loc",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab",
    ],
)
def test_a_request_that_does_not_come_is_a_timeout(address, sent):
    with socket.create_connection(address) as link:
        link.sendall(sent)
        assert until_closed(link).startswith(b"HTTP/1.1 408 ")


def test_a_byte_now_and_then_does_not_extend_the_time(address):
    with socket.create_connection(address) as link, pytest.raises(OSError):
        link.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        until = time.monotonic() + ENOUGH
        while time.monotonic() < until:
            link.sendall(b"x")
            time.sleep(0.1)
        raise AssertionError("it is still open")


def test_requests_in_time_are_answered_on_one_connection_and_the_next_slow_one_is_not(address):
    with socket.create_connection(address) as link:
        for _ in range(3):
            link.sendall(GET)
            link.settimeout(ENOUGH)
            assert link.recv(4096).endswith(b"none")
            time.sleep(0.3)
        link.sendall(GET + GET[:10])  # the second one with the first
        assert b"none" in (rest := until_closed(link)) and b" 408 " in rest


def test_a_response_that_does_not_end_is_cut_off(address):
    with socket.create_connection(address) as link:
        link.sendall(GET.replace(b"/ ", b"/endless ", 1))
        assert b"first" in until_closed(link)


def test_a_request_without_a_response_is_a_timeout_of_the_server(address):
    with socket.create_connection(address) as link:
        link.sendall(GET.replace(b"/ ", b"/unanswered ", 1))
        assert until_closed(link).startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("answer_seconds", [0.5, 60])
def test_a_complete_response_has_its_time_to_be_read_and_no_more(monkeypatch, close, answer_seconds):
    request = GET.replace(b"/ ", b"/large ", 1).replace(b"\r\n\r\n", b"\r\n" + close + b"\r\n")
    with serving(monkeypatch, answer_seconds) as address, socket.create_connection(address) as link:
        link.sendall(request)
        time.sleep(1.5)  # both times that are half a second are over
        assert (len(until_closed(link)) > SIZE) == (answer_seconds == 60)
