"""Formats of thoughts and calls learnt from templates: what a template writes of calls is read back as they are."""

import pytest

from jaxtrain.data.chat import Template
from jaxtrain.data.response import MARKS, ThoughtMarks, split_thought
from jaxtrain.data.response_formats import response_formats
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.data.tool_calls import ToolCall, Tools, split_calls

USER = {"role": "user", "content": "Question?"}
# The parts of a template that write the calls of a turn, `m`, after its content.
CALLS = {
    "objects in marks": '{% for c in m.tool_calls %}{{ \'\n<tool_call>\n{"name": "\' + c.function.name +'
    " '\", \"arguments\": ' + c.function.arguments | tojson + '}\n</tool_call>' }}{% endfor %}",
    "a list of objects": "{{ '[CALLS] [' }}{% for c in m.tool_calls %}{{ '{\"name\": \"' + c.function.name + '\","
    " \"arguments\": ' + c.function.arguments | tojson + '}' }}{% if not loop.last %}, {% endif %}{% endfor %}]",
    "with ids": "{{ '[TOOL_CALLS][' }}{% for c in m.tool_calls %}{{ {'name': c.function.name, 'arguments':"
    " c.function.arguments, 'id': c.id} | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}]",
    "names and ids": "{% for c in m.tool_calls %}{{ '[TOOL_CALLS]' + c.function.name + '[CALL_ID]' + c.id + '[ARGS]' +"
    " c.function.arguments | tojson }}{% endfor %}",
    "arguments as text": "{{ '<C>' }}{% for c in m.tool_calls %}{{ '<B>function<S>' + c.function.name + '\n```json\n' +"
    " c.function.arguments + '\n```<E>' }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}{{ '</C>' }}",
    "odd keys": "{% for c in m.tool_calls %}{{ '!! ' + {'call': c.function.name, 'with': c.function.arguments} | tojson"
    " + ' !!' }}{% endfor %}",
    "parameters": "{% for c in m.tool_calls %}{{ '\n<tool_call>\n<function=' + c.function.name + '>\n' }}"
    "{% for k, v in c.function.arguments.items() %}{{ '<parameter=' + k + '>\n' }}"
    "{{ v if v is string else v | tojson }}{{ '\n</parameter>\n' }}{% endfor %}"
    "{{ '</function>\n</tool_call>' }}{% endfor %}",
    "keys and values": "{% for c in m.tool_calls %}{{ '\n<call>' + c.function.name + '\n' }}"
    "{% for k, v in c.function.arguments.items() %}{{ '<k>' + k + '</k>\n<v>' }}{{ v if v is string else v | tojson }}"
    "{{ '</v>\n' }}{% endfor %}{{ '</call>' }}{% endfor %}",
    "texts in marks": "{% for c in m.tool_calls %}{{ '<call>call:' + c.function.name + '{' }}"
    "{% for k, v in c.function.arguments.items() %}{{ k + ':' }}{{ '<q>' + v + '<q>' if v is string else v | tojson }}"
    "{% if not loop.last %},{% endif %}{% endfor %}{{ '}</call>' }}{% endfor %}",
    "python": "{{ '<calls>[' }}{% for c in m.tool_calls %}{{ c.function.name + '(' }}"
    "{% for k, v in c.function.arguments.items() %}{{ k + '=' }}"
    "{% if v is string %}{{ \"'\" + v.replace('\\\\', '\\\\\\\\').replace('\n', '\\\\n') + \"'\" }}"
    "{% else %}{{ v }}{% endif %}{% if not loop.last %}, {% endif %}{% endfor %})"
    "{% if not loop.last %}, {% endif %}{% endfor %}]</calls>",
    "names twice": "{% for c in m.tool_calls %}{{ '<to=' + c.function.name + '>\n<call name=\"' + c.function.name"
    " + '\">' + c.function.arguments | tojson + '</call>' }}{% endfor %}",
    "functions": "{{ '[' }}{% for c in m.tool_calls %}{{ c.function.name + '(' }}"
    "{% for k, v in c.function.arguments.items() %}{{ k + '=' + v | tojson }}{% if not loop.last %}, {% endif %}"
    "{% endfor %}){% if not loop.last %}, {% endif %}{% endfor %}]",
}
GIVEN = [
    [
        ToolCall(
            "get_weather", {"city": 'Rome\n {x} "q" </tool_call>', "n": 3, "deep": {"a": [1, None, True]}}
        )
    ],
    [ToolCall("a", {"x": "1"}), ToolCall("b.c", {"y": "\n z"}), ToolCall("c-d", {"q": 2})],
    [ToolCall("none", {})],
    [ToolCall("u", {"é": "日本 \\n"})],
]
TOOLS = Tools(
    {"get_weather": {"city": "string"}, "a": {"x": "string"}, "b.c": {}, "none": {}, "u": {}, "c-d": {}}
)


def template(calls="", thought=""):
    return Template(
        "own",
        "{% for m in messages %}{{ '<' + m.role + '>' }}" + thought + "{{ m.content }}{% if m.tool_calls %}" + calls
        + "{% endif %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}",
        ByteTokenizer(),
    )  # fmt: skip


def written(template, content, calls):
    ids = ("abcdefgh1", "Zx9Zx9Zx9", "123456789")
    message = {"role": "assistant", "content": content, "tool_calls": [
        {"id": i, "type": "function", "function": {"name": one.name, "arguments": dict(one.arguments)}}
        for i, one in zip(ids, calls, strict=False)
    ]}  # fmt: skip
    return template.completion_text([USER], message).removesuffix("<|eos|>")


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_read_back_as_the_template_writes_them(name):
    own = template(CALLS[name])
    form = response_formats(own).calls
    for calls in GIVEN:
        for content in ("", "Let me see."):
            assert split_calls(written(own, content, calls), [form], TOOLS) == (content, calls)
    assert split_calls("Nothing to call.", [form], TOOLS) == ("Nothing to call.", [])


def test_a_template_of_one_bare_call():
    own = template(
        "{{ {'name': m.tool_calls[0].function.name, 'parameters': m.tool_calls[0].function.arguments} | tojson }}"
    )
    form = response_formats(own).calls
    assert split_calls(written(own, "", GIVEN[0]), [form], TOOLS) == ("", GIVEN[0])


def test_a_template_without_calls_has_no_format():
    assert response_formats(template()) == (None, None)


@pytest.mark.parametrize(
    "thought, marks",
    [
        ("{% if m.thinking %}{{ '[T]' + m.thinking + '[/T]' }}{% endif %}", ThoughtMarks("[T]", "[/T]")),
        (
            "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}",
            None,
        ),
    ],
)
def test_marks_of_thoughts(thought, marks):
    own = template(thought=thought)
    assert response_formats(own).thought == marks
    message = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    text = own.completion_text([USER], message).removesuffix("<|eos|>")
    assert split_thought(text, False, [marks] if marks else MARKS) == ("Hm.", "Yes.")
