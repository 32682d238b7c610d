"""Whole documents packed into rows of T targets, so that few are cut.

A piece is a stretch of n (input, target) pairs of one document: n + 1 ids, of which the first n are inputs
and the last n targets. A document BOS t₁ … tₙ EOS is n + 1 pairs, so a row of T positions holds T targets
and nothing is shared between rows but the id at a cut. Documents longer than a row are cut into row-long
pieces and a rest, and the pieces are packed by best fit, longest first (Ding et al. 2024, arXiv 2404.10830,
section 3).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class PackedPieces(NamedTuple):
    """Stretches of documents, `start` and `length` counted in (input, target) pairs."""

    document: np.ndarray  # i64[P]
    start: np.ndarray  # i64[P]
    length: np.ndarray  # i64[P]


class PackingPlan(NamedTuple):
    """Which pieces are in which row: those of row r are `order[bounds[r]:bounds[r + 1]]`."""

    order: np.ndarray  # i64[P]
    bounds: np.ndarray  # i64[R + 1]


def cut(lengths: np.ndarray, size: int) -> PackedPieces:
    """Documents of `lengths` pairs in pieces of at most `size`: all `size` long but each document's last."""
    lengths = np.asarray(lengths, np.int64)
    counts = -(-lengths // size)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * size
    return PackedPieces(document, start, np.minimum(lengths[document] - start, size))


def pack(lengths: np.ndarray, size: int, seed: int = 0) -> PackingPlan:
    """Packs pieces of 1 to `size` pairs into rows of `size`, longest first, each into the fullest row it
    fits.

    All pieces of one length are placed at once, so time is O(P + size²) array operations at most. Rows come
    in an order shuffled by `seed`, since packing leaves them sorted by length. Raises ValueError for a
    piece that fits no row.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= size:
        raise ValueError(f"pieces are 1 to {size} long, got {lengths.min()} to {lengths.max()}")
    by_length = np.argsort(-lengths, kind="stable")
    row = np.empty(len(lengths), np.int64)
    rows = 0
    free: dict[int, np.ndarray] = {}  # room left -> rows with that room
    counts = np.bincount(lengths, minlength=size + 1)
    done = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        todo = by_length[done : done + counts[length]]
        done += counts[length]
        for room in sorted(r for r in free if r >= length):
            if not len(todo):
                break
            todo = _place(todo, length, room, free.pop(room), row, free)
        if len(todo):
            fresh = np.arange(rows, rows + -(-len(todo) // (size // length)))
            rows += len(fresh)
            _place(todo, length, size, fresh, row, free)
    shuffled = np.random.Generator(np.random.Philox(seed)).permutation(rows)
    row = shuffled[row]
    order = np.lexsort((np.arange(len(row)), -lengths, row))
    bounds = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=rows), out=bounds[1:])
    return PackingPlan(order, bounds)


def _place(
    todo: np.ndarray, length: int, room: int, rows: np.ndarray, row: np.ndarray, free: dict[int, np.ndarray]
) -> np.ndarray:
    """Fills `rows`, all with the same room, one after the other; records what room is left, returns the
    pieces left over.
    """
    each = room // length
    used = min(len(rows), -(-len(todo) // each))
    placed = min(len(todo), used * each)
    row[todo[:placed]] = np.repeat(rows[:used], each)[:placed]
    full = placed // each
    _add(free, room - each * length, rows[:full])
    if used > full:
        _add(free, room - (placed - full * each) * length, rows[full:used])
    _add(free, room, rows[used:])
    return todo[placed:]


def _add(free: dict[int, np.ndarray], room: int, rows: np.ndarray) -> None:
    if room and len(rows):
        free[room] = np.concatenate([free[room], rows]) if room in free else rows


def assemble(pieces: Iterable[tuple[np.ndarray, np.ndarray]], size: int, pad: int) -> dict[str, np.ndarray]:
    """A row of T = `size` from pieces (ids i[n + 1], loss mask f[n] of the targets).

    Returns tokens, targets, segments, positions (i32[T]) and mask (f32[T]). Segments count from 1 and
    positions from 0 in each piece; what is left over is padding, segment 0. Raises ValueError where the
    pieces do not fit.
    """
    row = {
        "tokens": np.full(size, pad, np.int32),
        "targets": np.full(size, pad, np.int32),
        "mask": np.zeros(size, np.float32),
        "segments": np.zeros(size, np.int32),
        "positions": np.zeros(size, np.int32),
    }
    at = 0
    for number, (ids, loss_mask) in enumerate(pieces, 1):
        end = at + len(loss_mask)
        if len(ids) != len(loss_mask) + 1 or end > size:
            raise ValueError(
                f"a piece of {len(ids)} ids and {len(loss_mask)} targets does not fit at {at} of {size}"
            )
        row["tokens"][at:end] = ids[:-1]
        row["targets"][at:end] = ids[1:]
        row["mask"][at:end] = loss_mask
        row["segments"][at:end] = number
        row["positions"][at:end] = np.arange(end - at)
        at = end
    return row
