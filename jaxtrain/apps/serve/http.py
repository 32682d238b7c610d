"""Runs the application on a socket until a signal ends it, with time for what is under way."""

import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette

from jaxtrain.apps.serve.scheduler import Scheduler
from jaxtrain.config import ConfigError, Failure

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one. Raises ConfigError where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(_BACKLOG)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"--host={host} --port={port}: {error.strerror}; name another, 0 for any port"
        ) from error
    return found


def run(
    application: Starlette, sock: socket.socket, desk: Scheduler | None, drain: int, ready: Callable[[], None]
) -> None:
    """Serves until SIGTERM or Ctrl-C; what is under way has `drain` seconds. Raises Failure if a desk fails."""
    settings = uvicorn.Config(
        application, log_level="warning", access_log=False, timeout_graceful_shutdown=drain, lifespan="on"
    )
    server = _Server(settings, ready)
    if desk is not None:
        desk.failed = lambda: setattr(server, "should_exit", True)
    # uvicorn raises the signal again once it has ended: without these it would end the process before its time.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[sock])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if desk is not None and desk.failure is not None:
        raise Failure(f"decoding failed: {type(desk.failure).__name__}: {desk.failure}") from desk.failure


class _Server(uvicorn.Server):
    def __init__(self, settings: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(settings)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def url(sock: Any) -> str:
    """Where a socket is listened to."""
    address, port = sock.getsockname()[:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"
