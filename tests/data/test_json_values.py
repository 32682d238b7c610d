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


def found(text, beside=lambda key, others: None, longest=1 << 20):
    return list(values(io.StringIO(text, newline=""), beside, longest))


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
        for one in values(io.StringIO(text), lambda key, others: None, 1 << 20):
            some.append(one)
    assert len(some) == read


def test_a_record_without_end_is_not_read_into_memory(monkeypatch):
    monkeypatch.setattr(json_values, "_BLOCK", 100)
    stream = io.StringIO('[{"a": 1}, {"a": "' + "x" * 100_000)
    some = values(stream, lambda key, others: None, 1_000)
    next(some)
    with pytest.raises(Broken, match="cut off in the value that begins on line 1"):
        next(some)


LONG = {
    "a string": json.dumps('\\"]}' * 600),
    "an object": json.dumps({"a": ["x]}" * 9, {"b": 'q"}'}] * 60}),
    "a list": json.dumps([[[[i]]] for i in range(600)]),
    "a number": "1" * 2_000,
    "a key": json.dumps({"k" * 2_000: 1}),
    "a list under a key": json.dumps({"x": "y" * 2_000, "data": [{"a": 1}]}),
}


@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
def test_a_value_that_is_too_long_has_its_beginning_and_the_next_are_read(block, monkeypatch, long):
    monkeypatch.setattr(json_values, "HEAD", 50)
    array = f'[{{"a": 1}},\n{long},\n{{"a": 2}}]'
    for text in (array, *([f'{{"rows": {array}}}'] if long[0] == "{" else [])):
        some = found(text, longest=500)
        if len(some[1].text) > 50:  # it was read at once
            assert some[1].text == long
        else:
            assert some[1] == (2, long[:50], len(long))
        assert [(one.line, one.text) for one in (some[0], some[2])] == [(1, '{"a": 1}'), (3, '{"a": 2}')]
    if long[0] == "{":
        assert [one.text for one in found(f'{long}\n{{"a": 2}}', longest=500)][-1] == '{"a": 2}'


def test_white_space_without_end_takes_no_memory(monkeypatch):
    monkeypatch.setattr(json_values, "_BLOCK", 100)
    assert [one.text for one in found("[" + " " * 100_000 + '{"a": 1}]', longest=500)] == ['{"a": 1}']


def test_a_long_array_is_read_bit_by_bit(monkeypatch):
    monkeypatch.setattr(json_values, "_BLOCK", 1_000)
    stream = io.StringIO(json.dumps([{"text": "x" * 100}] * 1_000))
    some = values(stream, lambda key, others: None, 1_000)
    for _ in range(10):
        next(some)
    assert stream.tell() < 5_000


def test_a_long_value_of_short_strings_ends_where_json_says_so(block):
    texts = ["\\", "\\\\", '\\"', "]", '"]', "\\\\]", "[{", "}}", '\\" \\\\']
    rows = [{"a": texts * i, "text": json.dumps(texts[: i % 9])} for i in range(12)]
    written = [json.dumps(one) for one in rows]
    deep = "[" * 2_000 + json.dumps(texts) + "]" * 2_000  # deeper than the JSON module reads
    some = found("[" + ", ".join([*written, deep, '"x"']) + "]", longest=300)
    assert [one.size for one in some] == [*map(len, written), len(deep), 3]
    assert [one.text for one in some if one.size <= 300] == [
        *(one for one in written if len(one) <= 300),
        '"x"',
    ]
