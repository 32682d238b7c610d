"""A request's completions on their way from the decoding thread to a client, which may disconnect at any time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse

from jaxtrain.apps.serve import errors
from jaxtrain.apps.serve.scheduler import QueueFull, Scheduler, SchedulerClosed
from jaxtrain.generate.continuous_batching import CompletionPart, DecodeRequest

Result = TypeVar("Result")


class ClientDisconnected(Exception):
    """The client has disconnected."""


class ScheduledCompletions:
    """The completions of one API request, submitted to the scheduler at once. Raises ApiError if it has no room."""

    def __init__(self, scheduler: Scheduler, requests: Sequence[DecodeRequest]):
        loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[tuple[int, CompletionPart | None]] = asyncio.Queue()
        self._unfinished = len(requests)

        def on_part(i: int, part: CompletionPart | None) -> None:
            loop.call_soon_threadsafe(self._parts.put_nowait, (i, part))

        try:
            self.cancel = scheduler.submit(requests, on_part)
        except QueueFull as error:
            raise errors.over_capacity(scheduler.capacity) from error
        except SchedulerClosed as error:
            raise errors.server_down("the server is shutting down") from error

    @property
    def finished(self) -> bool:
        """Whether `parts` has given all parts."""
        return not self._unfinished

    async def parts(self) -> AsyncIterator[tuple[int, CompletionPart]]:
        """(index of a completion, what is new of it) until all have ended. Raises ApiError if decoding fails."""
        while self._unfinished:
            i, part = await self._parts.get()
            if part is None:
                raise errors.server_down("the decoding thread has failed")
            self._unfinished -= part.ended
            yield i, part


class EventStream(StreamingResponse):
    """Server-sent events; `on_close` is called however they end."""

    def __init__(self, events: AsyncIterator[bytes], on_close: Callable[[], None]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._on_close = on_close

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            self._on_close()


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`. If the client disconnects before, cancels it and raises ClientDisconnected."""
    task, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnected
    finally:
        for future in (task, disconnect):
            if not future.done():
                future.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await future


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
