"""Messages from every form that records have them in; what is no message says why."""

import pytest

from jaxtrain.data import messages
from jaxtrain.data.messages import BadRecord, completion_of, in_loss, messages_of

ASK, ANSWER = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yo."}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
FORMS = {
    "messages": [ASK, ANSWER],
    "sharegpt": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yo."}],
    "pairs": [{"input": "Hi?", "output": "Yo."}],
    "sides": [{"user": "Hi?", "assistant": "Yo."}],
    "strings": ["Hi?", "Yo."],
    "JSON": '[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yo."}]',
    "object of lists": {"role": ["user", "assistant"], "content": ["Hi?", "Yo."]},
    "capitals": [{"role": "User", "content": "Hi?"}, {"role": " ASSISTANT", "content": "Yo."}],
    "parts": [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "H"}, "i", {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": [{"type": "output_text", "text": "Yo.", "image_url": None}]},
    ],
    "nulls of Arrow": [ASK | {"tool_calls": None, "name": None}, ANSWER | {"tool_calls": [], "weight": None}],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_as_the_same_messages(form):
    assert messages_of(FORMS[form], "turns") == (ASK, ANSWER)


def one(**fields):
    return messages_of([{"role": "assistant", **fields}], "m")[0]


def test_further_fields_stay_in_the_message():
    thought = one(content="4", reasoning_content="2+2", extra={"a": [None, {"b": None, "c": 1}]})
    assert thought == {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "2+2",
        "extra": {"a": [None, {"c": 1}]},
    }
    assert one(content=None, thinking="hm") == {"role": "assistant", "content": "", "thinking": "hm"}
    parts = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "4"}]
    assert one(content=parts) == {"role": "assistant", "content": "4", "thinking": "hm"}
    assert one(content=None, refusal="I cannot.")["content"] == "I cannot."
    assert one(content=[{"type": "refusal", "refusal": "No."}])["content"] == "No."
    assert messages_of([{"role": "developer", "content": "Be kind."}], "m")[0]["role"] == "developer"


@pytest.mark.parametrize("role", ["tool", "function", "observation", "ipython", "tool_response"])
def test_results_of_tools_have_one_role(role):
    result = {"role": role, "content": "open", "tool_call_id": "c1"}
    assert messages_of([result], "m") == ({"role": "tool", "content": "open", "tool_call_id": "c1"},)


def test_calls_come_in_one_form():
    wanted = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert one(content=None, tool_calls=[CALL]) == wanted
    assert one(tool_calls=[CALL | {"id": None}]) == wanted
    assert one(content="", function_call={"name": "add", "arguments": {"a": 1}}) == wanted
    text = '[{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]'
    assert one(content=None, tool_calls=text) == wanted
    bare = {"name": "add", "arguments": '{"a": null}'}
    assert one(content=None, tool_calls=[bare])["tool_calls"] == [bare], "JSON in a string stays as it is"
    # Arrow has every argument of every tool in each call.
    wide = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "city": None}}}
    assert one(content=None, tool_calls=[wide]) == wanted


BAD = [
    ({"content": None}, "no text: content of m.0. is not a string but NoneType"),
    ({}, "no text: content of m.0. is not a string but NoneType"),
    ({"content": 4}, "no text: .* not a string but int"),
    ({"content": {"text": "x"}}, "no text: .* not a string but dict"),
    ({"content": " "}, "empty completion"),
    ({"content": "", "tool_calls": []}, "empty completion"),
    (
        {"content": [{"type": "image_url", "image_url": "x"}]},
        "not of type text but 'image_url'; images, sounds",
    ),
    ({"content": [{"type": "tool_use", "name": "f"}]}, "part that is not of type text but 'tool_use'"),
    ({"content": [3]}, "part that is not of type text but None"),
    ({"content": [{"type": "text", "text": None}]}, "no text: content of m.0. is not a string but NoneType"),
    (
        {"content": "x", "tool_calls": {"name": "f"}},
        "no tool call: tool_calls of m.0. is not a list of objects",
    ),
    ({"content": "x", "tool_calls": ["f"]}, "no tool call: tool_calls of m.0. is not a list of objects"),
    ({"content": "x", "tool_calls": [{"function": {}}]}, "no tool call: a call of m.0. has no name"),
    ({"content": "x", "tool_calls": "f("}, "no JSON: tool_calls of m.0. is a string that is none"),
    ({"content": "x", "thinking": ["hm"]}, "no text: thinking of m.0. is not a string but list"),
    ({"content": "x", "note": ["a", {"b": "\ud83d"}]}, "no text: m.0. holds half a surrogate pair"),
    ({"content": "x", "\udc00": 1}, "no text: m.0. holds half a surrogate pair"),
]
for given in ({"g": "\ud83d"}, '{"g": "\\ud83d"}', {"g": [{"\ud83d": 1}]}):
    BAD.append(
        ({"content": None, "tool_calls": [{"name": "f", "arguments": given}]}, "half a surrogate pair")
    )


@pytest.mark.parametrize(("fields", "reason"), BAD)
def test_what_is_no_message_says_why(fields, reason):
    with pytest.raises(BadRecord, match=reason):
        one(**fields)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("Hi", "not a list of messages"),
        ('["Hi"', "no JSON: turns is a string that is none"),
        ({}, "not a list of messages"),
        ({"role": ["user"], "content": ["a", "b"]}, "the lists of turns have different lengths"),
        ([{"input": "a", "output": "b", "context": "c"}], "has input and output, and context beside them"),
        ([{"input": "a"}, {"input": "b", "output": "c"}], "content of turns.0. is not a string but NoneType"),
        ([ASK, {"role": {"name": "x"}, "content": "a"}], "unknown role: turns.1. has "),
    ],
)
def test_what_is_no_list_of_messages_says_why(value, reason):
    with pytest.raises(BadRecord, match=reason):
        messages_of(value, "turns")


def test_a_completion_is_text_or_the_message_that_has_more():
    assert completion_of("Yo.", "c") == completion_of([ANSWER], "c") == completion_of(ANSWER, "c") == "Yo."
    assert completion_of([ANSWER | {"train": True, "weight": 1}], "c") == "Yo."
    assert completion_of([ANSWER | {"thinking": "hm"}], "c") == ANSWER | {"thinking": "hm"}
    called = completion_of([{"role": "assistant", "tool_calls": [CALL]}], "c")
    assert called == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert messages.answer_message(called) == called and messages.answer_message("Yo.") == ANSWER
    for value, reason in (
        ([ASK], "wrong roles"),
        ([ANSWER, ANSWER], "wrong roles"),
        ("\n", "empty completion"),
    ):
        with pytest.raises(BadRecord, match=reason):
            completion_of(value, "c")
    with pytest.raises(BadRecord, match="empty completion: c holds nothing"):
        completion_of([{"role": "assistant", "content": " ", "train": False}], "c")


def test_the_loss_of_a_message():
    assert in_loss(ANSWER) and in_loss({"weight": 1, "train": True}) and in_loss({"weight": None})
    assert not in_loss({"weight": 0}) and not in_loss({"train": False}) and not in_loss({"train": 0})
    for name, value in (("weight", 0.5), ("weight", "0"), ("train", "no"), ("train", float("nan"))):
        with pytest.raises(BadRecord, match=f"unknown weight: {name} is {value!r};"):
            in_loss({name: value})
    assert messages.unlearnt([ANSWER]) == (ANSWER | {"train": False},)


def test_a_conversation_of_many_turns_is_read_in_one_pass():
    many = [ASK, ANSWER] * 5_000
    assert len(messages_of(many, "turns")) == 10_000


def test_a_part_whose_type_is_no_text_makes_a_bad_record():
    for kind in ({"a": 1}, ["text"], 5, None):
        with pytest.raises(BadRecord, match="a part that is not of type text"):
            messages_of([{"role": "user", "content": [{"type": kind, "text": "x"}]}], "messages")
