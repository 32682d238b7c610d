"""Messages of conversations, read from the forms in which records have them.

A message has role, content (text) and whatever further fields the record gives it: tool calls, thoughts, names. They go
to the chat template. A field that is null is left out at every depth: Arrow and Parquet write null for each field that
other messages have.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtrain.data.bad_records import is_unicode
from jaxtrain.data.tool_calls import arguments_of

# role (one of ROLES), content (str) and whatever else the record's message has; one whose "train" is false or
# "weight" 0 is not in the loss.
Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
THOUGHTS = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "thought",
)  # fields with what a turn thinks before it answers
_ALIASES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
}
_ALIASES |= {"function_call": "assistant", "function": "tool", "observation": "tool", "ipython": "tool"}
_ALIASES |= {"tool_response": "tool"}
_CONTENT = ("content", "value", "text")
# Fields of an object that is a question and its answer.
_PAIRS = (("input", "output"), ("user", "assistant"), ("human", "assistant"), ("question", "answer"))
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_LOSS = ("train", "weight")  # fields that say whether a message is in the loss


class BadRecord(ValueError):
    """A record that cannot be used. The message is the reason; up to its first colon it names the kind."""


def text_of(value: Any, what: str) -> str:
    """`value`, where it is text that UTF-8 can write; else raises BadRecord."""
    if not isinstance(value, str):
        raise BadRecord(f"no text: {what} is not a string but {type(value).__name__}")
    if not is_unicode(value):
        raise BadRecord(f"no text: {what} holds half a surrogate pair")
    return value


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number that a float can hold; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 1023


def without_nulls(value: Any) -> Any:
    """A copy of `value` without the fields that are null, at every depth."""
    if isinstance(value, Mapping):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list | tuple) else value


def check_unicode(value: Any, what: str) -> None:
    """Raises BadRecord where a string at any depth of `value` is none that UTF-8 can write."""
    if not all(map(is_unicode, strings(value))):
        raise BadRecord(f"no text: {what} holds half a surrogate pair")


def json_of(value: Any, what: str) -> Any:
    """What the JSON in a string says; any other value as it is. Raises BadRecord where the string is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(text_of(value, what))
    except ValueError as error:
        raise BadRecord(f"no JSON: {what} is a string that is none ({error})") from error


def messages_of(value: Any, what: str) -> tuple[Message, ...]:
    """The messages of a list; raises BadRecord.

    The list holds objects with role and content, or from and value; objects that are a turn of each side, such as input
    and output; or strings, the user's first. It may be JSON in a string, one message alone, or an object of lists.
    """
    value = (
        json_of(value, what) if isinstance(value, str) and value.lstrip().startswith(("[", "{")) else value
    )
    if isinstance(value, Mapping):
        value = _listed(value, what)
    if not isinstance(value, list | tuple) or not value:
        raise BadRecord(f"no messages: {what} is not a list of messages, or an empty one")
    if all(isinstance(one, str) for one in value):
        value = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)]
    return tuple(
        message for i, one in enumerate(value) for message in _turns(one, f"{what}[{i}]", len(value) - i)
    )


def _listed(value: Mapping[str, Any], what: str) -> list[Any]:
    """The messages of an object: itself, or what TFDS and older HF data sets keep as an object of lists."""
    if isinstance(value.get("role", value.get("from")), str):
        return [value]
    if not value or not all(isinstance(column, list) for column in value.values()):
        raise BadRecord(f"no messages: {what} is not a list of messages")
    if len({len(column) for column in value.values()}) > 1:
        raise BadRecord(f"no messages: the lists of {what} have different lengths")
    return [dict(zip(value, one, strict=True)) for one in zip(*value.values(), strict=True)]


def _turns(value: Any, what: str, left: int) -> Iterator[Message]:
    names = _pair_names(value)
    if names:
        ask, answer = names
        if unknown := sorted(value.keys() - {*names}):
            raise BadRecord(
                f"no messages: {what} has {ask} and {answer}, and {', '.join(unknown)} beside them"
            )
        yield {"role": "user", "content": text_of(value[ask], f"{ask} of {what}")}
        if value.get(answer) is not None or left > 1:
            yield _message({"role": "assistant", "content": value.get(answer)}, what)
    else:
        yield _message(value, what)


def _pair_names(value: Any) -> tuple[str, str] | None:
    """The fields of an object that is a turn of each side, or None for any other value."""
    if not isinstance(value, Mapping) or {"role", "from"} & value.keys():
        return None
    return next((names for names in _PAIRS if names[0] in value), None)


def _message(value: Any, what: str) -> Message:
    if not isinstance(value, Mapping):
        raise BadRecord(f"no messages: {what} is not an object with role and content")
    value = without_nulls(value)
    role = value.get("role", value.get("from"))
    known = _role(role)
    if known is None:
        raise BadRecord(f"unknown role: {what} has {role!r}; known are {', '.join((*ROLES, *_ALIASES))}")
    name = next((name for name in _CONTENT if name in value), "content")
    others = {key: one for key, one in value.items() if key not in ("role", "from", name)}
    content = value.get(name)
    if isinstance(content, list):
        content, parts = _joined(content, what)
        others |= parts
    if "refusal" in others and not content:
        content = text_of(others.pop("refusal"), f"refusal of {what}")
    _read_calls(others, what)
    for name in THOUGHTS:
        if name in others:
            text_of(others[name], f"{name} of {what}")
    if content is None and speaks(others):
        content = ""
    content = text_of(content, f"content of {what}")
    check_unicode(others, what)
    if known == "assistant" and not content.strip() and not speaks(others) and in_loss(others):
        raise BadRecord(f"empty completion: {what} holds nothing but white space")
    return {"role": known, "content": content, **others}


def _role(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    role = value.strip().lower()
    return _ALIASES.get(role, role if role in ROLES else None)


def thought_of(message: Mapping[str, Any]) -> str:
    """The thought in a field of its own; empty where there is none."""
    return next((message[name] for name in THOUGHTS if message.get(name)), "")


def speaks(message: Mapping[str, Any]) -> bool:
    """Whether a message without content says something nonetheless: it calls a tool, or thinks."""
    return bool(message.get("tool_calls") or thought_of(message))


def _joined(parts: Sequence[Any], what: str) -> tuple[str, Message]:
    """(the text of content parts, the fields of the message that other parts are)."""
    texts, thoughts = [], []
    for part in parts:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind in _TEXTS:
            texts.append(text_of(part.get(_TEXTS[kind]), f"content of {what}"))
        elif kind == "thinking":
            thoughts.append(text_of(part.get("thinking"), f"content of {what}"))
        else:
            raise BadRecord(
                f"no text: content of {what} has a part that is not of type text but {kind!r}; images, "
                "sounds and files are not read"
            )
    return "".join(texts), {"thinking": "".join(thoughts)} if thoughts else {}


def _read_calls(message: Message, what: str) -> None:
    """Brings the tool calls of a message into one form, a list of objects; raises BadRecord where they are none."""
    if "function_call" in message and not message.get("tool_calls"):
        call = message.pop("function_call")
        message["tool_calls"] = [{"type": "function", "function": call}]
    if "tool_calls" not in message:
        return
    calls = json_of(message["tool_calls"], f"tool_calls of {what}")
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise BadRecord(f"no tool call: tool_calls of {what} is not a list of objects")
    for call in calls:
        function = call.get("function", call)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name.strip():
            raise BadRecord(f"no tool call: a call of {what} has no name of a function")
        arguments = function.get("arguments")
        if isinstance(arguments, str) and "\\u" in arguments:
            _check_arguments(arguments, what)
    if calls:
        message["tool_calls"] = calls
    else:
        del message["tool_calls"]


def _check_arguments(arguments: str, what: str) -> None:
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return  # the chat template gets them as the text that they are
    check_unicode(parsed, f"the arguments of a call of {what}")


def strings(value: Any, keys: bool = True) -> Iterator[str]:
    """Every string in nested lists and objects, those that are keys with `keys`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if keys:
                yield from strings(key)
            yield from strings(one, keys)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings(one, keys)


def in_loss(message: Mapping[str, Any]) -> bool:
    """Whether an assistant's message is in the loss. Raises BadRecord for a weight that is neither 0 nor 1."""
    values = [1 if message.get(name) is None else message[name] for name in _LOSS]
    for name, value in zip(_LOSS, values, strict=True):
        if value not in (0, 1):
            raise BadRecord(
                f"unknown weight: {name} is {value!r:.40}; a message is in the loss (1) or not (0)"
            )
    return all(values)


def check_calls(messages: Sequence[Message]) -> None:
    """Raises BadRecord where a message in the loss calls a tool with what is no JSON object.

    A prompt may have such calls, as a model wrote them.
    """
    for message in messages:
        if message["role"] != "assistant" or not in_loss(message):
            continue
        for call in message.get("tool_calls") or ():
            function = call.get("function", call)
            if not _is_json(arguments_of(function.get("arguments"))):
                name = function["name"][:40]
                raise BadRecord(
                    f"no tool call: the arguments of a call of {name!r} are not a JSON object, nor JSON of one"
                )


def _is_json(value: Any) -> bool:
    """Whether JSON can write an object: it has no number for NaN, nor for what is infinite."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return value is not None


def completion_of(value: Any, what: str) -> str | Message:
    """The completion: its text, or the message where it has more than text. Raises BadRecord where it is empty.

    `value` is a string, a message, or a list of one message of an assistant.
    """
    if not isinstance(value, list | Mapping):
        if not text_of(value, what).strip():
            raise BadRecord(f"empty completion: {what} holds nothing but white space")
        return value
    messages = messages_of(value, what)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise BadRecord(f"wrong roles: {what} is not one assistant message")
    message = {key: one for key, one in messages[0].items() if key not in _LOSS}
    if not message["content"].strip() and not speaks(message):
        raise BadRecord(f"empty completion: {what} holds nothing but white space")
    return message["content"] if message.keys() == {"role", "content"} else message


def answer_message(completion: str | Message) -> Message:
    """The assistant's message that a completion is."""
    return {"role": "assistant", "content": completion} if isinstance(completion, str) else completion


def unlearnt(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages as ones that are not in the loss."""
    return tuple({**message, "train": False} for message in messages)
