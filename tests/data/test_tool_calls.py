"""Tool calls of today's models' formats, taken out of texts; what is no whole call stays text."""

import pytest

from jaxtrain.data.tool_calls import KNOWN, ToolCall, Tools, calls_begin, split_calls

TOOLS = Tools({"get": {"city": "string", "n": "integer"}, "b": {}})
ROME, TWO = ToolCall("get", {"city": "Rome"}), [ToolCall("get", {"city": "Rome"}), ToolCall("b", {})]
DEEPSEEK = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
GET, B = '{"name": "get", "arguments": {"city": "Rome"}}', '{"name": "b", "arguments": {}}'
FORMATS = {
    "hermes": (f"<tool_call>\n{GET}\n</tool_call>\n<tool_call>\n{B}\n</tool_call>", TWO),
    "hermes, no end": (f"<tool_call>{GET}", [ROME]),
    "hermes, a list": (f"<tool_call>[{GET}, {B}]</tool_call>", TWO),
    "hermes, no arguments": ('<tool_call>{"name": "b", "arguments": null}</tool_call>', [ToolCall("b", {})]),
    "mistral": (f"[TOOL_CALLS] [{GET}, {B}]", TWO),
    "mistral, names": ('[TOOL_CALLS]get[ARGS]{"city": "Rome"}[TOOL_CALLS]b[CALL_ID]x1[ARGS]{}', TWO),
    "llama": ('<|python_tag|>{"name": "get", "parameters": {"city": "Rome"}}', [ROME]),
    "llama, bare": (' {"name": "get", "parameters": {"city": "Rome"}}\n', [ROME]),
    "llama, several": (f"{GET}; {B}", TWO),
    "bare list": (f"[{GET}, {B}]", TWO),
    "coder": (
        "<tool_call>\n<function=get>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=b>\n</function>\n</tool_call>", TWO),
    "coder, bare": ("<function=get>\n<parameter=city>\nRome\n</parameter>\n</function>", [ROME]),
    "glm": ("<tool_call>get\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>", [ROME]),
    "minimax": ('<minimax:tool_call>\n<invoke name="get">\n<parameter name="city">Rome</parameter>\n</invoke>\n'
                '</minimax:tool_call>', [ROME]),
    "deepseek 3": (DEEPSEEK.format(
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{"city": "Rome"}\n```<｜tool▁call▁end｜>\n'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>b\n```json\n{}\n```<｜tool▁call▁end｜>"), TWO),
    "deepseek 3.1": (DEEPSEEK.format(
        '<｜tool▁call▁begin｜>get<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜>'), [ROME]),
    "harmony": ('<|channel|>commentary to=functions.get <|constrain|>json<|message|>{"city": "Rome"}<|call|>', [ROME]),
    "harmony, role": (' to=functions.get<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>', [ROME]),
    "kimi": ('<|tool_calls_section_begin|><|tool_call_begin|>functions.get:0<|tool_call_argument_begin|>'
             '{"city": "Rome"}<|tool_call_end|><|tool_calls_section_end|>', [ROME]),
    "command": ('<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get", "parameters": {"city": "Rome"}}]'
                "<|END_ACTION|>", [ROME]),
    "granite": (f"<|tool_call|>[{GET}]", [ROME]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_calls_of_known_formats(name):
    text, calls = FORMATS[name]
    assert split_calls(text, KNOWN, TOOLS) == ("", calls)
    if ("bare" in name and "coder" not in name) or name == "llama, several":
        assert split_calls(f"So:{text}", KNOWN, TOOLS) == (f"So:{text}", []), (
            "a text with JSON in it is a text"
        )
    else:
        assert split_calls(f"Let me see.\n{text}", KNOWN, TOOLS) == ("Let me see.", calls)


@pytest.mark.parametrize("text", [
    "", "Hello.", "Use <tool_call> to call.", "<tool_call>word</tool_call>x", '<tool_call>{"name": "get", "argu',
    '<tool_call>{"name": "get", "arguments": [1]}</tool_call>', '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "get", "arguments": {"n": NaN}}</tool_call>', '[TOOL_CALLS] [{"name": "get"',
    '{"name": "unknown", "parameters": {}}', '{"name": "get", "age": 3}', "[1, 2]", "<function=get>",
    "<tool_call>" + "[" * 5000, '{"name": "get", "parameters": {}} and more',
    '<|channel|>commentary to=browser.open<|message|>{"a": 1}',
])  # fmt: skip
def test_what_is_no_call_stays_text(text):
    assert split_calls(text, KNOWN, TOOLS) == (text, [])


def test_a_value_in_marks_has_the_type_that_the_tool_declares():
    text = (
        "<function=get><parameter=city>\n2\n</parameter><parameter=n>2</parameter>"
        "<parameter=x>[1]</parameter></function>"
    )
    assert split_calls(text, KNOWN, TOOLS)[1] == [ToolCall("get", {"city": "2", "n": 2, "x": [1]})]
    text = "<function=f><parameter=a>True</parameter><parameter=b>\n two\n\n</parameter></function>"
    assert split_calls(text, KNOWN)[1] == [ToolCall("f", {"a": "True", "b": " two\n"})]
    assert split_calls(text, KNOWN, Tools({"f": {"a": "boolean"}}))[1][0].arguments["a"] is True


def test_text_around_calls_and_between_them_stays():
    text = f"One.\n<tool_call>{GET}</tool_call>\nTwo.\n<tool_call>{B}</tool_call> Three <tool_call>{{oops</tool_call>"
    assert split_calls(text, KNOWN, TOOLS) == ("One.\nTwo.\nThree <tool_call>{oops</tool_call>", TWO)


@pytest.mark.parametrize("name", FORMATS)
def test_what_comes_before_the_calls_begin_is_never_part_of_them(name):
    text = FORMATS[name][0] if name.startswith(("llama", "bare")) else f"Let me see. {FORMATS[name][0]}"
    content = split_calls(text, KNOWN, TOOLS)[0]
    for n in range(len(text) + 1):
        assert content.startswith(text[: calls_begin(text[:n])].rstrip()), text[:n]
    assert calls_begin("a [b] <c>") == len("a [b] <c>") and calls_begin("a <tool") == 2
