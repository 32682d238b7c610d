"""Limits on what is read: long records in every kind of file, and compressed data that expand far."""

import gzip
import io
import json
import os
import socket
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jaxtrain.config import ConfigError
from jaxtrain.data import bad_records, compressed, file_records, read_limits
from jaxtrain.data.file_records import ReadNotes
from jaxtrain.data.read_limits import Expansion, ReadLimits
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
        compressed.decompressed(
            io.BufferedReader(io.BytesIO(gzip.compress(empty))), "a", Expansion(LIMITS, "a", 100)
        )


def test_a_block_of_zstandard_at_a_time(written):
    content = bytes(60 << 20)
    tracemalloc.start()
    stream, _ = compressed.decompressed(
        io.BufferedReader(io.BytesIO(ZST(content))), "a", Expansion(ReadLimits(1_000, 1e6), "a", 100)
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


def zipped(members, how=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_archives_and_layers_inside_archives_count_as_one_file(written, monkeypatch):
    monkeypatch.setattr(read_limits, "FREE", 1 << 16)
    lines = ZST(b'{"text": "a"}\n' * 3_000)  # each member is within the limit
    several = zipped({f"{i}.zst": lines for i in range(9)})
    nested = zipped({f"{i}.zip": zipped({"a.jsonl": b'{"text": "a"}\n' * 3_000}) for i in range(9)})
    for content in (several, nested):
        seen = []
        with pytest.raises(ConfigError, match="expand to more than"):
            seen.extend(file_records.records(written(content), ReadNotes(), limits=LIMITS))
        assert len(seen) < 20_000
        records = read(written(content), ReadLimits(1_000, 1e6))
        assert len(records) == 27_000 and "/8.z" in records[-1].place


def test_an_archive_deep_inside_others_is_refused(written):
    content = zipped({"a.jsonl": b'{"text": "a"}\n'})
    for _ in range(2):
        content = zipped({"in.zip": content})
    assert [one.place for one in read(written(content))] == ["/in.zip/in.zip/a.jsonl:1"]
    with pytest.raises(
        ConfigError, match=r"a/in\.zip/in\.zip/in\.zip: an archive inside 3 others; unpack them"
    ):
        read(written(zipped({"in.zip": content})))


def column(value, count):
    """A column of one value, which its file holds once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


TABLES = {
    "long values": lambda: {"text": column("a" * 100_000, 400)},
    "values in lists": lambda: {"l": pa.ListArray.from_arrays(np.arange(401), column("a" * 100_000, 400))},
    "a long list": lambda: {"l": pa.ListArray.from_arrays([0, 3_000_000], pa.array(np.zeros(3_000_000, np.int8)))},
    "a large page": lambda: {"text": ["a" * 20_000_000]},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_that_stands_for_much_takes_little_memory(written, monkeypatch, name, kind):
    monkeypatch.setattr(read_limits, "FREE", 1 << 20)
    file, table = io.BytesIO(), pa.table(TABLES[name]())
    if kind == "parquet":
        pq.write_table(table, file, compression="zstd")
    else:
        with pa.ipc.new_file(
            file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
        ) as writer:
            writer.write_table(table)
    path = written(file.getvalue())
    assert path.stat().st_size < 10_000
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=f"^{path}: .* expand to more than .* raise --max_expansion"):
            read(path, ReadLimits(1 << 18, 50))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert most < 8 << 20 and pool.max_memory() < 8 << 20


def test_a_file_that_changes_while_it_is_read_is_an_error(written):
    content = b'{"text": "a"}\n' * 9_000
    for change in (
        lambda path: path.write_bytes(content * 2),
        lambda path: os.truncate(path, 60_000),
        lambda path: path.with_name("other").replace(path),
    ):
        path = written(content)
        written(content, "other")
        records = file_records.records(path, ReadNotes())
        next(records)
        change(path)
        with pytest.raises(ConfigError, match=f"{path}: it changed while it was read|{path}:.*"):
            for record in records:
                if record.wrong:
                    raise ConfigError(f"{path}{record.place}")
            pytest.fail("nothing was noticed")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        os.symlink("/dev/zero", tmp_path / "device")
        os.symlink("loop", tmp_path / "loop")
        for name in ("pipe", "device", "socket", "loop", ""):
            with pytest.raises(
                ConfigError, match=f"^{tmp_path / name}: (it is not a regular file|cannot be read)"
            ):
                read(tmp_path / name)
            with pytest.raises(ConfigError, match=f"^{tmp_path / name}: "):
                file_records.kind_of(tmp_path / name)


def test_an_error_of_the_disk_names_the_file(tmp_path):
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("no file here whose reading fails")
    with pytest.raises(ConfigError, match=r"^/proc/self/mem: cannot be read \(Input/output error\)"):
        read("/proc/self/mem")


def test_many_blank_lines_are_counted_and_not_read_one_by_one(written):
    content = b'{"text": "a"}\n' + b"\n" * 3_000_000 + b'{"text": "b"}\n\n{"text": "c"}' + b"\n" * 70
    assert [one.place for one in read(written(content))] == [":1", ":3000002", ":3000004"]
