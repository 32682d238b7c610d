"""Rows of a token stream in windows: the rows of consecutive parts are packed and shuffled together.

Row i is a function of i and the seed alone, whether all parts are there or row i is waited for: in the first pass the
windows come in order, since those behind are not known yet; in later ones they are shuffled, too.
"""

import bisect
import collections
import itertools
import json
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.data import token_cache, token_parts
from jaxtrain.data.mlm_fim import Row
from jaxtrain.data.packed_rows import PackedRows
from jaxtrain.data.token_parts import TokenPart
from jaxtrain.data.token_stream import StreamWriter, TokenStream
from jaxtrain.files import cache, checksums, progress

# Parts of each window: the first rows are soon there, and later ones are shuffled over 131,072 documents.
_GROWING, _FULL = (1, 1, 1, 1, 1, 1, 2, 4, 8), 16
_POLL = 0.05  # seconds between looks for a part
_KEPT = 2  # windows in memory


class _Window(NamedTuple):
    """The rows of a window, and their order in one pass over the data."""

    rows: PackedRows | None  # None: it has no document
    order: np.ndarray


def parts_of(window: int) -> range:
    """The numbers of a window's parts."""
    grown = len(_GROWING)
    first = sum(_GROWING[:window]) + _FULL * max(0, window - grown)
    return range(first, first + (_GROWING[window] if window < grown else _FULL))


class StreamedRows:
    """The rows of a stream, endlessly: pass after pass over its records."""

    def __init__(self, stream: TokenStream, size: int, seed: int, writer: StreamWriter):
        self._stream, self._size, self._seed, self._writer = stream, size, seed, writer
        self._lock = threading.Lock()
        self._counts = self._stored_counts()  # rows of each window, of those that are known
        self._windows: collections.OrderedDict[tuple[int, int], _Window] = collections.OrderedDict()
        self._passes: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # (windows in order, rows before each)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> Row:
        with self._lock:
            turn, window, place = self._locate(i)
            found = self._window(turn, window)
        return found.rows[int(found.order[place])]

    def _locate(self, i: int) -> tuple[int, int, int]:
        """(pass, window, place in its order) of row i."""
        ends = list(itertools.accumulate(self._counts))
        while i >= (ends[-1] if ends else 0) and not self._ended(len(ends)):
            ends.append((ends[-1] if ends else 0) + self._count(len(ends)))
        total = ends[-1] if ends else 0
        if i < total:
            window = bisect.bisect_right(ends, i)
            return 0, window, i - (ends[window] - self._counts[window])
        if not total:
            raise ConfigError(f"--data={self._stream.source.label}: no document left; check --text_field")
        turn, place = divmod(i, total)
        order, starts = self._pass(turn)
        at = int(np.searchsorted(starts, place, "right")) - 1
        return turn, int(order[at]), place - int(starts[at])

    def _pass(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """(the windows in the order of a pass, the rows before each), once all are known."""
        if turn not in self._passes:
            counts = np.asarray(self._counts)
            order = self._random(turn).permutation(len(counts)) if turn else np.arange(len(counts))
            order = order[counts[order] > 0]
            self._passes[turn] = order, np.cumsum([0, *counts[order][:-1]])
        return self._passes[turn]

    def _random(self, *place: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, *place))))

    def _ended(self, window: int) -> bool:
        """Whether there is no such window."""
        return self.part(parts_of(window)[0]) is None

    def _count(self, window: int) -> int:
        """The rows of the window behind those that are known."""
        self._counts.append(len(self._window(0, window).order))
        text = json.dumps(checksums.sealed({"rows": self._counts}))
        with cache.full_disk(self._stream.folder):
            cache.write_whole(self._stream.folder / self._counts_file, text)
        return self._counts[-1]

    @property
    def _counts_file(self) -> str:
        return f"rows-{self._size}.json"

    def _stored_counts(self) -> list[int]:
        path = self._stream.folder / self._counts_file
        try:
            return list(checksums.unsealed(json.loads(path.read_text()))["rows"])
        except FileNotFoundError:
            return []
        except (ValueError, LookupError, TypeError) as error:
            print(f"{path}: {error}: made anew", file=sys.stderr, flush=True)
            return []

    def _window(self, turn: int, window: int) -> _Window:
        if (turn, window) not in self._windows:
            parts = [part for k in parts_of(window) if (part := self.part(k)) is not None]
            rows = None
            if any(len(part.slack) for part in parts):
                first = parts_of(window)[0]
                documents = token_cache.joined(
                    parts, lambda k: self._writer.rebuild(first + k), self._stream.folder.name
                )
                rows = PackedRows(documents, self._stream.tokenizer, self._size)
            order = self._random(turn, window).permutation(0 if rows is None else len(rows))
            self._windows[turn, window] = _Window(rows, order)
            while len(self._windows) > _KEPT:
                self._windows.popitem(last=False)
        self._windows.move_to_end((turn, window))
        return self._windows[turn, window]

    def part(self, k: int) -> TokenPart | None:
        """Part k, once it is there; None where the records end before it."""
        path = self._stream.part(k)
        while True:
            known = path.is_dir()
            if token_parts.there(path):
                return token_parts.open_part(path)
            end = self._stream.end()
            if end is not None and k >= end["parts"]:
                return None
            if not self._writer.at_work() or known:  # it is damaged
                self._writer.rebuild(k)
            progress.report(f"waiting for part {k} of {self._stream.source.label} to be tokenised")
            time.sleep(_POLL)
