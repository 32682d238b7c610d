"""Parts of a token cache: folders of their own, each with the documents of consecutive records and its checksums.

A part is a function of its records and the tokenizer alone, so whichever process writes it writes the same bytes, and
one that is missing or damaged is written anew by itself.
"""

import contextlib
import functools
import itertools
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtrain.config import Failure
from jaxtrain.data import mlm_fim
from jaxtrain.data.bad_records import LISTED
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache

IDS = "ids.bin"
SMALL = ("meta.json", "offsets.npy", "slack.npy", "logp.npy", LISTED)  # verified when a part is opened
WHOLE = 2_048  # records up to which a cache has one part
_LEAST, _MOST = 512, 8_192  # records of a part otherwise
_PARTS = 256  # that a corpus has at least, as far as those limits allow
_RUN = 1 << 22  # characters encoded at once
_OPEN = 256  # files that are open at once


class PartText(NamedTuple):
    """The texts of a part before they are tokenised, and what was left out."""

    texts: list[str]
    logps: list[float]  # NaN where unknown
    draws: np.ndarray | None  # f64[n, 3] in [0, 1) for fill-in-the-middle; None: no document is rearranged
    fim_rate: float
    empty: int
    skipped: int
    listed: bytes  # the list of the skipped ones, JSON lines

    @property
    def characters(self) -> int:
        """Of all texts."""
        return sum(map(len, self.texts))


class TokenPart(NamedTuple):
    """A part that was written: the columns of its documents but the ids, which stay on the disk."""

    path: Path
    offsets: np.ndarray  # i64[n + 1]
    slack: np.ndarray  # i32[n]
    logp: np.ndarray | None  # f64[n]
    size: int  # UTF-8 bytes of the texts
    empty: int
    skipped: int
    dtype: np.dtype


def bounds(records: int) -> np.ndarray:
    """i64[P + 1]: part k has the records bounds[k] to bounds[k + 1]. It depends on their number alone."""
    if records <= WHOLE:
        return np.array([0, records])
    size = _LEAST
    while size < _MOST and size * _PARTS < records:
        size *= 2
    return np.array([*range(0, records, size), records])


def write(work: Path, part: PartText, tokenizer: Tokenizer) -> None:
    """Tokenises the texts of a part, as BOS … EOS, and writes its files."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    draws = itertools.repeat(np.zeros(3)) if part.draws is None else part.draws
    rate = 0.0 if part.draws is None else part.fim_rate
    lengths, slack, size = [], [], 0
    documents = [mlm_fim.fim_parts(text, draw, rate) for text, draw in zip(part.texts, draws, strict=False)]
    encoded = _encode(tokenizer, [one for document in documents for one in document])
    with (work / IDS).open("wb") as file:
        for text, document in zip(part.texts, documents, strict=True):
            inner = mlm_fim.fim_join([next(encoded) for _ in document], tokenizer.fim)
            ids = np.concatenate([[tokenizer.bos], *inner, [tokenizer.eos]])
            file.write(ids.astype(dtype).tobytes())
            count = len(text.encode())
            size += count
            lengths.append(len(ids))
            slack.append(count - int(tokenizer.byte_lengths[ids].sum()))
    np.save(work / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
    np.save(work / "slack.npy", np.asarray(slack, np.int32))
    if not np.isnan(part.logps).all():
        np.save(work / "logp.npy", np.asarray(part.logps, np.float64))
    (work / LISTED).write_bytes(part.listed)
    meta = {
        "documents": len(lengths),
        "bytes": size,
        "empty": part.empty,
        "skipped": part.skipped,
        "dtype": dtype.name,
    }
    (work / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _encode(tokenizer: Tokenizer, parts: list[str]) -> Iterator[np.ndarray]:
    """The ids of each part, encoded a few megabytes at a time: encodings take many times the memory of their text."""
    run, size = [], 0
    for part in parts:
        run.append(part)
        size += len(part)
        if size > _RUN:
            yield from tokenizer.encode(run)
            run, size = [], 0
    yield from tokenizer.encode(run)


def build(path: Path, part: PartText, tokenizer: Tokenizer, wait: bool = True) -> None:
    """Writes a part to `path`, where it is missing; without `wait` nothing where another process is at it."""
    with contextlib.nullcontext() if wait else contextlib.suppress(BlockingIOError):
        cache.build(path, lambda work: write(work, part, tokenizer), verified=SMALL, wait=wait)


def there(path: Path) -> bool:
    """Whether a part was written. A damaged one is moved away, with a line; its ids are verified when they are read."""
    return cache.intact(path, SMALL)


def open_part(path: Path) -> TokenPart:
    """A part that was written."""
    meta = json.loads((path / "meta.json").read_text())
    logp = path / "logp.npy"
    return TokenPart(
        path=path,
        offsets=np.load(path / "offsets.npy"),
        slack=np.load(path / "slack.npy"),
        logp=np.load(logp) if logp.exists() else None,
        size=meta["bytes"],
        empty=meta["empty"],
        skipped=meta["skipped"],
        dtype=np.dtype(meta["dtype"]),
    )


class _OpenIds:
    """A file that is open as long as anybody has it."""

    def __init__(self, path: Path):
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


class PartedIds:
    """The ids of all parts, one after the other, of which a document is a slice.

    A part's checksums are verified when it is first read. A damaged one is named and written anew: `rebuild` is called
    with its number. Raises Failure where it then differs, since the rows were made of what was there before.
    """

    def __init__(self, parts: Sequence[TokenPart], rebuild: Callable[[int], None]):
        self._parts = parts
        self._starts = np.cumsum([0, *(int(part.offsets[-1]) for part in parts)])
        self.dtype = parts[0].dtype
        self._rebuild, self._verified = rebuild, set[int]()
        self._lock = threading.Lock()
        # Read, not mapped: the pages of a map that were read once would count as this process's memory.
        self._file = functools.lru_cache(maxsize=_OPEN)(lambda k: _OpenIds(parts[k].path / IDS))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, at: slice) -> np.ndarray:
        """The ids from `at.start` to `at.stop`, which lie in one part."""
        k = int(np.searchsorted(self._starts, at.start, "right")) - 1
        if k not in self._verified:
            with self._lock:
                if k not in self._verified:
                    self._verify(k)
        file, width = self._file(k), self.dtype.itemsize
        size = int(at.stop - at.start) * width
        raw = os.pread(file.number, size, int(at.start - self._starts[k]) * width)
        if len(raw) != size:
            raise Failure(f"{self._parts[k].path / IDS} was cut off meanwhile; start the same command again")
        return np.frombuffer(raw, self.dtype)

    def _verify(self, k: int) -> None:
        part = self._parts[k]
        if not cache.intact(part.path):
            self._rebuild(k)
            if not np.array_equal(open_part(part.path).offsets, part.offsets):
                raise Failure(
                    f"{part.path}: made anew it differs from what was there; start the same command again"
                )
        self._verified.add(k)
