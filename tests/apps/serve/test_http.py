"""Who is served, and how a process ends whose threads still work."""

import functools
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from starlette.requests import Request

from jaxtrain.apps.serve import app, chat_page, http, timed_protocol
from tests.apps.serve.conftest import make_server, running
from tests.apps.serve.test_api import post

OPEN = {"/health", "/metrics", *(path for _, path, *_ in chat_page.ROUTES)}


def status(server, method, path, **headers):
    import http.client

    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    link.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        link.putheader(name, value)
    link.endheaders()
    response = link.getresponse()
    response.read()
    link.close()
    return response.status


def test_every_route_but_health_and_metrics_needs_the_key(server):
    routes = app.app(server.state).routes
    assert {route.path for route in routes} >= OPEN and len(routes) == 13 + len(chat_page.ROUTES)
    for route in routes:
        path = route.path.replace("{id}", "chatcmpl-1").replace("{model:path}", "tiny")
        (method,) = route.methods - {"HEAD"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a key"}):
            assert (status(server, method, path, **headers) == 401) == (path not in OPEN), (method, path)


def test_without_a_key_a_host_name_of_another_site_sees_nothing():
    with running(make_server(None, key="")) as server:
        for path in ("/health", "/metrics", "/v1/models", "/", "/pages/chat.js"):
            assert status(server, "GET", path) == 200
            assert status(server, "GET", path, Host="evil.example") == 403, path
            assert status(server, "GET", path, Host="[") < 500  # no address


def test_clients_close_idle_connections_before_the_server_does(monkeypatch):
    """Otherwise a request may be sent just when the server closes; seen as "server disconnected" after 5 s."""
    idle = http.settings(lambda *_: None, drain=1).timeout_keep_alive
    assert 15 < idle < timed_protocol.READ_SECONDS  # aiohttp's clients close after 15 s, httpx's after 5
    monkeypatch.setattr(http, "_IDLE_SECONDS", 0.2)
    with (
        running(make_server(None)) as server,
        socket.create_connection(server.url[7:].split(":"), 10) as link,
    ):
        link.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b"".join(iter(functools.partial(link.recv, 1 << 16), b""))
    assert received.startswith(b"HTTP/1.1 200 ") and b" 408 " not in received


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1:80", True), ("[::1]", True), ("[", False), ("a", False)]
)
def test_host_names(host, local):
    headers = [(b"host", host.encode())]
    assert http.is_local(Request({"type": "http", "path": "/", "headers": headers})) == local


def test_more_messages_than_the_context_has_tokens_are_refused_unread(server, monkeypatch):
    monkeypatch.setattr("jaxtrain.apps.serve.chat_prompts.chat_prompt", None)
    messages = ",".join(['{"role":"user","content":""}'] * 600)
    answer = post(server, "/v1/chat/completions", f'{{"model":"tiny","messages":[{messages}]}}'.encode())
    assert answer[0] == 400 and answer[1]["error"]["code"] == "context_length_exceeded"
    assert "600 messages" in answer[1]["error"]["message"]


HANGING = """
    import asyncio, contextlib, os, signal, threading
    from starlette.applications import Starlette
    from starlette.routing import Route
    from jaxtrain.apps.serve import http

    async def hang(request):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(600)

    @contextlib.asynccontextmanager
    async def lifespan(_):
        yield
        if {close_hangs}:
            await asyncio.to_thread(threading.Event().wait)

    http._CLOSE_SECONDS = 3.0
    sock = http.listen("127.0.0.1", 0)
    app = Starlette(routes=[Route("/", hang)], lifespan=lifespan)
    http.run(app, sock, (), 1, lambda: print(sock.getsockname()[1], flush=True))
    print("closed")
    http.leave()
    """


@pytest.mark.parametrize("close_hangs", [False, True])
def test_sigterm_answers_what_is_cancelled_and_ends_a_process_that_does_not_close(close_hangs):
    import http.client

    script = textwrap.dedent(HANGING).format(close_hangs=close_hangs)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        link = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()), timeout=60)
        link.request("GET", "/")
        response = link.getresponse()
        assert response.status == 503 and b"shutting down" in response.read()
        link.close()
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    if close_hangs:
        assert process.returncode == 1 and "ended, 4 s after the signal, while these threads worked" in err
        assert "MainThread" in err and not out
    else:
        assert process.returncode == 0 and out == "closed\n"


def test_the_process_ends_though_a_thread_works():
    script = """
        import threading, time
        from jaxtrain.apps.serve import http
        threading.Thread(target=time.sleep, args=(600,)).start()
        print("closed")
        http.leave()
        """
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout == "closed\n" and "1 threads still worked" in done.stderr
    assert time.monotonic() - start < 60
