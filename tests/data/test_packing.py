"""Packing: nothing lost, nothing twice, no seam crossed, as full as sequential best fit makes it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtrain.data import packing

PAD = 99_999


def naive(lengths, size):
    """Rows that best fit, longest first, needs: one piece after the other."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fits = [room for room in rooms if room >= length]
        room = min(fits, default=size)
        if fits:
            rooms.remove(room)
        rooms.append(room - length)
    return sorted(rooms)


@given(
    sizes=st.integers(1, 40).flatmap(
        lambda size: st.tuples(st.just(size), st.lists(st.integers(1, size), max_size=150))
    )
)
@settings(deadline=None, max_examples=300)
def test_every_piece_once_and_as_full_as_sequential_best_fit(sizes):
    size, lengths = sizes
    plan = packing.pack(np.asarray(lengths, np.int64), size)
    assert sorted(plan.order.tolist()) == list(range(len(lengths)))
    filled = [
        int(np.asarray(lengths)[plan.order[a:b]].sum())
        for a, b in zip(plan.bounds, plan.bounds[1:], strict=False)
    ]
    assert all(0 < n <= size for n in filled)
    assert sorted(size - n for n in filled) == naive(lengths, size)


@given(st.lists(st.integers(1, 100), max_size=40), st.integers(1, 17))
@settings(deadline=None)
def test_cut_covers_each_document_once(lengths, size):
    pieces = packing.cut(np.asarray(lengths, np.int64), size)
    covered = [[] for _ in lengths]
    for document, start, length in zip(*pieces, strict=True):
        assert 1 <= length <= size
        covered[document] += range(start, start + length)
    assert covered == [list(range(n)) for n in lengths]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(2, 16), st.integers(0, 5))
@settings(deadline=None)
def test_rows_hold_every_target_once_and_predict_across_no_seam(inner, size, seed):
    """Documents of 100 * d + 1, 100 * d + 2, ...: an id tells its document and place."""
    documents = [100 * d + np.arange(n + 2) for d, n in enumerate(inner)]
    pairs = np.asarray([len(ids) - 1 for ids in documents])
    pieces = packing.cut(pairs, size)
    plan = packing.pack(pieces.length, size, seed)
    seen = []
    for a, b in zip(plan.bounds, plan.bounds[1:], strict=False):
        parts = [
            documents[pieces.document[p]][pieces.start[p] : pieces.start[p] + pieces.length[p] + 1]
            for p in plan.order[a:b]
        ]
        row = packing.assemble([(ids, np.ones(len(ids) - 1)) for ids in parts], size, PAD)
        real = row["segments"] > 0
        assert (row["targets"][real] == row["tokens"][real] + 1).all()
        assert (row["mask"] == real).all()
        assert (row["tokens"][~real] == PAD).all() and not row["positions"][~real].any()
        assert row["segments"].max() == len(parts)
        for number in range(1, len(parts) + 1):
            at = np.flatnonzero(row["segments"] == number)
            assert (np.diff(at) == 1).all() and (row["positions"][at] == np.arange(len(at))).all()
            assert len(np.unique(row["tokens"][at] // 100)) == 1
        seen += row["targets"][real].tolist()
    assert sorted(seen) == sorted(int(i) for ids in documents for i in ids[1:])


def test_assemble_by_hand():
    row = packing.assemble(
        [(np.array([1, 7, 8, 2]), np.array([0, 0.5, 1])), (np.array([1, 2]), np.array([1]))], 6, 0
    )
    assert row["tokens"].tolist() == [1, 7, 8, 1, 0, 0]
    assert row["targets"].tolist() == [7, 8, 2, 2, 0, 0]
    assert row["mask"].tolist() == [0, 0.5, 1, 1, 0, 0]
    assert row["segments"].tolist() == [1, 1, 1, 2, 0, 0]
    assert row["positions"].tolist() == [0, 1, 2, 0, 0, 0]
    assert {name: x.dtype.name for name, x in row.items() if name != "mask"} == dict.fromkeys(
        ("tokens", "targets", "segments", "positions"), "int32"
    )
    assert row["mask"].dtype == np.float32


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 to 4 long, got 1 to 5"):
        packing.pack(np.array([1, 5]), 4)
    with pytest.raises(ValueError, match="does not fit at 0 of 2"):
        packing.assemble([(np.arange(4), np.ones(3))], 2, 0)
    with pytest.raises(ValueError, match="does not fit"):
        packing.assemble([(np.arange(3), np.ones(3))], 8, 0)


def test_packing_is_deterministic_and_rows_come_in_no_order_of_length():
    lengths = np.random.Generator(np.random.Philox(1)).integers(1, 65, 3000)
    first, again = packing.pack(lengths, 64), packing.pack(lengths, 64)
    assert (first.order == again.order).all() and (first.bounds == again.bounds).all()
    longest = lengths[first.order[first.bounds[:-1]]]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.1
    assert (packing.pack(lengths, 64, seed=1).order != first.order).any()
