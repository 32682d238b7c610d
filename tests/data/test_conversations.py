"""Conversations from records of the shapes that public data sets have: each field read, or listed as not used."""

import json

import pytest

from jaxtrain.data import record_formats, source_spec
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.record_fields import FieldUse, RecordFields, columns_of
from jaxtrain.data.sources import Records


def opened(*records):
    return Records("test", "mark", lambda numbers: [records[i] for i in numbers], len(records))


def read(record, known=None):
    """(format, what is read, the fields that were not used)."""
    known = known or record_formats.chat("text")
    form = record_formats.detect(opened(record), source_spec.DataSource("jsonl", "x"), known)
    fields = RecordFields(record)
    return form.name, record_formats.read(fields, form), list(fields.unused())


def spelt(messages):
    """The messages as text; « » around what is in the loss."""
    return "".join(
        f"{m['role'][0]}«{m['content']}»"
        if m["role"] == "assistant" and m.get("train", True)
        else f"{m['role'][0]}({m['content']})"
        for m in messages
    )


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARED = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
HH = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:"
SHAPES = {  # name: record, format, what is read, fields that are not used
    "Dolly": (
        {"instruction": "q", "context": " c\n", "response": "a", "category": "qa"},
        ("instruction", "u(q\n\nc)a«a»", ["category"]),
    ),
    "Dolly without context": (
        {"instruction": "q", "context": "", "response": "a"},
        ("instruction", "u(q)a«a»", []),
    ),
    "Alpaca with history": (
        {
            "instruction": "q",
            "input": "i",
            "output": "a",
            "system": "s",
            "history": [["x", "y"]],
            "text": "…",
        },
        ("instruction", "s(s)u(x)a(y)u(q\n\ni)a«a»", ["text"]),
    ),
    "history of messages": (
        {"instruction": "q", "output": "a", "history": SHARED},
        ("instruction", "u(q)a(a)u(q)a«a»", []),
    ),
    "history as JSON": (
        {"instruction": "q", "output": "a", "history": '[["x", "y"]]'},
        ("instruction", "u(x)a(y)u(q)a«a»", []),
    ),
    "history that begins with the model": (
        {"instruction": "q", "output": "a", "history": [["", "y"]]},
        ("instruction", "a(y)u(q)a«a»", []),
    ),
    "Arrow's nulls": (
        {"instruction": "q", "input": None, "output": "a", "system": None, "history": None, "tools": None},
        ("instruction", "u(q)a«a»", []),
    ),
    "system beside a prompt": (
        {"system_prompt": "s", "prompt": "q", "completion": "a"},
        ("completion", "s(s)u(q)a«a»", []),
    ),
    "GSM8K": (
        {"question": "q", "answer": "1+1=<<1+1=2>>2\n#### 2"},
        ("question", "u(q)a«1+1=<<1+1=2>>2\n#### 2»", []),
    ),
    "OpenOrca": (
        {"id": "1", "system_prompt": "s", "question": "q", "response": "a"},
        ("question", "s(s)u(q)a«a»", ["id"]),
    ),
    "MATH": (
        {"problem": "q", "solution": "long", "answer": "2", "level": 5},
        ("question", "u(q)a«long»", ["answer", "level"]),
    ),
    "FLAN": ({"inputs": "q", "targets": "a", "task": "t"}, ("question", "u(q)a«a»", ["task"])),
    "input and output": ({"input": "q", "output": "a"}, ("question", "u(q)a«a»", [])),
    "question about a context": (
        {"question": "q", "context": "c", "answer": "a"},
        ("question", "u(q\n\nc)a«a»", []),
    ),
    "prompt and response": ({"prompt": "q", "response": "a"}, ("question", "u(q)a«a»", [])),
    "UltraChat": ({"id": "1", "data": ["q", "a", "r", "b"]}, ("conversations", "u(q)a«a»u(r)a«b»", ["id"])),
    "LIMA": (
        {"conversations": ["q", "a"], "source": "s"},
        ("conversations", "u(q)a«a»", ["source"]),
    ),
    "Capybara": (
        {"source": "s", "conversation": [{"input": "q", "output": "a"}, {"input": "r", "output": "b"}]},
        ("conversations", "u(q)a«a»u(r)a«b»", ["source"]),
    ),
    "LMSYS": (
        {"conversation_id": "1", "conversation": TURNS, "language": "en", "redacted": False},
        ("conversations", "u(q)a«a»", ["conversation_id", "language", "redacted"]),
    ),
    "ShareGPT with its system message": (
        {"system": "s", "conversations": SHARED, "source": ""},
        ("conversations", "s(s)u(q)a«a»", []),
    ),
    "a system message twice": (
        {"system": "s", "messages": [{"role": "system", "content": "s"}, *TURNS]},
        ("messages", "s(s)u(q)a«a»", []),
    ),
    "another system message beside the messages": (
        {"system": "t", "messages": [{"role": "system", "content": "s"}, *TURNS]},
        ("messages", "s(s)u(q)a«a»", ["system"]),
    ),
    "no_robots": (
        {"prompt": "q", "prompt_id": "1", "messages": TURNS, "category": "c"},
        ("messages", "u(q)a«a»", ["prompt", "prompt_id", "category"]),
    ),
    "a prompt of turns": ({"prompt": HH, "completion": " b"}, ("completion", "u(q)a(a)u(r)a« b»", [])),
    "a stored completion": (
        {
            "input": TURNS[:1],
            "choices": [{"finish_reason": "stop", "message": TURNS[1] | {"refusal": None}}],
            "metadata": {},
            "model": "m",
        },
        ("stored", "u(q)a«a»", ["model"]),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_public_shapes(name):
    record, wanted = SHAPES[name]
    form, dialog, unused = read(record)
    assert (form, spelt(dialog.messages), unused) == wanted


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
WIDE = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "default": None}}}


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({"tools": [WIDE]}, {"tools": [TOOL]}),
        ({"tools": json.dumps([WIDE])}, {"tools": [TOOL]}),
        ({"functions": [TOOL["function"]]}, {"tools": [TOOL]}),
        ({"documents": [{"title": "t", "text": "x"}]}, {"documents": [{"title": "t", "text": "x"}]}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"chat_template_kwargs": '{"k": 1}', "tools": [TOOL]}, {"k": 1, "tools": [TOOL]}),
        ({"tools": [], "documents": "", "chat_template_kwargs": {}}, {}),
    ],
)  # fmt: skip
def test_variables_of_the_template(fields, variables):
    for record in (
        {"messages": TURNS},
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "output": "a"},
    ):
        _, dialog, unused = read(record | fields)
        assert dialog.template_kwargs == variables and not unused
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"} | fields
    assert read(pair, record_formats.COMPARED)[1].template_kwargs == variables
    judged = {"prompt": "q", "completion": "a", "label": True} | fields
    assert read(judged, record_formats.COMPARED)[1].template_kwargs == variables
    assert read({"prompt": "q"} | fields, record_formats.PROMPT)[1].template_kwargs == variables


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"context": ["c"]}, "no text: context is not a string but list"),
        ({"system": {"text": "s"}}, "no text: system is not a string but dict"),
        ({"history": "x"}, "no history: history is not a list of .question, answer. pairs"),
        ({"history": [["a", "b", "c"]]}, "no history: history.0. is not a pair"),
        ({"history": [["a", 3]]}, "no text: history.0. is not a string but int"),
        ({"history": [{"a": 1}]}, "unknown role: history.0. has None"),
        ({"tools": {"name": "f"}}, "no tools: tools is not a list of objects"),
        ({"tools": ["f"]}, "no tools: tools is not a list of objects"),
        ({"tools": "f("}, "no JSON: tools is a string that is none"),
        ({"tools": [{"name": "\ud83d"}]}, "no text: tools holds half a surrogate pair"),
        ({"tools": '[{"name": "\\ud83d"}]'}, "no text: tools holds half a surrogate pair"),
        ({"documents": "[3]"}, "no documents: documents is not a list of objects"),
        ({"chat_template_kwargs": [1]}, "no template variables: chat_template_kwargs is not an object"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs cannot set messages"),
    ],
)
def test_a_field_that_cannot_be_read_as_its_name_says_is_a_bad_record(fields, reason):
    record = {"instruction": "q", "output": "a"} | fields
    with pytest.raises(
        BadRecord, match=rf"{reason}.*; --columns={next(iter(fields))}: leaves the field unread"
    ):
        read(record)
    unread = RecordFields(record, columns_of(f"{next(iter(fields))}:"))
    form = next(one for one in record_formats.CHAT if one.name == "instruction")
    assert spelt(record_formats.read(unread, form).messages) == "u(q)a«a»"
    assert list(unread.unused()) == list(fields)


def test_a_prompt_is_read_without_an_answer_that_is_no_text():
    known = record_formats.PROMPT
    for answer in (5, ["a"], {"value": 2}, "", " "):
        form, dialog, _ = read({"question": "q", "answer": answer, "system": "s"}, known)
        assert (form, spelt(dialog.messages)) == ("question", "s(s)u(q)")
    assert spelt(read({"question": "q", "answer": "a"}, known)[1].messages) == "u(q)a«a»"
    assert spelt(read({"prompt": "q", "answer": 5, "context": "c"}, known)[1].messages) == "u(q\n\nc)"
    assert spelt(read({"instruction": "q", "input": "i"}, known)[1].messages) == "u(q\n\ni)"


def test_fields_are_counted_over_records_and_those_of_later_versions_named():
    use = FieldUse()
    records = [{"instruction": "q", "output": "a", "id": i, "note": "n" * (i > 1)} for i in range(4)]
    form = record_formats.detect(opened(*records), source_spec.DataSource("jsonl", "x"), record_formats.CHAT)
    skips = record_formats.Skips("skip")
    bad = [*records, {"instruction": "q", "output": "", "id": 9}]
    list(record_formats.each(opened(*bad), form, skips, lambda item: item, lambda done: None, use))
    assert use.counts() == {"unused": {"id": 4, "note": 2}, "further": []} and len(skips) == 1
    for extra in ({"context": "c"}, {"system": "s"}, {"history": [["x", "y"]]}, {"tools": [TOOL]}):
        use, record = FieldUse(), records[0] | extra
        list(record_formats.each(opened(record), form, skips, lambda item: item, lambda done: None, use))
        assert use.counts()["further"] == list(extra), "another text, so another fingerprint"


def test_values_nested_too_deeply_are_bad_records():
    deep = []
    for _ in range(5_000):
        deep = [deep]
    skips = record_formats.Skips("skip")
    records = opened({"messages": [TURNS[0] | {"x": deep}, TURNS[1]]}, {"messages": TURNS})
    form = record_formats.detect(records, source_spec.DataSource("jsonl", "x"), record_formats.CHAT)
    assert [i for i, _ in record_formats.each(records, form, skips, spelt_of, lambda done: None)] == [1]
    assert skips.first["reason"].startswith("nested too deeply")


def spelt_of(item):
    return spelt(item.messages)
