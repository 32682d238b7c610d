"""Rows of a stream: each document once a pass, in an order that no wait and no stop changes."""

from pathlib import Path

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import source_spec, streamed_rows, token_stream
from jaxtrain.data.streamed_rows import StreamedRows
from jaxtrain.data.token_stream import StreamWriter, TokenStream
from tests.data.cached_tokens import KIND
from tests.data.corpus import prose, text, write

COUNT, SIZE = 2_200, 96


@pytest.fixture
def stream(tmp_path, cfg):
    data = prose(tmp_path / "a.jsonl", COUNT)

    def make(name, data=data):
        made, paths = cfg(data, data_workers=1), [Path(data.removeprefix("jsonl:"))]
        held = np.zeros(0, np.int64)
        return TokenStream(source_spec.parse(data)[0], made, paths, held, KIND, None, tmp_path / name)

    return make


class Ended:
    """No writer: all is there, or is asked for."""

    def __init__(self, stream):
        self._stream, self.rebuilt = stream, []

    def at_work(self):
        return False

    def rebuild(self, k):
        self.rebuilt.append(k)
        token_stream.write(self._stream, [k])


def rows_of(stream, seed=0):
    return StreamedRows(stream, SIZE, seed, Ended(stream))


def pieces(rows, numbers):
    """The pieces of documents in rows, as text."""
    found = []
    for i in numbers:
        row = rows[i]
        for segment in range(1, row["segments"].max() + 1):
            inside = row["segments"] == segment
            found.append(bytes(t for t in row["targets"][inside] if t < 256))
    return found


def test_windows_grow_and_cover_all_parts_in_order():
    found = [list(streamed_rows.parts_of(w)) for w in range(12)]
    assert [k for window in found for k in window] == list(range(sum(map(len, found))))
    assert [len(window) for window in found] == [1, 1, 1, 1, 1, 1, 2, 4, 8, 16, 16, 16]


def test_every_pass_has_every_document_once_in_another_order(stream):
    one = stream("one")
    token_stream.write(one)
    rows = rows_of(one)
    rows[0]
    total = 0
    while total < 10**6 and rows._locate(total)[0] == 0:
        total += 1
    expected = sorted("".join(text(i) for i in range(COUNT)).encode())  # a cut may divide a character
    orders = []
    for turn in range(3):
        found = pieces(rows, range(turn * total, (turn + 1) * total))
        assert sorted(b"".join(found)) == expected
        orders.append(found)
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert pieces(rows_of(one, seed=1), range(50)) != orders[0][: len(pieces(rows, range(50)))]


def test_the_order_is_the_same_whether_all_is_there_or_not(stream):
    """Rows of a stream that is written meanwhile, and of one where a new process asks for any row first."""
    one, other = stream("one"), stream("other")
    token_stream.write(one)
    numbers = [0, 7, 300, 900, 2_000, 9_000, 400]
    expected = [rows_of(one)[i] for i in numbers]
    waiting = StreamedRows(other, SIZE, 0, StreamWriter(other))
    for i, row in zip(numbers, expected, strict=True):
        fresh = rows_of(one)  # a resumed run
        for found in (waiting[i], fresh[i]):
            assert all((found[name] == row[name]).all() for name in row)


def test_known_windows_are_not_packed_again(stream, monkeypatch):
    one = stream("one")
    token_stream.write(one)
    last = rows_of(one)[2_500]
    made, packed = streamed_rows.PackedRows, []
    monkeypatch.setattr(
        streamed_rows,
        "PackedRows",
        lambda documents, *rest: packed.append(documents) or made(documents, *rest),
    )
    again = rows_of(one)[2_500]
    assert len(packed) == 1 and all((again[name] == last[name]).all() for name in last)
    (notes,) = one.folder.glob("rows-*.json")
    notes.write_text("{}")
    assert (rows_of(one)[2_500]["tokens"] == last["tokens"]).all()


@pytest.mark.parametrize("file", ["ids.bin", "offsets.npy"])
def test_a_damaged_part_is_named_and_written_anew(stream, capsys, file):
    one = stream("one")
    token_stream.write(one)
    expected = [rows_of(one)[i]["tokens"] for i in range(0, 3_000, 250)]
    damaged = one.part(1) / file
    body = bytearray(damaged.read_bytes())
    body[len(body) // 2] ^= 1
    damaged.write_bytes(body)
    rows = rows_of(one)
    assert all(
        (rows[i]["tokens"] == row).all() for i, row in zip(range(0, 3_000, 250), expected, strict=True)
    )
    assert rows._writer.rebuilt == [1]
    assert f"{damaged} differs from what was written (SHA-256): made anew" in capsys.readouterr().err


def test_a_stream_without_a_document_is_refused(stream, tmp_path):
    one = stream("one", write(tmp_path / "b.jsonl", [{"text": " "}]))
    token_stream.write(one)
    with pytest.raises(ConfigError, match="no document left; check --text_field"):
        rows_of(one)[0]
