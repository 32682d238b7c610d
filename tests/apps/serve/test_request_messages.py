"""Messages and tools of requests: what is read of them, and that no malformed field gets further."""

import random

import pytest

from jaxtrain.apps.serve import request_params
from jaxtrain.apps.serve.errors import ApiError
from jaxtrain.apps.serve.request_messages import read_messages, read_template_kwargs, read_tools

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": null}'}}


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": None, "annotations": [{"a": 1}]}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": "A", "refusal": None, "audio": None, "reasoning_content": "hm"},
         {"role": "assistant", "content": "A", "reasoning_content": "hm"}),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]},
         {"role": "assistant", "content": "", "tool_calls": [CALL]}),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": None}}}]},
         {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": null}'}}]}),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]},
         {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": "{oops"}},
         {"role": "assistant", "content": "",
          "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{oops"}}]}),
        ({"role": "function", "content": "7", "name": "f"}, {"role": "tool", "content": "7", "name": "f"}),
        ({"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
         {"role": "developer", "content": "ab"}),
        ({"role": "user", "content": ""}, {"role": "user", "content": ""}),
    ],
)  # fmt: skip
def test_messages_as_templates_take_them(message, read):
    assert read_messages("messages", [message]) == (read,)


def test_tools_and_variables():
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}
    assert read_tools("tools", [tool]) == (tool,)
    assert read_template_kwargs("chat_template_kwargs", {"enable_thinking": False}) == {
        "enable_thinking": False
    }
    for value in ({"messages": []}, {"tools": []}, [], "x", {"a": "\ud800"}):
        with pytest.raises(ApiError):
            read_template_kwargs("chat_template_kwargs", value)


VALUES = [None, True, 0, -1, 1.5, 1e300, 10**30, "", "x", "\ud800", [], [1], ["x"], [[]], [None], {}, {"a": 1}, [{}],
    {"type": "function"}, [{"type": "function", "function": {"name": "f", "parameters": []}}], [{"role": "user"}],
    [{"role": "assistant", "tool_calls": [5]}], [{"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}],
    [{"role": "assistant", "content": [{"type": "text", "text": {}}]}], [{"role": "user", "content": "\ud800"}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}],
    [{"type": "function", "function": {"name": "f", "parameters": {"properties": []}}}],
    [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": 5}}}}]]  # fmt: skip


@pytest.mark.parametrize("parse, required", [
    (request_params.chat_params, {"messages": [{"role": "user", "content": "Hi"}]}),
    (request_params.text_params, {"prompt": "Hi"}),
])  # fmt: skip
def test_every_field_takes_a_value_or_is_a_bad_request(parse, required):
    names = [*(request_params.CHAT if "messages" in required else request_params.TEXT), "unknown"]
    refused = 0
    for name in names:
        for value in VALUES:
            try:
                parse({"model": "m", **required, name: value})
            except ApiError as error:
                assert error.status == 400 and (error.param or "").startswith(name[:4]), (name, value)
                refused += 1
    assert refused > len(names) * 5
    rng = random.Random(0)
    for _ in range(300):
        body = {"model": "m", **required} | {rng.choice(names): rng.choice(VALUES) for _ in range(3)}
        try:
            parse(body)
        except ApiError as error:
            assert error.status == 400
