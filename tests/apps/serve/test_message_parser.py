"""Thoughts and tool calls through the official client: whole, streamed, sent back, stored and learnt from."""

import json

import openai
import pytest

from jaxtrain.data import jinja_limits, record_formats
from tests.apps.serve.conftest import HI, NAME, running
from tests.apps.serve.scripted import CALLS, FULL, HEAD, OPENING, TAIL, scripted_server, template, write

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}}}]  # fmt: skip
CALL = '[CALLS]{"name": "add", "arguments": {"a": 3, "b": 4}}'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(scripted_server(FULL, tmp_path_factory.mktemp("store") / "store.sqlite")) as one:
        yield one


@pytest.fixture(scope="module")
def client(server):
    with server.client() as one:
        yield one


def chat(client, messages=HI, **options):
    return client.chat.completions.create(**{"model": NAME, "messages": messages, **options})


def streamed(client, **options):
    """(thought, content, calls, finish_reason, log-probabilities) of a stream, put together."""
    thought, content, calls, end, logprobs = "", "", [], None, []
    for chunk in chat(client, stream=True, **options):
        (choice,) = chunk.choices
        thought += getattr(choice.delta, "reasoning_content", None) or ""
        content += choice.delta.content or ""
        calls += choice.delta.tool_calls or []
        end = choice.finish_reason or end
        logprobs += choice.logprobs.content if choice.logprobs else []
    return thought, content, calls, end, logprobs


def parts(message):
    calls = [(one.function.name, json.loads(one.function.arguments)) for one in message.tool_calls or []]
    return getattr(message, "reasoning_content", ""), message.content, calls


@pytest.mark.parametrize(
    ("text", "thought", "content", "calls", "end"),
    [
        ("It is 7.", "", "It is 7.", [], "stop"),
        ("[T]3 and 4\nare 7.[/T]It is 7.", "3 and 4\nare 7.", "It is 7.", [], "stop"),
        ("<think>\nHm.\n</think>\n\nIt is 7.", "Hm.", "It is 7.", [], "stop"),
        (CALL, "", None, [("add", {"a": 3, "b": 4})], "tool_calls"),
        (
            f"[T]Add.[/T]Let me see.\n{CALL}{CALL}",
            "Add.",
            "Let me see.",
            [("add", {"a": 3, "b": 4})] * 2,
            "tool_calls",
        ),
        ('<tool_call>{"name": "add", "arguments": {}}</tool_call>', "", None, [("add", {})], "tool_calls"),
        (
            '[CALLS]{"name": "add", "arguments": {"a": 3',
            "",
            '{"name": "add", "arguments": {"a": 3',
            [],
            "stop",
        ),
        ("Brackets [1] and <b> { stay.", "", "Brackets [1] and <b> { stay.", [], "stop"),
        ("[T]No answer", "No answer", "", [], "stop"),
    ],
)
def test_thought_content_and_calls_are_the_same_whole_and_streamed(
    server, client, text, thought, content, calls, end
):
    ids = write(server, text)
    whole = chat(client, tools=TOOLS, logprobs=True)
    (choice,) = whole.choices
    assert (*parts(choice.message), choice.finish_reason) == (thought, content, calls, end)
    assert whole.usage.completion_tokens == len(ids)
    stream = streamed(client, tools=TOOLS, logprobs=True)
    assert stream[:2] == (thought, content or "") and stream[3] == end
    assert [(one.index, one.function.name, json.loads(one.function.arguments)) for one in stream[2]] == [
        (i, *one) for i, one in enumerate(calls)
    ]
    for logprobs in (choice.logprobs.content, stream[4]):
        assert b"".join(bytes(one.bytes) for one in logprobs).decode().strip() == (content or "").strip()


def test_a_stop_ends_thought_or_answer_and_a_limit_is_a_length(server, client):
    write(server, "[T]one two three[/T]four five")
    assert parts(chat(client, stop=[" three"]).choices[0].message)[:2] == ("one two", "")
    choice = chat(client, stop="five").choices[0]
    assert parts(choice.message)[:2] == ("one two three", "four ") and choice.finish_reason == "stop"
    choice = chat(client, max_completion_tokens=8).choices[0]
    assert parts(choice.message)[:2] == ("one two", "") and choice.finish_reason == "length"


def test_calls_are_read_where_tools_are_spoken_of(server, client):
    write(server, CALL)
    assert chat(client).choices[0].message.content == CALL.removeprefix("[CALLS]")
    assert chat(client, tools=TOOLS, tool_choice="none").choices[0].message.tool_calls is None
    call = chat(client, tools=TOOLS, parallel_tool_calls=False).choices[0].message.tool_calls
    assert len(call) == 1 and len(call[0].id) == 9
    history = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "7"},
    ]
    assert chat(client, messages=history).choices[0].finish_reason == "tool_calls"
    write(server, CALL * 2)
    assert len(chat(client, tools=TOOLS, parallel_tool_calls=False).choices[0].message.tool_calls) == 1
    without_tools = HEAD + "{{ m.content }}" + CALLS + TAIL + "{% endif %}"
    with running(scripted_server(without_tools)) as other, other.client() as one:
        write(other, CALL)
        assert chat(one).choices[0].finish_reason == "tool_calls"
        with pytest.raises(openai.BadRequestError, match="writes nothing of them"):
            chat(one, tools=TOOLS)


def test_an_answer_is_sent_back_as_it_came_and_written_as_it_was(server, client):
    text = f"[T]Add.[/T]Let me see.{CALL}"
    write(server, text)
    answer = chat(client, tools=TOOLS).choices[0].message
    tool = {
        "role": "tool",
        "tool_call_id": answer.tool_calls[0].id,
        "name": "add",
        "content": [{"type": "text", "text": "7"}],
    }
    for sent in (answer, answer.to_dict(), answer.model_dump()):
        chat(client, messages=[*HI, sent, tool], tools=TOOLS)
        prompt = shown(server)
        assert f"assistant\n{text}<|end|><|start|>tool\n7<|end|><|start|>assistant\n" in prompt
        assert '"name": "add"' in prompt.partition("<|start|>")[0], "the tools"


def shown(server):
    """The prompt of the last request, special tokens written out."""
    own = server.state.model.template
    names = {i: text for text, i in own.tokenizer.specials.items()}
    ids = server.state.scheduler.requests[0].ids
    return "".join(names.get(i) or own.tokenizer.pieces[i].decode() for i in ids)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": ""},
        {"role": "assistant"},
        {"role": "assistant", "content": "A", "refusal": None, "annotations": [], "audio": None, "function_call": None,
         "tool_calls": None, "reasoning_content": None, "type": "text"},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f"}}]},
        {"role": "developer", "content": "Be brief."},
        {"role": "tool", "content": "7", "tool_call_id": "call_1", "name": "add"},
        {"role": "function", "content": "7", "name": "add"},
        {"role": "user", "content": "Hi", "name": "Ann"},
    ],
)  # fmt: skip
def test_histories_of_other_clients(server, client, message):
    write(server, "Yes.")
    assert chat(client, messages=[*HI, message, *HI]).choices[0].message.content == "Yes."


def test_variables_of_the_template(server, client):
    write(server, "Yes.")
    chat(client, reasoning_effort="high", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert shown(server).startswith("Effort high") and shown(server).endswith("assistant\n[T][/T]")
    with running(scripted_server(OPENING)) as other, other.client() as one:
        write(other, "Hm.\n</think>\n\nYes.")
        assert parts(chat(one).choices[0].message)[:2] == ("Hm.", "Yes.")
        assert streamed(one)[:2] == ("Hm.", "Yes.")
        write(other, "Hm.", end="")
        assert parts(chat(one).choices[0].message)[:2] == ("Hm.", "")


def test_a_template_that_refuses_or_never_ends_is_a_bad_request(monkeypatch):
    monkeypatch.setattr(jinja_limits, "SECONDS", 0.2)
    refusing = "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    endless = "{% if m.role == 'tool' %}" + loops + "{% endif %}"
    source = HEAD + "{{ m.content }}" + refusing + endless + TAIL + "{% endif %}"
    with running(scripted_server(source)) as other, other.client() as one:
        for role, words in (("system", "no system"), ("tool", "does it loop for ever")):
            with pytest.raises(openai.BadRequestError, match=words):
                chat(one, messages=[{"role": role, "content": "x"}, *HI])


def test_a_stored_turn_is_learnt_as_it_was_written(server, client):
    text = f"[T]Add.[/T]Let me see.{CALL}"
    ids = write(server, text)
    response = chat(client, tools=TOOLS, store=True, logprobs=True, top_logprobs=1, reasoning_effort="low")
    record = client.chat.completions.retrieve(response.id).to_dict()
    (choice,) = record["choices"]
    start, stop = choice["content_tokens"]
    assert choice["token_ids"] == ids and record["tools"] == TOOLS
    assert choice["top_token_ids"] == [[i] for i in ids[start:stop]] and stop - start == len("Let me see.")
    (form,) = [one for one in record_formats.CHAT if one.name == "stored"]
    dialog = record_formats.read(record, form)
    (row,) = template(FULL).encode(dialog.messages, dialog.template_kwargs)
    assert row.ids.tolist() == [*record["prompt_token_ids"], *ids]
    assert row.ids[row.loss_mask].tolist() == ids


def test_a_text_has_a_bos_where_the_tokenizer_names_one():
    for bos, opening in (("<|start|>", ["<|start|>"]), (None, [])):
        with running(scripted_server(FULL, bos=bos)) as other, other.client() as one:
            write(other, "Yes.")
            assert one.completions.create(model=NAME, prompt="Hi").choices[0].text == "Yes."
            assert shown(other) == "".join([*opening, "Hi"])
            one.completions.create(model=NAME, prompt="")
            assert len(other.state.scheduler.requests[0].ids) == 1


def test_requests_with_tools_take_the_template_for_tools():
    state = scripted_server(HEAD + "{{ m.content }}" + TAIL + "{% endif %}")
    state = state._replace(model=state.model._replace(tool_template=template(FULL)))
    with running(state) as other, other.client() as one:
        write(other, CALL)
        assert chat(one, tools=TOOLS).choices[0].finish_reason == "tool_calls" and '"name": "add"' in shown(
            other
        )
        assert chat(one).choices[0].finish_reason == "stop"


def test_a_thought_that_the_template_does_not_write_is_stored_as_the_text_that_it_was(tmp_path):
    source = HEAD + "{{ m.content }}" + TAIL + "{% endif %}"
    with running(scripted_server(source, tmp_path / "store.sqlite")) as other, other.client() as one:
        ids = write(other, "<think>\nHm.\n</think>\n\nYes.")
        response = chat(one, store=True, logprobs=True)
        assert parts(response.choices[0].message)[:2] == ("Hm.", "Yes.")
        record = one.chat.completions.retrieve(response.id).to_dict()
    assert len(record["choices"][0]["logprobs"]["content"]) == len(ids)
    (form,) = [known for known in record_formats.CHAT if known.name == "stored"]
    (row,) = template(source).encode(record_formats.read(record, form).messages)
    assert row.ids[row.loss_mask].tolist() == ids
