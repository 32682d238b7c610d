"""Processes that tokenise the parts of a cache; the process that starts them reads the records."""

import concurrent.futures
import os
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from jaxtrain.config import Failure
from jaxtrain.data import token_parts
from jaxtrain.data.token_parts import PartText
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files.workers import Worker

_ALONE = 2.0  # seconds of tokenising after which it starts workers: they take half a second to start
_AHEAD = 1 << 28  # characters of texts that are read and not yet tokenised, at most, unless one part has more

_taken: list[Tokenizer] = []  # of a worker


class TokenWorkers:
    """Writes parts by this process, and after a while by `count` others (0: one a core; 1: this one alone).

    `done` is called with the records of each part that is written. wait: false leaves out a part that another process
    is at, as `cache.build`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        count: int,
        done: Callable[[int], None],
        *,
        wait: bool = True,
    ):
        self._tokenizer, self._done, self._wait = tokenizer, done, wait
        self._count = count or len(os.sched_getaffinity(0))
        self._alone = time.monotonic() + _ALONE
        self._workers: list[Worker] = []
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._threads = concurrent.futures.ThreadPoolExecutor(self._count, "tokenising")
        self._ahead: dict[Future, tuple[int, int]] = {}  # (characters, records) of each part under way

    def submit(self, path: Path, part: PartText, records: int) -> None:
        """Writes a part, or waits until a worker may soon do it."""
        if self._count == 1 or time.monotonic() < self._alone:
            token_parts.build(path, part, self._tokenizer, self._wait)
            self._done(records)
            return
        if not self._workers:
            self._workers = [self._start() for _ in range(self._count)]
            for worker in self._workers:
                self._free.put(worker)
        self._collect(self._count, _AHEAD - part.characters)
        future = self._threads.submit(self._call, path, part)
        self._ahead[future] = part.characters, records

    def _start(self) -> Worker:
        # Threads of the tokenizers library beside those of the other workers would only disturb them.
        return Worker({"TOKENIZERS_PARALLELISM": "false"})

    def _call(self, path: Path, part: PartText) -> None:
        worker = self._free.get()
        try:
            if worker.fresh:
                worker.call(_take, self._tokenizer)
            worker.call(_write, path, part, self._wait)
        except Failure as error:
            raise Failure(
                f"tokenising {path}: {error}; the same command goes on with what is missing, with fewer --data_workers "
                "in less memory"
            ) from error
        finally:
            self._free.put(worker)

    def _collect(self, most: int, characters: int) -> None:
        """Waits until at most so many parts, with so many characters, are read and not written; one may be larger."""
        while len(self._ahead) > most or (
            self._ahead and sum(n for n, _ in self._ahead.values()) > characters
        ):
            finished, _ = concurrent.futures.wait(self._ahead, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                _, records = self._ahead.pop(future)
                future.result()
                self._done(records)

    def __enter__(self) -> "TokenWorkers":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._collect(0, 0)
        finally:
            for worker in self._workers:
                worker.kill()
            self._threads.shutdown(cancel_futures=True)
            for worker in self._workers:
                worker.close()


def received(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that came from another process, as it was there."""
    inner = getattr(tokenizer, "_inner", None)
    if hasattr(inner, "encode_special_tokens"):  # pickling loses it
        inner.encode_special_tokens = True
    return tokenizer


def _take(tokenizer: Tokenizer) -> None:
    _taken[:] = [received(tokenizer)]


def _write(path: Path, part: PartText, wait: bool) -> None:
    token_parts.build(path, part, _taken[0], wait)
