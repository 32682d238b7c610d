"""Values as templates write them: JSON, Python's words and quotes, bare keys, texts in marks."""

import pytest

from jaxtrain.data.loose_json import json_at, value_at


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("{a:[1,None,true],b.c:{}}", {"a": [1, None, True], "b.c": {}}),
        ("{'a': 'it\\'s', 'n': -2.5}", {"a": "it's", "n": -2.5}),
        ("'two\nlines\\n'", "two\nlines\n"),
        ("[<q>a, ']<q>, False]", ["a, ']", False]),
        ("<q><q>", ""),
    ],
)
def test_values(text, value):
    assert value_at(text + ",", 0, ("<q>", "<q>")) == (value, len(text))
    assert value_at("x" + text, 1, ("<q>", "<q>")) == (value, len(text) + 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "word",
        "{a:",
        "{a 1}",
        "[1 2]",
        "'open",
        "<q>open",
        "NaN",
        "{" * 5000,
        "[" * 5000,
        "{a:NaN}",
        "'\\x'",
    ],
)
def test_what_is_no_value(text):
    assert json_at(text, 0) is None and value_at(text, 0, ("<q>", "<q>")) is None
