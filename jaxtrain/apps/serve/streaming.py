"""A request's completions between the decoding thread and its client, who may leave at any time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse

from jaxtrain.apps.serve import errors
from jaxtrain.apps.serve.scheduler import QueueFull, Scheduler, SchedulerClosed
from jaxtrain.generate.continuous_batching import CompletionPart, Request

Found = TypeVar("Found")


class ClientDisconnected(Exception):
    """The client is gone."""


class ScheduledCompletions:
    """Completions that are asked for at once. Raises Refused where there is no room for them."""

    def __init__(self, desk: Scheduler, requests: Sequence[Request]):
        loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[tuple[int, CompletionPart | None]] = asyncio.Queue()
        self._open = len(requests)

        def hear(i: int, part: CompletionPart | None) -> None:
            loop.call_soon_threadsafe(self._heard.put_nowait, (i, part))

        try:
            self.give_up = desk.ask(requests, hear)
        except QueueFull as error:
            raise errors.over_capacity(desk.room) from error
        except SchedulerClosed as error:
            raise errors.server_down("the server is shutting down") from error

    @property
    def over(self) -> bool:
        """Whether all has been heard."""
        return not self._open

    async def parts(self) -> AsyncIterator[tuple[int, CompletionPart]]:
        """(number of the completion, what is new of it) until all have ended. Raises Refused where decoding fails."""
        while self._open:
            i, part = await self._heard.get()
            if part is None:
                raise errors.server_down("the decoding thread has failed")
            self._open -= part.ended
            yield i, part


class EventStream(StreamingResponse):
    """Server-sent events; `end` is called however they end."""

    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], None]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._end = end

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            self._end()


async def cancel_on_disconnect(request: HttpRequest, work: Coroutine[Any, Any, Found]) -> Found:
    """What `work` returns; it is cancelled and Left raised where the client goes before."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnected
    finally:
        for task in (working, gone):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
