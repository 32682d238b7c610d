"""Runs an ASGI application on a socket until a signal ends it, with time for running requests to finish."""

import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request

from jaxtrain.apps.serve.scheduler import Scheduler
from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference.config import LOOPBACK

_BACKLOG = 2048


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


def run(
    application: Starlette,
    sock: socket.socket,
    scheduler: Scheduler | None,
    drain: int,
    ready: Callable[[], None],
) -> None:
    """Serves until SIGTERM or Ctrl-C; running requests then have `drain` seconds. Raises Failure if decoding fails."""
    settings = uvicorn.Config(
        application, log_level="warning", access_log=False, timeout_graceful_shutdown=drain, lifespan="on"
    )
    server = _Server(settings, ready)
    if scheduler is not None:
        scheduler.on_failure = lambda: setattr(server, "should_exit", True)
    # uvicorn raises the signal again once it has stopped; without these handlers that would end the process too early.
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[sock])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    error = scheduler.failure if scheduler is not None else None
    if error is not None:
        raise Failure(f"decoding failed: {type(error).__name__}: {error}") from error


class _Server(uvicorn.Server):
    def __init__(self, settings: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(settings)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def is_local(request: Request) -> bool:
    """Whether a request names this machine as its host; a page of another site may have given it another name."""
    return request.url.hostname in LOOPBACK


def url(sock: socket.socket) -> str:
    """The URL of a listening socket."""
    address, port = sock.getsockname()[:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"
