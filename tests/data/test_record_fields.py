"""Fields of records by their own names, what was read of them, and --columns."""

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import record_fields
from jaxtrain.data.record_fields import Column, RecordFields, columns_of


def test_a_field_that_is_read_is_used_and_one_that_is_null_is_not_there():
    record = RecordFields({"a": 1, "b": None, "c": {"x": 1, "y": 2}, "d": "", "e": [], "f": 0})
    assert list(record) == ["a", "c", "d", "e", "f"] and "b" not in record and record.nulls == ("b",)
    assert list(record.unused()) == ["a", "c", "f"], "what holds nothing is missing to nobody"
    assert record.peek("a") == 1 and record.first(["b", "c", "a"]) == "c" and record.first(["z"]) == ""
    assert list(record.unused()) == ["a", "c", "f"], "looking is not reading"
    assert record["a"] == 1 and record.get("b") is None
    record.use("c", "x")
    assert list(record.unused()) == ["c.y", "f"]
    assert "b" in RecordFields({"b": None}, nulls=True)


def test_columns_name_fields_by_paths():
    columns = columns_of("prompt:input.messages, tools:input.tools ,chosen:rejected,rejected:chosen,system:")
    record = RecordFields(
        {
            "input": {"messages": ["q"], "tools": [], "n": 1},
            "chosen": "b",
            "rejected": "a",
            "system": "s",
            "prompt": "own",
        },
        columns,
    )
    assert dict(record) == {"prompt": ["q"], "tools": [], "chosen": "a", "rejected": "b"}
    assert list(record.unused()) == ["input.n", "system", "prompt"]
    assert [one.label for one in columns][:2] == ["prompt:input.messages", "tools:input.tools"]
    assert columns_of(" ") == () and columns_of("a:b") == (Column("a", ("b",)),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prompt", "write OURS:THEIRS, such as prompt:question"),
        ("prompt:a,", "write OURS:THEIRS"),
        (":a", "write OURS:THEIRS"),
        ("prompt:a..b", "write OURS:THEIRS"),
        ("prompt:a,prompt:b", "it names a field twice"),
    ],
)
def test_columns_that_cannot_be(text, reason):
    with pytest.raises(ConfigError, match=reason):
        columns_of(text)


def test_paths_of_a_record():
    record = {"a": {"b": None, "c": {"d": 1}}, "e": 2}
    assert list(record_fields.field_paths(record)) == ["a", "a.b", "a.c", "a.c.d", "e"]
    assert record_fields.has_path(record, ["a", "b"]) and record_fields.has_path(record, ["e"])
    assert not record_fields.has_path(record, ["e", "x"]) and not record_fields.has_path(record, ["x"])
    assert record_fields.value_at(record, ["a", "c", "d"]) == 1 and record_fields.value_at(record, []) is None
