"""The scheduler: a request queue before a decoding thread, which shares its rows by continuous batching."""

import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from jaxtrain.files import progress
from jaxtrain.generate import continuous_batching, sampler
from jaxtrain.generate.continuous_batching import CompletionPart, DecodeRequest, TokenLogprobs
from jaxtrain.generate.engine import Engine
from jaxtrain.types import Params

OnPart = Callable[[CompletionPart | None], None]  # called in the decoding thread; None: the thread has failed


class QueueFull(Exception):
    """The scheduler has no room for more requests."""


class SchedulerClosed(Exception):
    """The scheduler takes no more requests."""


class SchedulerCounts(NamedTuple):
    running: int  # completions that have a row
    waiting: int  # completions that wait for a row


class ModelRunner(NamedTuple):
    """A model's decoding engine, its parameters, and how much it decodes at once."""

    engine: Engine  # with top log-probs, max_steps = chunk, and slots for the context
    params: Params
    rows: int  # completions decoded at once
    chunk: int  # tokens between two checks for new and cancelled requests
    context: int  # most tokens of prompt and completion
    vocab: int
    # (params, ids of a prompt) -> log-probabilities of all but the first; None: prompts have none
    score_prompt: Callable[[Params, Sequence[int]], TokenLogprobs] | None = None
    # a folder -> its weights as `params`. Raises ConfigError for what is not this model's
    read_weights: Callable[[Path], Params] | None = None
    weight_version: str = "initial"


class _Update(NamedTuple):
    """A change of the runner, queued behind the requests that begin before it."""

    runner: ModelRunner
    done: Future[None]  # decoding has begun to use it


class Scheduler:
    """A request queue and its decoding thread. `max_waiting` more completions than there are rows are taken at once."""

    def __init__(self, runner: ModelRunner, max_waiting: int):
        self.runner, self.capacity = runner, runner.rows + max_waiting
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._queue: queue.SimpleQueue[tuple[DecodeRequest, OnPart] | _Update | None] = queue.SimpleQueue()
        self._lock, self._open = threading.Lock(), True
        self._submitted = self._running = 0
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    def submit(
        self, requests: Sequence[DecodeRequest], on_part: Callable[[int, CompletionPart | None], None]
    ) -> Callable[[], None]:
        """Queues requests, all or none, and returns a function that cancels them.

        `on_part` gets the request's index and what is new of its completion. It is called in the decoding thread, and
        not after the requests are cancelled. Raises QueueFull or SchedulerClosed.
        """
        cancelled = threading.Event()
        with self._lock:
            if not self._open:
                raise SchedulerClosed
            if self._submitted + len(requests) > self.capacity:
                raise QueueFull
            self._submitted += len(requests)
            for i, request in enumerate(requests):
                request = request._replace(is_cancelled=cancelled.is_set)
                self._queue.put((request, functools.partial(on_part, i)))
        return cancelled.set

    def update(self, runner: ModelRunner) -> Future[None]:
        """Queues a change of the runner, such as to other params; the future is done once decoding uses it.

        Requests that were submitted before are decoded to their end as they would have been without it, and those that
        are submitted from now on begin behind it, with a KV cache of their own. Raises SchedulerClosed, or the future
        does.
        """
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # whoever waits for it may be cancelled, it may not
        with self._lock:
            if not self._open:
                raise SchedulerClosed
            self.runner = runner
            self._queue.put(_Update(runner, done))
        return done

    @property
    def counts(self) -> SchedulerCounts:
        """The numbers of running and waiting completions."""
        with self._lock:
            return SchedulerCounts(self._running, self._submitted - self._running)

    def close(self) -> None:
        """Takes no more requests, and returns once the submitted ones have finished or are cancelled."""
        with self._lock:
            if self._open:
                self._open = False
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        running: dict[int, tuple[DecodeRequest, OnPart]] = {}
        updates = [_Update(self.runner, Future())]
        try:
            while updates:
                runner, done = updates.pop()
                done.set_result(None)
                self._decode(runner, running, updates)
        except BaseException as error:
            self._fail(error, running, updates)

    def _decode(
        self, runner: ModelRunner, running: dict[int, tuple[DecodeRequest, OnPart]], updates: list[_Update]
    ) -> None:
        """Decodes the queue's requests until one of its updates, which is added to `updates`, or its end."""
        requests = self._requests(running, updates)
        for part in continuous_batching.completion_parts(
            runner.engine, runner.params, requests, rows=runner.rows, defaults=sampler.NEUTRAL, chunk=runner.chunk
        ):  # fmt: skip
            request, on_part = running[part.number]
            if part.ended:
                del running[part.number]
                self._finish(running=1)
            if not request.is_cancelled():
                on_part(part)

    def _requests(
        self, running: dict[int, tuple[DecodeRequest, OnPart]], updates: list[_Update]
    ) -> Iterator[DecodeRequest | None]:
        """The queue's requests, each added to `running` by its number; None where the queue is empty now."""
        numbers = itertools.count()
        while True:
            try:
                queued = self._queue.get(block=not running)  # blocks while there is nothing to decode
            except queue.Empty:
                yield None
                continue
            if isinstance(queued, _Update):
                updates.append(queued)
            if queued is None or isinstance(queued, _Update):
                return  # what is running goes on to its end
            request, _ = queued
            if request.is_cancelled():
                self._finish(running=0)
                continue
            running[next(numbers)] = queued
            with self._lock:
                self._running += 1
            yield request

    def _finish(self, running: int) -> None:
        """Counts a submitted completion as finished; `running` is 1 where it had a row."""
        with self._lock:
            self._submitted -= 1
            self._running -= running

    def _fail(
        self,
        error: BaseException,
        running: Mapping[int, tuple[DecodeRequest, OnPart]],
        updates: Sequence[_Update],
    ) -> None:
        """Reports the failure to all requests; whoever runs the server ends it in `on_failure`."""
        with self._lock:
            self.failure, self._open = error, False
            queued = []
            while not self._queue.empty():
                queued += filter(None, [self._queue.get()])
        unfinished = [*running.values(), *(one for one in queued if not isinstance(one, _Update))]
        for update in (*updates, *(one for one in queued if isinstance(one, _Update))):
            update.done.set_exception(SchedulerClosed())
        for request, on_part in unfinished:
            if not request.is_cancelled():
                on_part(None)
        self.on_failure()


def warm_up(runner: ModelRunner) -> None:
    """Compiles every program that requests may need: a prefill for each bucket of prompt lengths, and the decoding."""
    sizes, size = [], sampler.bucketed(1)
    while size // 2 < runner.context:
        sizes.append(min(size, runner.context - 1))
        size *= 2
    requests = [DecodeRequest([0] * n, 0, limit=2) for n in sizes]
    separate = [item for request in requests for item in (request, None)]  # None: a prefill for each
    completions = continuous_batching.completions(
        runner.engine,
        runner.params,
        separate,
        rows=runner.rows,
        defaults=sampler.NEUTRAL,
        chunk=runner.chunk,
    )
    with progress.bar("compiling, for each length of a prompt", len(sizes)) as advance:
        for _ in completions:
            advance(1)
