"""Random choices with their log-probability, addressed by (stream, index) and stable across numpy versions.

Every item of a stream owns `BUDGET` consecutive 64-bit words of a Philox-4x64 counter sequence; an item that
needs more continues in a region of the counter space that is its own. Only raw words are used, never the
methods of `numpy.random.Generator`, whose streams may change between numpy releases.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from math import log
from typing import TypeVar

import numpy as np

BUDGET = 64
_COUNTS = BUDGET // 4
_BLOCK = 256
_OVERFLOW = 1 << 128

Stream = tuple[int, int]
T = TypeVar("T")


def stream(seed: int, *names: str) -> Stream:
    """The Philox key of the stream called `names` under `seed`."""
    digest = hashlib.blake2b("/".join(names).encode(), digest_size=8).digest()
    return seed, int.from_bytes(digest, "little")


def _uniforms(key: Stream, counter: int, words: int) -> np.ndarray:
    bits = np.random.Philox(key=np.array(key, np.uint64), counter=counter).random_raw(words)
    return (bits >> np.uint64(11)) * 2.0**-53


def _overflow(key: Stream, index: int) -> Iterator[float]:
    first = _OVERFLOW + (index << 64)
    for block in count():
        yield from _uniforms(key, first + block * _COUNTS, BUDGET).tolist()


class DrawWeights:
    """A categorical distribution prepared for `RandomDraws.weighted`; the weights need not sum to one."""

    __slots__ = ("bounds", "logs")

    def __init__(self, weights: Sequence[float]):
        if not weights or min(weights) <= 0:
            raise ValueError(f"weights must be positive, got {tuple(weights)}")
        probs = np.array(weights, np.float64) / sum(weights)
        self.bounds = np.cumsum(probs)[:-1].tolist()
        self.logs = np.log(probs).tolist()


class RandomDraws:
    """The choices of one item, and `logp`, the sum of their log-probabilities in nats."""

    __slots__ = ("logp", "uniform")

    def __init__(self, key: Stream, index: int, row: list[float] | None = None):
        if row is None:
            row = _uniforms(key, index * _COUNTS, BUDGET).tolist()
        # The next number in [0, 1), its log-probability not counted.
        self.uniform: Callable[[], float] = chain(row, _overflow(key, index)).__next__
        self.logp = 0.0

    def pick(self, n: int) -> int:
        """One of 0..n-1, each with probability 1/n."""
        self.logp -= log(n)
        return int(self.uniform() * n)

    def weighted(self, weights: DrawWeights) -> int:
        i = bisect_right(weights.bounds, self.uniform())
        self.logp += weights.logs[i]
        return i

    def flag(self, p: float) -> bool:
        """True with probability `p`; a certain answer costs no draw."""
        if p <= 0.0 or p >= 1.0:
            return p >= 1.0
        if self.uniform() < p:
            self.logp += log(p)
            return True
        self.logp += log(1.0 - p)
        return False

    def choice(self, items: Sequence[T]) -> T:
        return items[self.pick(len(items))]

    def choice_except(self, items: Sequence[T], excluded: T) -> T:
        """A uniform choice among the `items` other than `excluded`, which must be one of them."""
        i = self.pick(len(items) - 1)
        return items[i + (i >= items.index(excluded))]


def draws(key: Stream, start: int, stop: int) -> Iterator[RandomDraws]:
    """The draws of items start..stop-1; the same as `RandomDraws(key, i)` for each, but generated in blocks."""
    for first in range(start, stop, _BLOCK):
        items = min(_BLOCK, stop - first)
        rows = _uniforms(key, first * _COUNTS, items * BUDGET).reshape(items, BUDGET).tolist()
        for offset, row in enumerate(rows):
            yield RandomDraws(key, first + offset, row)


class _Script(RandomDraws):
    """Draws that replay a path of choices and extend it by first choices."""

    __slots__ = ("depth", "path")

    def __init__(self, path: list[list[int]]):
        self.path = path
        self.depth = 0
        self.logp = 0.0

    def _step(self, n: int) -> int:
        if self.depth == len(self.path):
            self.path.append([0, n])
        self.depth += 1
        return self.path[self.depth - 1][0]

    def pick(self, n: int) -> int:
        self.logp -= log(n)
        return self._step(n)

    def weighted(self, weights: DrawWeights) -> int:
        i = self._step(len(weights.logs))
        self.logp += weights.logs[i]
        return i

    def flag(self, p: float) -> bool:
        if p <= 0.0 or p >= 1.0:
            return p >= 1.0
        taken = self._step(2) == 0
        self.logp += log(p if taken else 1.0 - p)
        return taken


def outcomes(generate: Callable[[RandomDraws], T]) -> Iterator[tuple[T, float]]:
    """Every derivation of `generate` with its log-probability, by exhaustive replay of its choices."""
    path: list[list[int]] = []
    while True:
        script = _Script(path)
        result = generate(script)
        yield result, script.logp
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return
        path[-1][0] += 1
