"""Timing of device work: repeats after a warm-up, their median and spread; the rates that a device itself reaches."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtrain.train import host


class Clock:
    """A budget of seconds that runs from the moment it is made."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic):
        self._now, self._end = now, now() + seconds

    def left(self) -> float:
        """Seconds left, 0 where it has run out."""
        return max(0.0, self._end - self._now())

    def fits(self, seconds: float) -> bool:
        """Whether work of this length ends inside the budget."""
        return seconds <= self.left()


class Timing(NamedTuple):
    """Seconds of a unit of work, one number a repeat."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]  # of this process

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def best(self) -> float:
        return min(self.wall)

    def record(self) -> dict[str, float]:
        """Median, lowest and highest in seconds, and the number of repeats, for JSON."""
        return {"median": self.median, "low": self.best, "high": max(self.wall), "repeats": len(self.wall)}


def repeat(
    work: Callable[[], Any],
    *,
    warmup: int,
    repeats: int,
    calls: int = 1,
    wait: Callable[[Any], Any] = jax.block_until_ready,
    clock: Clock | None = None,
) -> Timing:
    """The time of one call of `work`, measured `repeats` times over `calls` calls in a row.

    `wait(work())` ends when the device has done the work; inside a repeat the host runs ahead of the device, as it does
    in training. With a clock there are fewer repeats, at least one, where the next would end beyond it.
    """
    for _ in range(warmup):
        wait(work())
    wall, cpu = [], []
    for _ in range(repeats):
        if wall and clock and not clock.fits(wall[-1] * calls):
            break
        before = host.clocks()
        for _ in range(calls):
            result = work()
        wait(result)
        seconds = [(b - a) / calls for a, b in zip(before, host.clocks(), strict=True)]
        wall.append(seconds[0])
        cpu.append(seconds[1])
    return Timing(tuple(wall), tuple(cpu))


def matmul_timing(m: int, k: int, n: int, dtype: Any = jnp.float32, **how: int) -> Timing:
    """The time of a product f[m, k] @ f[k, n] of random numbers; 2 m k n FLOPs. Zeros would run faster on a GPU."""
    keys = jax.random.split(jax.random.key(0))
    a, b = jax.random.normal(keys[0], (m, k), dtype), jax.random.normal(keys[1], (k, n), dtype)
    product = jax.jit(jnp.matmul)
    return repeat(lambda: product(a, b), **{"warmup": 1, "repeats": 30, **how})


def copy_timing(size: int, **how: int) -> Timing:
    """The time in which `size` bytes are read and as many are written: -x."""
    x = jax.random.normal(jax.random.key(0), (size // 4,))
    negative = jax.jit(jnp.negative)
    return repeat(lambda: negative(x), **{"warmup": 1, "repeats": 30, **how})


def read_timing(size: int, **how: int) -> Timing:
    """The time in which `size` bytes are read: a sum."""
    x = jnp.ones(size // 4)
    total = jax.jit(jnp.sum)
    return repeat(lambda: total(x), **{"warmup": 1, "repeats": 30, **how})
