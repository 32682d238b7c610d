"""Runs an ASGI application on a socket until a signal ends it, with time for running requests to finish."""

import asyncio
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxtrain.apps.serve import errors
from jaxtrain.apps.serve.config import ANSWER_SECONDS
from jaxtrain.apps.serve.scheduler import Scheduler
from jaxtrain.apps.serve.timed_protocol import timed_protocol
from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference.config import LOOPBACK

# Of pages and their files: a page runs its own script, asks its own server, and stands in no frame.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_BACKLOG = 2048
_CLOSE_SECONDS = 10.0  # after the drain, in which the scheduler and the store must have closed
_LEAVE_SECONDS = 2.0
# Of a connection without a request. Python's clients drop theirs after 5 s (httpx) or 15 s (aiohttp): a server that
# closes first does so while a request may be on its way.
_IDLE_SECONDS = 25
Result = TypeVar("Result")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises ConfigError where the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"--host={host} --port={port}: {error.strerror}; name another, 0 for any port"
        ) from error
    return sock


def settings(application: ASGIApp, drain: int, answer_seconds: int = ANSWER_SECONDS) -> uvicorn.Config:
    """How uvicorn serves the application; see `run` for `drain` and `answer_seconds`."""
    return uvicorn.Config(
        _answering_when_cancelled(application),
        http=timed_protocol(answer_seconds),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=drain,
        lifespan="on",
    )


def run(
    application: Starlette,
    sock: socket.socket,
    schedulers: Sequence[Scheduler],
    drain: int,
    ready: Callable[[], None],
    answer_seconds: int = ANSWER_SECONDS,
) -> None:
    """Serves until SIGTERM or Ctrl-C; running requests then have `drain` seconds. Raises Failure if decoding fails.

    A response that is not complete, and read, within `answer_seconds` is cut off; 0: no bound. A process whose threads
    do not let it end, such as a decoding that hangs, ends with status 1 soon after the drain.
    """
    server = _Server(settings(application, drain, answer_seconds), ready, drain + _CLOSE_SECONDS)
    for scheduler in schedulers:
        scheduler.on_failure = lambda: setattr(server, "should_exit", True)
    # uvicorn raises the signal again once it has stopped; without these handlers that would end the process too early.
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[sock])
    finally:
        server.deadline.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)
    error = next((one.failure for one in schedulers if one.failure is not None), None)
    if error is not None:
        raise Failure(f"decoding failed: {type(error).__name__}: {error}") from error


def _answering_when_cancelled(application: ASGIApp) -> ASGIApp:
    """The application, where a request that is cancelled after the drain is answered 503 if no answer has begun."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await application(scope, receive, sending)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not started:
                await errors.server_down("the server is shutting down").response()(scope, receive, send)

    return run


class _Server(uvicorn.Server):
    def __init__(self, settings: uvicorn.Config, ready: Callable[[], None], seconds_to_end: float):
        super().__init__(settings)
        self._ready = ready
        self.deadline = threading.Timer(seconds_to_end, _end_now, [seconds_to_end])
        self.deadline.daemon = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._start_deadline()  # here, since what blocks the event loop delays the shutdown
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._start_deadline()
        await super().shutdown(sockets)

    def _start_deadline(self) -> None:
        if self.deadline.ident is None:
            self.deadline.start()


def _end_now(seconds: float) -> None:
    busy = ", ".join(one.name for one in threading.enumerate() if one is not threading.current_thread())
    print(f"ended, {seconds:.0f} s after the signal, while these threads worked: {busy}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


async def in_thread(f: Callable[..., Result], *args: Any) -> Result:
    """f(*args) in a thread. Where the request is cancelled the thread is left to itself: it must change nothing."""
    return await anyio.to_thread.run_sync(functools.partial(f, *args), abandon_on_cancel=True)


def leave() -> None:
    """Ends the process where a thread still works; Python would wait for it. Everything else must be closed by now."""
    others = [
        one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon
    ]
    until = time.monotonic() + _LEAVE_SECONDS
    for one in others:
        one.join(max(0.0, until - time.monotonic()))
    if busy := sum(one.is_alive() for one in others):
        print(f"ended while {busy} threads still worked on requests that were given up", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def is_local(request: Request) -> bool:
    """Whether a request names this machine as its host; a page of another site may have given it another name."""
    return host_name(request) in LOOPBACK


def is_same_site(request: Request) -> bool:
    """Whether a request comes from no page of a browser, or from a page of this server."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    try:
        return urlsplit(request.headers.get("origin", str(request.url))).netloc == request.url.netloc
    except ValueError:  # an origin such as http://[
        return False


def host_name(request: Request) -> str:
    """The host that a request names; empty where the name is not valid."""
    try:
        return request.url.hostname or ""
    except ValueError:  # such as [
        return ""


def url(sock: socket.socket) -> str:
    """The URL of a listening socket."""
    address, port = sock.getsockname()[:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"
