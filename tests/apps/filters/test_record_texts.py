"""Where the texts of a record stand, whatever its format, and the record with others in their place."""

import json
import math

import pytest

from jaxtrain.apps.filters import record_texts
from jaxtrain.apps.filters.types import Finding


@pytest.mark.parametrize(
    "record, learnt, given",
    [
        ({"text": "a", "defect": "b", "n": 1}, ["text"], []),
        ({"prompt": "p", "completion": "c", "label": True}, ["completion"], ["prompt"]),
        ({"instruction": "i", "input": "", "output": "o"}, ["output"], ["instruction", "input"]),
        (
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]},
            ["messages[1].content"],
            ["messages[0].content"],
        ),
        (
            {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "v"}]},
            ["conversations[1].value"],
            ["conversations[0].value"],
        ),
        (
            {"messages": {"role": ["user", "assistant"], "content": ["u", "v"]}},
            ["messages.content[1]"],
            ["messages.content[0]"],
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]},
            ["messages[0].content[0].text"],
            [],
        ),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, ["chosen"], ["prompt", "rejected"]),
        (
            {"prompt": "p", "completions": ["a", "b"], "ranking": [1, 0]},
            ["completions[0]", "completions[1]"],
            ["prompt"],
        ),
    ],
)
def test_parts_of_every_format(record, learnt, given):
    found = record_texts.find_texts(record)
    assert [record_texts.path_text(part.path) for part in found if part.is_target] == learnt
    assert [record_texts.path_text(part.path) for part in found if not part.is_target] == given
    changed = record
    for part in found:
        changed = record_texts.replace_text(changed, part.path, part.text + "!")
    assert [part.text for part in record_texts.find_texts(changed)] == [part.text + "!" for part in found]
    assert record == json.loads(json.dumps(record)), "the original is as it was"


def test_the_named_field_is_the_text():
    assert [part.text for part in record_texts.find_texts({"body": "b", "text": "t"}, "body")] == ["b"]


def test_a_prompt_alone_is_judged_and_beside_an_answer_it_is_not():
    assert [p.text for p in record_texts.targets(record_texts.find_texts({"prompt": "p"}))] == ["p"]
    assert [
        p.text for p in record_texts.targets(record_texts.find_texts({"prompt": "p", "completion": "c"}))
    ] == ["c"]


def test_masking_covers_overlapping_findings_whole():
    found = [Finding("b", 1, (4, 9), "<B>"), Finding("a", 1, (2, 6), "<A>"), Finding("c", 1, (11, 12), "<C>")]
    assert record_texts.mask_findings("0123456789abcd", found) == "01<A>9a<C>cd"
    assert record_texts.mask_findings("text", [Finding("n", 1)]) == "text"
    assert record_texts.mask_findings("text", [Finding("n", 1, None, "<T>")]) == "<T>"


def test_every_string_is_found_and_replaced():
    record = {
        "text": "a", "tags": ["b", {"c": "d"}], "n": 3, "x": None, "ok": True, "number": 4155552671,
        "by": {"e@f": "g", "h": {"e@f": ["i"]}}, "columns": {"role": ["user"], "content": ["j"]},
    }  # fmt: skip
    found = record_texts.find_strings(record)
    assert [(record_texts.path_text(one.path), one.text) for one in found] == [
        ("text", "a"), ("tags[0]", "b"), ("tags[1].c", "d"), ("number", "4155552671"), ("by.e@f (name)", "e@f"),
        ("by.e@f", "g"), ("by.h.e@f (name)", "e@f"), ("by.h.e@f[0]", "i"), ("columns.role[0]", "user"),
        ("columns.content[0]", "j"),
    ]  # fmt: skip
    assert [one.field for one in found][:5] == ["text", "tags", "c", "number", ""]
    assert record_texts.field_pattern(found[-1].path) == "columns.content[]"
    assert record_texts.field_pattern(found[5].path) == "by.*"
    changed = record_texts.replace_strings(record, {one.path: one.text.upper() for one in found})
    assert changed["tags"] == ["B", {"c": "D"}] and changed["by"] == {"E@F": "G", "h": {"E@F": ["I"]}}
    assert changed["n"] == 3 and changed["x"] is None and changed["ok"] is True
    assert record["tags"] == ["b", {"c": "d"}], "the original is as it was"


def test_masked_names_of_fields_stay_apart():
    record = {"a@b": 1, "<M>": 2, "c@d": 3}
    paths = {(record_texts.FieldName(name),): "<M>" for name in ("a@b", "c@d")}
    assert record_texts.replace_strings(record, paths) == {"<M> 2": 1, "<M>": 2, "<M> 3": 3}


def test_a_deep_record_is_searched():
    deep = "end"
    for _ in range(5_000):
        deep = [deep]
    assert [one.text for one in record_texts.find_strings({"a": deep})] == ["end"]


def test_a_line_of_json_has_no_bare_nan():
    row = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1.5, "e": "\ud800"}
    line = record_texts.json_line(row)
    assert json.loads(line, parse_constant=pytest.fail) == {
        "a": "NaN", "b": ["Infinity", {"c": "-Infinity"}], "d": 1.5, "e": "\ud800"
    }  # fmt: skip
    assert math.isnan(row["a"]), "the record is as it was"


def test_a_line_of_json_holds_bytes_and_half_a_surrogate_pair():
    assert json.loads(record_texts.json_line({"a": b"\xff\x00"})) == {"a": {"base64": "/wA="}}
    assert json.loads(record_texts.json_line({"a": "é\ud800"})) == {"a": "é\ud800"}
