"""--profile: a trace of some steps of training, and a profile of the device memory after them."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxtrain.config import Failure

FOLDER, MEMORY = "profile", "memory.pprof"
Step = Callable[..., Any]  # a compiled step of training


class StepProfiler:
    """A step of training, traced from one step on, for some steps. A context manager, which ends a trace with the run.

    done: steps before the first call. window: (first step, number of steps); None traces nothing. Every process writes
    the trace of its own devices. `pause`: a context for time that is none of a step.
    """

    def __init__(
        self,
        step: Step,
        done: int,
        window: tuple[int, int] | None,
        path: Path,
        show: Callable[[str], None],
        pause: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        self._step, self._done, self._folder = step, done, path / FOLDER
        self._show, self._pause = show, pause
        self._first, count = window or (0, 0)
        self._last = self._first + count - 1
        self._tracing = False
        if window and done >= self._first:
            show(
                f"--profile: step {self._first} is done already; the run goes on from step {done}, without a profile"
            )
            self._first = 0

    def __call__(self, *args: Any) -> Any:
        self._done += 1
        if self._done == self._first:
            with self._pause():
                self._start()
        result = self._step(*args)
        if self._tracing and self._done == self._last:
            jax.block_until_ready(result)
            with self._pause():
                self._stop()
        return result

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            jax.profiler.start_trace(str(self._folder))
        except RuntimeError as error:  # such as another profiler of this process
            raise Failure(f"--profile: {error}") from error
        self._tracing = True

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
        jax.profiler.save_device_memory_profile(str(self._folder / MEMORY))
        last = min(self._done, self._last)
        self._show(
            f"profile of steps {self._first} to {last} in {self._folder}: `pip install xprof`, then "
            f"`xprof --logdir={self._folder}` opens the trace, and `go tool pprof -http=: {self._folder / MEMORY}` "
            "the memory"
        )

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracing:
            self._stop()
