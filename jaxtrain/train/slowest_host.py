"""Which host of a run is the slowest: the one that the others wait for.

All hosts take as long for a step, since they end it together. What differs is how much of that time a host waits for
the others, in a collective: the slowest one waits least.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax

_state = {
    "waited": 0.0,
    "since": 0.0,
    "step": -1,
}  # s in `waiting` and clock at the last metrics, and their step


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Time in here is not this host's own: it waits for results that need the other hosts."""
    start = time.perf_counter()
    try:
        yield
    finally:
        _state["waited"] += time.perf_counter() - start


def metrics(step: int, gather: Callable[[float], list[float]]) -> Mapping[str, float]:
    """hosts/step_time_max, the most seconds of its own that a host took for a step since the last call (not the mean
    of all), and hosts/slowest, which process that is. Empty with one process. All hosts call it at the same step;
    `gather` is multihost's.
    """
    if jax.process_count() == 1:
        return {}
    now, steps = time.perf_counter(), step - _state["step"]
    own = (now - _state["since"] - _state["waited"]) / max(steps, 1)
    first = _state["step"] < 0 or steps < 1
    times = gather(own)
    _state.update(waited=0.0, since=time.perf_counter(), step=step)
    return {} if first else {"hosts/step_time_max": max(times), "hosts/slowest": times.index(max(times))}
