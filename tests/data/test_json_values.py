"""Values of JSON texts, read in small steps as from large files."""

import io
import json

import pytest

from jaxtrain.data import json_values
from jaxtrain.data.json_values import Broken, values

RECORDS = [{"a": i, "text": 'x"]}{[\\' * (i % 7), "in": [{"b": [i, None]}]} for i in range(30)]


@pytest.fixture(params=[1, 7, 64, 1 << 20])
def block(request, monkeypatch):
    """How many characters are read at once."""
    monkeypatch.setattr(json_values, "_BLOCK", request.param)


def found(text, beside=lambda key, others: None):
    return list(values(io.StringIO(text, newline=""), beside))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        json.dumps(RECORDS, indent=2)[:-2] + ",\n]\n",
        "\n".join(json.dumps(one, indent=1) for one in RECORDS),
        "".join(map(json.dumps, RECORDS)),
        json.dumps({"object": "list", "data": RECORDS, "n": 30}),
        json.dumps({"n": {"of": [1, "]"]}, "rows": RECORDS}, indent=1),
        json.dumps(RECORDS[:9]) + "\n" + json.dumps(RECORDS[9:]),
    ],
)
def test_the_records_and_their_lines(block, text):
    some = found(text)
    assert [json.loads(one.text) for one in some] == RECORDS
    lines = text.split("\n")
    assert all(lines[one.line - 1].lstrip(" [").find(one.text.split("\n")[0]) >= 0 for one in some)


def test_what_stands_beside_the_list(block):
    noted = []
    assert len(found('{"v": 1, "data": [{"a": 1}], "w": [2]}', lambda *args: noted.append(args))) == 1
    assert noted == [("data", ["v", "w"])]


def test_a_bad_record_is_one_and_the_next_are_read(block):
    text = '[{"a": 1}, {"a": x}, 5, "s,]", null, {"a" 1}, {"a": 2}]'
    assert [one.text for one in found(text)] == [
        '{"a": 1}', '{"a": x}', "5", '"s,]"', "null", '{"a" 1}', '{"a": 2}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "read", "says"),
    [
        ('[{"a": 1},\n {"b', 1, "cut off in the value that begins on line 2"),
        ('[{"a": 1},\n', 1, "cut off on line 2"),
        ('[{"a": 1}\n x]', 1, "line 2: 'x' where"),
        ('{"a": {"b": 1}', 0, "cut off in the value that begins on line 1"),
        ('{"a": 1}\n]', 1, "line 2: ']' where a value must begin"),
        ('{"data": [{"a": 1}], "x": ', 1, "cut off on line 1"),
        ('{"data": [{"a": 1}], x}', 1, "line 1: 'x' where a key must begin"),
        ('[{"a": "never closed}, {"a": 1}]', 0, "cut off in the value that begins on line 1"),
    ],
)
def test_where_the_text_is_broken(block, text, read, says):
    some = []
    with pytest.raises(Broken, match=says):
        for one in values(io.StringIO(text), lambda key, others: None):
            some.append(one)
    assert len(some) == read


def test_a_record_without_end_is_not_read_into_memory(monkeypatch):
    monkeypatch.setattr(json_values, "_BLOCK", 100)
    monkeypatch.setattr(json_values, "LONGEST", 1_000)
    stream = io.StringIO('[{"a": 1}, {"a": "' + "x" * 100_000)
    with pytest.raises(Broken, match="longer than 1,000 characters"):
        list(values(stream, lambda key, others: None))
    assert stream.tell() < 3_000


def test_a_long_array_is_read_bit_by_bit(monkeypatch):
    monkeypatch.setattr(json_values, "_BLOCK", 1_000)
    stream = io.StringIO(json.dumps([{"text": "x" * 100}] * 1_000))
    some = values(stream, lambda key, others: None)
    for _ in range(10):
        next(some)
    assert stream.tell() < 5_000
