"""Limits on what is read: long records in every kind of file, and compressed data that expand far."""

import gzip
import io
import json
import tracemalloc
import zipfile

import pytest
import zstandard

from jaxtrain.config import ConfigError
from jaxtrain.data import bad_records, compressed, file_records, read_limits
from jaxtrain.data.file_records import ReadNotes
from jaxtrain.data.read_limits import ReadLimits
from tests.data import file_formats

KINDS = file_formats.FORMATS | file_formats.TABLES
LIMITS = ReadLimits(1_000, 50)
ROWS = [{"text": one, "note": "n"} for one in ("a", "b" * 2_000, "c")]
ZST = zstandard.ZstdCompressor().compress
COMPRESSED = {"gz": gzip.compress, "zst": ZST, "zst in gz": lambda content: gzip.compress(ZST(content))}


def read(path, limits=LIMITS):
    return list(file_records.records(path, ReadNotes(), limits=limits))


@pytest.fixture
def written(tmp_path):
    def write(content, name="a"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", [one for one in KINDS if one != "pages"])  # whose lines hold several records
def test_a_long_record_of_any_file_is_a_bad_one(written, name):
    content = KINDS[name](ROWS)
    one, long, other = (record for record in read(written(content)))
    assert [json.loads(record.text)["text"] for record in (one, other)] == ["a", "c"]
    assert (one.wrong, other.wrong) == ("", "")
    assert long.wrong.startswith("too long: a ") and "more than --max_line_mb=" in long.wrong and long.place
    assert [record.wrong for record in read(written(content), read_limits.DEFAULT)] == [""] * 3


def test_the_limit_counts_bytes_without_the_end_of_the_line(written):
    def lines(size):
        return b'{"text": "' + b"x" * (size - 12) + b'"}'

    for end in (b"\n", b""):
        at, above = read(written(lines(1_000) + end)), read(written(lines(1_001) + end))
        assert [one.wrong for one in at] == [""] and "a line of 1,001 bytes" in above[0].wrong
    number = read(written(lines(2_000_000) + b'\n{"text": "b"}\n'))
    assert "2,000,000 bytes" in number[0].wrong and number[1].place == ":2"


def test_a_long_row_of_a_table_ends_where_its_line_does(written):
    text = 'text,note\na,b\n{},"x"\nc,d\n'.format("y" * 3_000)
    assert [(one.place, bool(one.wrong)) for one in read(written(text.encode()))] == [
        (":2", False), (":3", True), (":4", False),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="a quote in the row that begins on line 3 has no end"):
        read(written(b'text,note\na,b\n"' + b"y\n" * 3_000))
    with pytest.raises(ConfigError, match="header is too long"):
        read(written(b"a," * 3_000 + b"b\n1,2\n", "a.csv"))


def test_a_line_without_end_takes_no_memory(written):
    path = written(gzip.compress(b'{"text": "a"}\n{"text": "' + bytes(30 << 20)))
    tracemalloc.start()
    records = read(path, ReadLimits(1 << 20, 1e6))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 2 and "a line of 31,457,290 bytes" in records[1].wrong and most < 16 << 20


@pytest.mark.parametrize("how", COMPRESSED)
def test_a_bomb_is_refused_before_it_is_read(written, monkeypatch, how):
    monkeypatch.setattr(read_limits, "FREE", 1 << 16)
    path = written(COMPRESSED[how](b'{"text": "a"}\n' * 60_000))
    seen = []
    with pytest.raises(ConfigError, match=f"{path}: .* expand to more than .* raise --max_expansion"):
        seen.extend(file_records.records(path, ReadNotes(), limits=LIMITS))
    assert len(seen) < 30_000
    assert len(read(path, ReadLimits(1_000, 1e6))) == 60_000


def test_repeated_lines_are_read_up_to_a_size_whatever_their_ratio(written):
    path = written(ZST(b'{"text": "the same line"}\n' * 40_000))
    assert path.stat().st_size * 5_000 < 26 * 40_000 and len(read(path, read_limits.DEFAULT)) == 40_000


def test_the_members_of_an_archive_are_counted_together(written, monkeypatch):
    monkeypatch.setattr(read_limits, "FREE", 1 << 16)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"{i}.jsonl", b'{"text": "a"}\n' * 3_000)
    with pytest.raises(ConfigError, match="expand to more than"):
        read(written(file.getvalue()))
    assert len(read(written(file.getvalue()), ReadLimits(1_000, 1e6))) == 12_000


@pytest.mark.parametrize("make", [file_formats.parquet, file_formats.arrow])
def test_rows_that_stand_for_more_than_their_file_are_bounded(written, monkeypatch, make):
    monkeypatch.setattr(read_limits, "FREE", 1 << 16)
    path, seen = written(make([{"text": "a" * 500}] * 3_000)), []
    bound = ReadLimits(1_000, 0.5 * (512 * 3_000) / path.stat().st_size)
    with pytest.raises(ConfigError, match=f"{path}: .* expand to more than .* raise --max_expansion"):
        seen.extend(file_records.records(path, ReadNotes(), limits=bound))
    assert 1_000 < len(seen) < 2_000 and len(read(path, ReadLimits(1_000, 1e6))) == 3_000


def test_layers_that_hold_nothing_are_bounded_too(monkeypatch):
    monkeypatch.setattr(read_limits, "FREE", 1 << 16)
    empty = ZST(b"") * 20_000  # frames without content
    with pytest.raises(ConfigError, match="expand to more than"):
        compressed.decompressed(io.BufferedReader(io.BytesIO(gzip.compress(empty))), "a", LIMITS)


def test_a_block_of_zstandard_at_a_time(written):
    content = bytes(60 << 20)
    tracemalloc.start()
    stream, _ = compressed.decompressed(
        io.BufferedReader(io.BytesIO(ZST(content))), "a", ReadLimits(1_000, 1e6)
    )
    del content
    _, before = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    size = 0
    while block := stream.read(1 << 20):
        size += len(block)
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 60 << 20 and most - now < 8 << 20, before


def test_the_list_of_bad_records_has_the_beginning_of_a_long_one(tmp_path):
    skips = bad_records.Skips("skip")
    for raw in (b"\xc3\xa9" * (1 << 20), b"\xff" * (3 << 20), b"x" * (1 << 20)):
        skips.bad("a:1", "too long", raw)
    rows = [json.loads(line) for line in skips.save(tmp_path).read_text(encoding="utf-8").splitlines()]
    assert rows[0]["line"] == "é" * (1 << 19) and rows[0]["listed_bytes"] == "the first 1,048,576"
    assert len(rows[1]["line_base64"]) < 1_400_000 and "listed_bytes" in rows[1]
    assert len(rows[2]["line"]) == 1 << 20 and "listed_bytes" not in rows[2]
