"""A chat completion taken apart, whole or as it comes: thought, content and tool calls."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.data import special_text
from jaxtrain.data.chat import Template
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.response import (
    MARKS,
    ThoughtMarks,
    opens_thought,
    split_thought,
    split_unfinished_thought,
)
from jaxtrain.data.response_formats import response_formats
from jaxtrain.data.tool_calls import KNOWN, CallFormat, ToolCall, Tools, calls_begin, split_calls

_TAIL = 64  # last tokens of a prompt, among which is the mark that opens a thought

_USER = {"role": "user", "content": "Question?"}
_ANSWER = {"role": "assistant", "content": "Answer."}
_TOOL = {
    "type": "function",
    "function": {"name": "lookup", "description": "", "parameters": {"type": "object", "properties": {}}},
}

Places = Sequence[tuple[int, str]]  # special tokens, each with the place in a text where it stands


class ParsedMessage(NamedTuple):
    """What a model wrote."""

    thought: str
    content: str
    calls: tuple[ToolCall, ...] = ()


class MessageParser(NamedTuple):
    """What takes completions of one request apart."""

    opened: bool  # whether the prompt ends inside a thought
    marks: Sequence[ThoughtMarks]
    formats: Sequence[CallFormat]  # of calls; without any, calls stay content
    tools: Tools
    most_calls: int | None  # None: any number
    special: re.Pattern[str]  # special tokens, as thoughts and calls have them

    def parse(self, text: str, places: Places, end: str = "") -> ParsedMessage:
        """The message that a whole text is, with the special tokens that stood in it and the one that ended it."""
        guard, text = self._written_out(text, places)
        thought, answer = split_thought(text, self.opened, self.marks)
        content, calls = split_calls(answer, self.formats, self.tools)
        if not calls and end:  # it may be the end of a call
            content, calls = split_calls(answer + end, self.formats, self.tools)
            content = content if calls else answer
        kept = (ToolCall(call.name, _without(guard, call.arguments)) for call in calls[: self.most_calls])
        return ParsedMessage(self._plain(thought, guard), self._plain(content, guard), tuple(kept))

    def parse_unfinished(self, text: str, places: Places) -> ParsedMessage:
        """Thought and content so far of a text of which more may come: what comes can only add to their ends."""
        guard, text = self._written_out(text, places)
        thought, answer = split_unfinished_thought(text, self.opened, self.marks)
        if self.formats:
            answer = answer[: calls_begin(answer, self.formats)].rstrip()
        return ParsedMessage(self._plain(thought, guard), self._plain(answer, guard))

    def _written_out(self, text: str, places: Places) -> tuple[str, str]:
        """(a guard, the text with special tokens written out); the guard stands in what only looks like one."""
        guard = next((one for one in special_text.GUARDS if one not in text), "")
        parts, done = [], 0
        within = [(place, name) for place, name in places if place <= len(text)]
        for place, name in [*within, (len(text), "")]:
            plain = self.special.sub(lambda match: match[0][0] + guard + match[0][1:], text[done:place])
            parts += [plain, name]
            done = place
        return guard, "".join(parts)

    def _plain(self, text: str, guard: str) -> str:
        text = self.special.sub("", text)
        return text.replace(guard, "") if guard else text


def parser_for(
    template: Template, prompt_ids: Sequence[int], tools: Sequence[Any], reads_calls: bool, one_call: bool
) -> MessageParser:
    """The parser of the completions of a prompt. `tools` are the request's; `one_call`: only the first call is one."""
    formats = _formats(template)
    marks = (formats.thought, *MARKS) if formats.thought else MARKS
    calls = (*filter(None, [formats.calls]), *KNOWN) if reads_calls else ()
    tail, names = list(prompt_ids[-_TAIL:]), special_names(template)
    decode = template.tokenizer.decode
    text, places = decode(tail), [*special_places(tail, 0, decode, names)]
    parser = MessageParser(
        False, marks, calls, Tools(dict(_types(tools))), 1 if one_call else None, _special(template)
    )
    return parser._replace(opened=opens_thought(parser._written_out(text, places)[1], marks))


@functools.cache
def calls_without_tools(template: Template) -> bool:
    """Whether a template writes an assistant's calls, but not the tools of a request."""
    try:
        lost = template.unwritten([_USER], {"tools": [_TOOL]})
    except (BadRecord, ConfigError):  # it reads them, and takes others than this one
        return False
    return _formats(template).calls is not None and "tools" in lost


@functools.cache
def writes_thoughts(template: Template) -> bool:
    """Whether a template writes a thought that stands in a field of its own."""
    try:
        return "Thought" in template.completion_text([_USER], {**_ANSWER, "reasoning_content": "Thought."})
    except (BadRecord, ConfigError):
        return False


def special_places(
    ids: Sequence[int], start: int, decode: Callable[[list[int]], str], names: Mapping[int, str]
) -> Iterator[tuple[int, str]]:
    """The special tokens among ids from number `start` on, each with its place in the text of all of them."""
    for i, token in enumerate(ids[start:], start):
        if token in names:
            yield len(decode(list(ids[:i]))), names[token]


_formats = functools.cache(response_formats)


@functools.cache
def special_names(template: Template) -> Mapping[int, str]:
    """The special tokens of a template's tokenizer by their ids."""
    return {i: text for text, i in template.tokenizer.specials.items()}


@functools.cache
def _special(template: Template) -> re.Pattern[str]:
    return special_text.pattern(template.tokenizer.specials)


def _types(tools: Sequence[Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, type of each parameter where it is one) of each tool."""
    for tool in tools:
        function = tool["function"]
        parameters = function.get("parameters") or {}
        properties = parameters.get("properties") or {}
        types = {
            key: schema["type"]
            for key, schema in properties.items()
            if isinstance(schema, Mapping) and isinstance(schema.get("type"), str)
        }
        yield function["name"], types


def _without(guard: str, value: Any) -> Any:
    """`value` without the guard, at every depth."""
    if isinstance(value, str):
        return value.replace(guard, "") if guard else value
    if isinstance(value, dict):
        return {_without(guard, key): _without(guard, one) for key, one in value.items()}
    return [_without(guard, one) for one in value] if isinstance(value, list) else value
