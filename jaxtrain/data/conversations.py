"""Conversations from records: the messages of a prompt with all that belongs to it, and the answers to train on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.data import completions_db
from jaxtrain.data.messages import (
    BadRecord,
    Message,
    answer_message,
    check_calls,
    completion_of,
    json_of,
    messages_of,
    text_of,
    unlearnt,
)
from jaxtrain.data.record_fields import RecordFields, template_kwargs

PROMPTS = ("prompt", "instruction", "question", "query", "problem", "inputs", "input")
ANSWERS = ("completion", "response", "output", "solution", "answer", "targets")
TURNS = ("conversations", "conversation", "dialogue", "dialog")
CONTEXTS = ("input", "context")  # what a prompt speaks of
SYSTEMS = ("system", "system_prompt", "system_message")
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class Dialog(NamedTuple):
    """A conversation with the loss on its assistant turns."""

    messages: tuple[Message, ...]
    template_kwargs: Mapping[str, Any] = {}


def user(text: Any, what: str = "prompt") -> tuple[Message, ...]:
    """The messages of a prompt that is a text or messages."""
    if isinstance(text, list | Mapping):
        return messages_of(text, what)
    return ({"role": "user", "content": text_of(text, what)},)


def prompt_of(record: RecordFields) -> tuple[Message, ...]:
    """The messages of a record's prompt: its system message, its history, and the question with its context.

    Raises BadRecord, also where one of these fields cannot be read as what its name says.
    """
    name = record.first(PROMPTS)
    value = record[name]
    if isinstance(value, list | Mapping):
        return with_own_system(messages_of(value, name), record)
    text = text_of(value, name)
    if text.startswith(_HUMAN) and text.rstrip().endswith(_ASSISTANT.strip()):
        record.further.add("turns of the prompt")
        return with_own_system(hh_turns(text.rstrip().removesuffix(_ASSISTANT)), record)
    for field in CONTEXTS:
        if field == name or field not in record:
            continue
        context = record.beside(field, text_of).strip()
        text = f"{text}\n\n{context}" if context else text
        if context and (field, name) == ("input", "prompt"):
            record.further.add(field)
    return with_own_system((*_history(record), {"role": "user", "content": text}), record)


def with_own_system(messages: tuple[Message, ...], record: RecordFields) -> tuple[Message, ...]:
    """The messages after the record's system message, unless they have one of their own."""
    name = record.first(SYSTEMS)
    own = [one["content"] for one in messages if one["role"] in ("system", "developer")]
    if not name:
        return messages
    if own:
        if own[0] == record.peek(name):
            record.use(name)
        return messages
    content = record.beside(name, text_of)
    return ({"role": "system", "content": content}, *messages) if content.strip() else messages


def _history(record: RecordFields) -> tuple[Message, ...]:
    """The earlier turns of a record's history, [question, answer] pairs or messages; they are not in the loss."""
    return record.beside("history", _earlier) if record.peek("history") else ()


def _earlier(value: Any, what: str) -> tuple[Message, ...]:
    value = json_of(value, what) if isinstance(value, str) and value.lstrip().startswith("[") else value
    if not isinstance(value, list):
        raise BadRecord(f"no history: {what} is not a list of [question, answer] pairs, nor of messages")
    if not all(isinstance(one, list) for one in value):
        return unlearnt(messages_of(value, what))
    turns: list[Message] = []
    for i, pair in enumerate(value):
        if len(pair) != 2:
            raise BadRecord(f"no history: {what}[{i}] is not a pair of question and answer")
        turns += [
            {"role": role, "content": content}
            for role, one in zip(("user", "assistant"), pair, strict=True)
            if (content := text_of(one, f"{what}[{i}]")).strip()
        ]
    return unlearnt(turns)


def hh_turns(text: str) -> tuple[Message, ...]:
    """The messages of a text whose turns start with Human: and Assistant:."""
    messages: list[Message] = []
    for turn in text.split(_HUMAN)[1:]:
        content, *answers = turn.split(_ASSISTANT)
        messages.append({"role": "user", "content": content.removeprefix(" ")})
        messages += [{"role": "assistant", "content": answer.removeprefix(" ")} for answer in answers]
    return tuple(messages)


def hh_pair(*pair: str) -> tuple[tuple[Message, ...], list[str]]:
    """(prompt, completions) of two texts whose turns start with Human: and Assistant:. Raises BadRecord."""
    same = next((i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), min(map(len, pair)))
    end = pair[0].rfind(_ASSISTANT, 0, same)
    if end < 0 or not pair[0].startswith(_HUMAN):
        raise BadRecord(
            f"no common prompt: there is no prompt, and the texts are not {_HUMAN!r} … {_ASSISTANT!r} …"
        )
    rest = [one[end + len(_ASSISTANT) :].removeprefix(" ") for one in pair]
    if any(mark in one for mark in (_HUMAN, _ASSISTANT) for one in rest):
        raise BadRecord("no common prompt: chosen and rejected differ before their last turn")
    return hh_turns(pair[0][:end]), rest


def dialog(messages: Sequence[Message], record: RecordFields) -> Dialog:
    """The conversation, with the record's variables for the template. Raises BadRecord without an assistant turn."""
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRecord("no assistant turn: there is nothing to train on")
    check_calls(messages)
    return Dialog(tuple(messages), template_kwargs(record))


def turns(record: RecordFields, names: Sequence[str], answered: bool = True) -> Dialog:
    """The conversation that the first of `names` holds whole; the record may have its system message beside it.

    Raises BadRecord where it has no answer, if it must be `answered`.
    """
    name = record.first(names)
    messages = with_own_system(messages_of(record[name], name), record)
    return dialog(messages, record) if answered else Dialog(messages, template_kwargs(record))


def demonstration(record: RecordFields) -> Dialog:
    """A prompt, which is not in the loss, and its completion, a text or messages."""
    name = record.first(ANSWERS)
    prompt, value = unlearnt(prompt_of(record)), record[name]
    if isinstance(value, list | Mapping):
        return dialog((*prompt, *messages_of(value, name)), record)
    return dialog((*prompt, answer_message(completion_of(value, name))), record)


def instruction(record: RecordFields) -> Dialog:
    """An instruction and its response."""
    name = record.first(ANSWERS[1:] + ANSWERS[:1])
    return dialog((*prompt_of(record), answer_message(completion_of(record[name], name))), record)


def question(record: RecordFields) -> Dialog:
    """The prompt of a record, with its answer where that is a text: another one may be for a reward alone."""
    prompt = prompt_of(record)
    name = record.first(ANSWERS)
    answer = record.peek(name)
    if isinstance(answer, str) and answer.strip():
        prompt = (*unlearnt(prompt), answer_message(completion_of(record[name], name)))
    return Dialog(prompt, template_kwargs(record))


def prompt(record: RecordFields) -> Dialog:
    """A prompt alone."""
    return Dialog(prompt_of(record), template_kwargs(record))


def stored(record: RecordFields) -> Dialog:
    """A stored completion: the conversation of its request, which is not in the loss, and the answer."""
    asked, answer, wrong = completions_db.prompt_and_answer(record)
    if wrong:
        raise BadRecord(wrong)
    request = record.peek("request")
    if isinstance(request, Mapping) and request.get("tools") and "tools" not in record:
        inner = RecordFields(request)
        record.use("request", "tools")
        record.further.add("tools")
        variables = template_kwargs(inner)
    else:
        variables = template_kwargs(record)
    answers = messages_of([answer], "message")
    check_calls(answers)
    return Dialog((*unlearnt(user(asked, "input")), *answers), variables)


def turns_of_strings(record: RecordFields) -> bool:
    """Whether a record's data is a list of strings, the turns of a conversation."""
    data = record.peek("data")
    return isinstance(data, list) and bool(data) and all(isinstance(one, str) for one in data)
