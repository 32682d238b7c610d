"""What of a record a chat template did not write: no part of a conversation goes missing in silence."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtrain.data.messages import BadRecord, Message
from jaxtrain.data.response import split_thought


def require_answer(part: str, message: Message) -> None:
    """Raises BadRecord where the text of an assistant's turn has not its calls and its answer.

    A model would learn an empty answer, or half of one.
    """
    for name in _names(message.get("tool_calls")):
        if not _holds(part, name):
            raise BadRecord(
                f"lost tool call: the chat template has no place for a call of {name!r}; use a template that "
                "knows tool calls"
            )
    if not _holds(part, split_thought(message["content"])[1]):
        raise BadRecord("lost text: the chat template does not write this answer")


def thought_lost(part: str, thought: str) -> bool:
    """Whether the text of an assistant's turn has not its thought."""
    return not _holds(part, thought)


def unwritten(text: str, messages: Sequence[Message], template_kwargs: Mapping[str, Any]) -> Iterator[str]:
    """What of the messages and of tools and documents is not in the rendered text, as a kind each."""
    for message in messages:
        if message["role"] != "assistant" and not _holds(text, message["content"]):
            yield f"a {message['role']} message"
    if any(not _has_tool(text, tool, messages) for tool in template_kwargs.get("tools") or ()):
        yield "tools"
    documents = [one for one in template_kwargs.get("documents") or () if isinstance(one, Mapping)]
    if any(isinstance(value, str) and not _holds(text, value) for one in documents for value in one.values()):
        yield "documents"


def _has_tool(text: str, tool: Any, messages: Sequence[Message]) -> bool:
    """Whether the text has a tool: its name may be there in calls alone."""
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    if not isinstance(inner, Mapping) or not isinstance(name := inner.get("name"), str):
        return True
    called = [call for message in messages for call in _names(message.get("tool_calls"))]
    if name not in called:
        return _holds(text, name)
    description = inner.get("description")
    if isinstance(description, str) and description.strip():
        return _holds(text, description)
    return text.count(name) > json.dumps(list(messages), default=str).count(name)


def _names(calls: Any) -> Iterator[str]:
    """The names of functions in a list of tool calls or tools."""
    for call in calls if isinstance(calls, list | tuple) else ():
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
            yield inner["name"]


def _holds(text: str, value: str) -> bool:
    """Whether the text has the value, its white space aside, or as the inside of a JSON string."""
    if value.strip() in text:
        return True
    squeezed = "".join(text.split())
    spellings = (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    return any("".join(one.split()) in squeezed for one in spellings)
