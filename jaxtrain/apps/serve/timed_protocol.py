"""HTTP/1.1 with time limits: a connection that sends slowly, or never reads its response, is closed."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

READ_SECONDS = 30.0  # for all of a request, headers and body, from the connection or the last response on
_NOT_SENT, _NOT_ANSWERED = (
    b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status
    for status in (b"408 Request Timeout", b"504 Gateway Timeout")
)


def timed_protocol(answer_seconds: float) -> Callable[..., asyncio.Protocol]:
    """The protocol that uvicorn makes for each connection; a response must be read within `answer_seconds`, 0: ever."""
    return functools.partial(_TimedProtocol, answer_seconds)


class _TimedProtocol(H11Protocol):
    def __init__(self, answer_seconds: float, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._answer_seconds = answer_seconds
        self._receiving = True  # a request, or waiting for one
        self._since = 0.0  # when it began to receive, or to answer
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._receiving = True
        self._start_timer()
        self._follow()  # the next request may have come with the last one

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _follow(self) -> None:
        """Starts the time of the response once the whole request is there."""
        receiving = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if receiving != self._receiving:
            self._receiving = receiving
            self._start_timer()

    def _start_timer(self) -> None:
        self._since = self.loop.time()
        self._arm()

    def _arm(self) -> None:
        self._stop_timer()
        if seconds := READ_SECONDS if self._receiving else self._answer_seconds:
            self._timer = self.loop.call_later(seconds, self._expired)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expired(self) -> None:
        unread = self.transport.get_write_buffer_size() > 0  # of a response that is complete here
        started = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if self._receiving and unread and not self._over():
            self._arm()
        elif unread or started or self.transport.is_closing():
            self.transport.abort()  # what it has not read is lost
        else:
            self.transport.write(_NOT_SENT if self._receiving else _NOT_ANSWERED)
            self.transport.close()
            self._start_timer()

    def _over(self) -> bool:
        """Whether the last response has had its time to be read."""
        return 0 < self._answer_seconds <= self.loop.time() - self._since
