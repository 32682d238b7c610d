"""The thread that decodes: all requests share its rows, and each hears of its own tokens as they are drawn."""

import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.generate import continuous_batching, sampler
from jaxtrain.generate.continuous_batching import CompletionPart, Request
from jaxtrain.generate.engine import Engine

USUAL = {"temperature": 1.0, "top_p": 1.0}

Hear = Callable[[CompletionPart | None], None]  # called in the thread; None: the thread has failed


class QueueFull(Exception):
    """No room for more requests."""


class SchedulerClosed(Exception):
    """No more requests are taken."""


class ModelRunner(NamedTuple):
    """What decodes, and how much of it at once."""

    made: Engine  # with tops, most = chunk, and slots for the context
    params: Any
    rows: int  # completions under way at once
    chunk: int  # tokens between two looks
    context: int  # most tokens of prompt and completion
    vocab: int


class Scheduler:
    """A queue before the rows. `waiting` more completions than there are rows may be asked for at once."""

    def __init__(self, sampling: ModelRunner, waiting: int):
        self.sampling, self.room = sampling, sampling.rows + waiting
        self.failure: BaseException | None = None
        self.failed: Callable[[], None] = lambda: None
        self._queue: queue.SimpleQueue[tuple[Request, Hear] | None] = queue.SimpleQueue()
        self._lock, self._open = threading.Lock(), True
        self._asked = self._under_way = 0
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    def ask(
        self, requests: Sequence[Request], hear: Callable[[int, CompletionPart | None], None]
    ) -> Callable[[], None]:
        """Queues requests, all or none; `hear` is told of each by its number. Returns what gives them up.

        Raises Full or Closed. `hear` is called in the decoding thread, and not once they are given up.
        """
        left = threading.Event()
        with self._lock:
            if not self._open:
                raise SchedulerClosed
            if self._asked + len(requests) > self.room:
                raise QueueFull
            self._asked += len(requests)
            for i, request in enumerate(requests):
                waits = request._replace(waits=lambda: not left.is_set())
                self._queue.put((waits, functools.partial(hear, i)))
        return left.set

    @property
    def counts(self) -> tuple[int, int]:
        """(completions under way, completions that wait for a row)."""
        with self._lock:
            return self._under_way, self._asked - self._under_way

    def close(self) -> None:
        """Takes no more requests, and returns once those that were taken have ended or are given up."""
        with self._lock:
            if self._open:
                self._open = False
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        under_way: dict[int, tuple[Request, Hear]] = {}
        how, requests = self.sampling, self._requests(under_way)
        try:
            for part in continuous_batching.completion_parts(
                how.made, how.params, requests, rows=how.rows, usual=USUAL, chunk=how.chunk
            ):
                request, hear = under_way[part.number]
                if part.ended:
                    del under_way[part.number]
                    self._ended(1)
                if request.waits():
                    hear(part)
        except BaseException as error:
            self._fail(error, under_way)

    def _requests(self, under_way: dict[int, tuple[Request, Hear]]) -> Iterator[Request | None]:
        numbers = itertools.count()
        while True:
            try:
                one = self._queue.get(block=not under_way)  # asleep while there is nothing to draw
            except queue.Empty:
                yield None
                continue
            if one is None:
                return
            if not one[0].waits():
                self._ended(0)
                continue
            under_way[next(numbers)] = one
            with self._lock:
                self._under_way += 1
            yield one[0]

    def _ended(self, under_way: int) -> None:
        with self._lock:
            self._asked -= 1
            self._under_way -= under_way

    def _fail(self, error: BaseException, under_way: Mapping[int, tuple[Request, Hear]]) -> None:
        """Tells all who wait. Whoever runs the server ends it then."""
        with self._lock:
            self.failure, self._open = error, False
            left = [*under_way.values()]
            while not self._queue.empty():
                left += filter(None, [self._queue.get()])
        for request, hear in left:
            if request.waits():
                hear(None)
        self.failed()


def warm_up(sampling: ModelRunner) -> None:
    """Compiles every program that requests may need: a prefill for each bucket of prompts, and the decoding."""
    how = sampling
    sizes, size = [], sampler.bucketed(1)
    while size // 2 < how.context:
        sizes.append(min(size, how.context - 1))
        size *= 2
    requests = [Request([0] * n, 0, limit=2) for n in sizes]
    apart = [one for request in requests for one in (request, None)]  # a prefill for each
    list(
        continuous_batching.completions(
            how.made, how.params, apart, rows=how.rows, usual=USUAL, chunk=how.chunk
        )
    )
