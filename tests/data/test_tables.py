"""Tables as records: cells of delimited text, values of Arrow."""

import datetime
import decimal
import io
import struct
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxtrain.data import read_limits, tables

ANY = read_limits.Expansion(read_limits.DEFAULT, "a", 0)


def rows(text, delimiter=",", limits=read_limits.DEFAULT):
    return list(tables.delimited(io.StringIO(text, newline=""), delimiter, limits))


def test_quotes_line_ends_and_the_lines_on_which_rows_begin():
    found = rows('\ufeffa,b\r\n"x ""y"", z","1\r\n2"\r\n\r\n,last\r\n')
    assert [(row.number, row.record) for row in found] == [
        (2, {"a": 'x "y", z', "b": "1\r\n2"}),
        (5, {"a": "", "b": "last"}),
    ]


def test_cells_are_texts_but_in_columns_where_no_text_has_a_meaning():
    header = "prompt,completion,label,ranking,messages,score,chosen"
    row = '007,42,True,"[1, 2]","[{""role"": ""user"", ""content"": ""x""}]",1.5,"[{""role"": ""user""}]"'
    empty = "1e3,true,,,,,[1]"
    assert [one.record for one in rows(f"{header}\n{row}\n{empty}\n")] == [
        {"prompt": "007", "completion": "42", "label": True, "ranking": [1, 2],
         "messages": [{"role": "user", "content": "x"}], "score": 1.5, "chosen": [{"role": "user"}]},
        {"prompt": "1e3", "completion": "true", "label": None, "ranking": None, "messages": None, "score": None,
         "chosen": "[1]"},
    ]  # fmt: skip


def test_bad_rows_are_told_apart_with_their_bytes():
    found = rows('a,b\n1,2,3\n"x"y,1\nok,ok\nz\ncaf\udce9,1\n')
    assert [(row.number, row.wrong) for row in found] == [
        (2, "3 fields where the header has 2"),
        (3, "no row of a table (',' expected after '\"')"),
        (4, ""),
        (5, "1 fields where the header has 2"),
        (6, "invalid UTF-8"),
    ]
    assert [row.raw for row in found if row.wrong] == [b"1,2,3\n", b'"x"y,1\n', b"z\n", b"caf\xe9,1\n"]


def test_a_column_without_a_name_has_its_number_and_two_of_a_name_are_refused():
    assert rows(",a\n0,x\n")[0].record == {"column 1": "0", "a": "x"}
    with pytest.raises(tables.Unreadable, match="'a' twice"):
        rows("a,a\n1,2\n")


def test_a_quote_without_end_names_its_line():
    with pytest.raises(tables.Unreadable, match="a quote in the row that begins on line 3 has no end"):
        rows('a,b\n1,2\n3,"4\n' + "5,6\n" * 2_000)


def test_a_long_field_is_read():
    assert len(rows("a,b\n" + "x" * 300_000 + ",1\n")[0].record["a"]) == 300_000


def arrow_rows(table, batch=None):
    file, counts = io.BytesIO(), Counter()
    pq.write_table(table, file)
    file.seek(0)
    return list(tables.parquet(file, counts, ANY)), counts


def test_values_of_arrow_as_json_has_them():
    day, moment = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3, 4, 5)
    table = pa.table({
        "large": pa.array(["x", None], pa.large_string()),
        "category": pa.array(["y", "y"]).dictionary_encode(),
        "day": [day, None],
        "moment": pa.array([moment, None], pa.timestamp("ns")),
        "price": [decimal.Decimal("1.50"), decimal.Decimal("2.00")],
        "real": [1.5, float("nan")],
        "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        "messages": [
            [{"role": "user", "content": "q", "calls": None}], [{"role": "tool", "content": "r", "calls": [1]}],
        ],
        "bytes": pa.array([b"text", b"\xff"], pa.binary()),
        "bool": [True, False],
    })  # fmt: skip
    found, counts = arrow_rows(table)
    assert found[0] == (1, {
        "large": "x", "category": "y", "day": "2024-01-02", "moment": "2024-01-02 03:04:05.000000000", "price": 1.5,
        "real": 1.5, "map": {"k": 1}, "messages": [{"role": "user", "content": "q"}], "bytes": "text", "bool": True,
    }, "", b"")  # fmt: skip
    assert found[1].record == {
        "large": None, "category": "y", "day": None, "moment": None, "price": 2, "real": None, "map": [],
        "messages": [{"role": "tool", "content": "r", "calls": [1]}], "bytes": None, "bool": False,
    }  # fmt: skip
    assert counts == {"bytes": 1}


def strings(offsets, content):
    """A batch with one column of text from raw buffers."""
    buffers = [None, pa.py_buffer(struct.pack(f"<{len(offsets)}i", *offsets)), pa.py_buffer(content)]
    return pa.record_batch([pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)], names=["a"])


def streamed(batch):
    file = io.BytesIO()
    with pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    file.seek(0)
    return file


def test_text_that_is_no_utf8_is_binary_data():
    counts = Counter()
    found = list(tables.arrow(streamed(strings([0, 1, 2, 3], b"a\xffb")), True, counts, ANY))
    assert [row.record["a"] for row in found] == ["a", None, "b"] and counts == {"a": 1}


def test_damaged_columns_are_refused_and_do_not_end_the_process():
    with pytest.raises(tables.Unreadable, match="offset"):
        list(tables.arrow(streamed(strings([0, 1 << 30, 2, 3], b"abc")), True, Counter(), ANY))


def test_a_large_table_is_read_batch_by_batch():
    table = pa.table({"a": list(range(5_000))})
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2_000)
    file.seek(0)
    assert [row.record["a"] for row in tables.arrow(file, False, Counter(), ANY)] == list(range(5_000))
    with pytest.raises(tables.Unreadable):
        list(tables.arrow(io.BytesIO(b"ARROW1\0\0junk"), False, Counter(), ANY))
