"""Tool calls in what a model wrote: formats as data, and a reader that takes the calls apart from the content.

The text is a completion with its special tokens written out. What is not a whole call, with a name and a JSON object of
arguments, stays content.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.data.loose_json import json_at, value_at
from jaxtrain.data.response import partial_length

NAME = r"(?P<name>[^\s<>\[\]{}()\"'`:=|,]+)"


class ToolCall(NamedTuple):
    """A call of a tool by its name."""

    name: str
    arguments: dict[str, Any]


class Tools(NamedTuple):
    """What a request says of its tools: the declared type of each parameter, {tool: {parameter: JSON schema type}}."""

    types: Mapping[str, Mapping[str, str]] = {}


NO_TOOLS = Tools()


class Parameters(NamedTuple):
    """Patterns around parameters that are no JSON object: open key middle value close, with a separator between them.

    A value is what stands between `middle` and `close`. With `text_middle` that is so of texts, and any other value is
    JSON behind `middle`, or as loose as that; without `close` every value is.
    """

    open: str
    middle: str
    close: str = ""
    separator: str = ""
    text_middle: str = ""
    text_marks: tuple[str, str] = ("", "")  # around texts inside a value, no patterns


class CallFormat(NamedTuple):
    """How calls are written: `open`, calls with `join` between them, `close`; all but `marks` are regular expressions.

    A call is `before`, its name, `between`, its arguments, `after`; or, without `before`, a JSON object that has both.
    """

    marks: tuple[str, ...]  # texts with which calls begin; empty: calls are the whole text or nothing
    open: str
    join: str
    close: str
    before: str = ""  # with the group `name`
    between: str = ""
    after: str = ""
    parameters: Parameters | None = None  # None: the arguments are a JSON object
    keys: tuple[tuple[str, str], ...] = ()  # (name, arguments) keys of a JSON object besides the usual ones


def _objects(mark: str, open_: str = "", join: str = r"\s*[,;]?\s*", close: str = "") -> CallFormat:
    return CallFormat((mark,), rf"{re.escape(mark)}\s*{open_}", join, close)


_SPECIAL_END = r"(?:\s*<\|(?:call|end|return)\|>)?"
KNOWN = (
    _objects("<tool_call>", "", r"\s*</tool_call>\s*<tool_call>\s*|\s*,\s*", r"\s*</tool_call>"),
    _objects("<tool_call>", r"\[\s*", r"\s*,\s*", r"\s*\]\s*</tool_call>"),
    _objects("[TOOL_CALLS]", r"\[\s*", r"\s*,\s*", r"\s*\]"),
    _objects("[TOOL_CALLS]"),
    _objects("<|python_tag|>"),
    _objects("<|START_ACTION|>", r"\[\s*", r"\s*,\s*", r"\s*\]\s*<\|END_ACTION\|>"),
    _objects("<|tool_call|>", r"\[\s*", r"\s*,\s*", r"\s*\](?:\s*<\|/tool_call\|>)?"),
    CallFormat(
        marks=("[TOOL_CALLS]",),
        open="",
        join=r"\s*",
        close="",
        before=rf"\[TOOL_CALLS\]\s*{NAME}",
        between=r"\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\])?\s*",
    ),
    CallFormat(
        marks=("<tool_call>", "<function="),
        open="",
        join=r"\s*",
        close="",
        before=rf"(?:<tool_call>\s*)?<function={NAME}>\s*",
        after=r"\s*</function>(?:\s*</tool_call>)?",
        parameters=Parameters(r"\s*<parameter=", ">\n?", "\n?</parameter>"),
    ),
    CallFormat(
        marks=("<tool_call>",),
        open="",
        join=r"\s*",
        close="",
        before=rf"<tool_call>\s*{NAME}\s*",
        after=r"\s*</tool_call>",
        parameters=Parameters(r"\s*<arg_key>", r"</arg_key>\s*<arg_value>", "</arg_value>"),
    ),
    CallFormat(
        marks=("<minimax:tool_call>",),
        open=r"<minimax:tool_call>\s*",
        join=r"\s*",
        close=r"\s*</minimax:tool_call>",
        before=rf'<invoke name="{NAME}">\s*',
        after=r"\s*</invoke>",
        parameters=Parameters(r'\s*<parameter name="', '">', "</parameter>"),
    ),
    CallFormat(
        marks=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        open=r"(?:<｜tool▁calls▁begin｜>)?\s*",
        join=r"\s*",
        close=r"(?:\s*<｜tool▁calls▁end｜>)?",
        before=rf"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?{NAME}",
        between=r"\s*(?:<｜tool▁sep｜>|```json)\s*",
        after=r"\s*(?:```)?\s*<｜tool▁call▁end｜>",
    ),
    CallFormat(
        marks=("<|tool_calls_section_begin|>",),
        open=r"<\|tool_calls_section_begin\|>\s*",
        join=r"\s*",
        close=r"(?:\s*<\|tool_calls_section_end\|>)?",
        before=rf"<\|tool_call_begin\|>\s*(?:functions\.)?{NAME}(?::\d+)?",
        between=r"\s*<\|tool_call_argument_begin\|>\s*",
        after=r"\s*<\|tool_call_end\|>",
    ),
    CallFormat(
        marks=("<|start|>assistant", "<|channel|>commentary", "<|channel|>analysis to=", "to=functions."),
        open="",
        join=r"\s*",
        close="",
        before=r"(?:<\|start\|>assistant)?(?:<\|channel\|>\w+)?\s*to=functions\." + NAME,
        between=r"\s*(?:<\|channel\|>\w+)?\s*(?:<\|constrain\|>)?(?:\w+)?\s*<\|message\|>\s*",
        after=_SPECIAL_END,
    ),
    CallFormat((), r"\s*\[\s*", r"\s*,\s*", r"\s*\]\s*"),
    CallFormat((), r"\s*", r"\s*;\s*", r"\s*"),
)
_NAME_KEYS, _ARGUMENT_KEYS = ("name", "tool_name", "function"), ("arguments", "parameters", "args", "input")


def split_calls(
    text: str, formats: Sequence[CallFormat] = KNOWN, tools: Tools = NO_TOOLS
) -> tuple[str, list[ToolCall]]:
    """(content, calls) of a text: what stands around the calls, and they in their order; without any the text itself.

    The first of the formats in which a whole call stands is read. One without marks is read where the text is nothing
    but calls of tools that `tools` names.
    """
    for form in formats:
        groups = _groups(text, form, tools)
        if groups:
            rest = [text[: groups[0][0]].rstrip()]
            rest += [text[a[1] : b[0]].strip() for a, b in itertools.pairwise(groups)]
            rest.append(text[groups[-1][1] :].strip())
            return "\n".join(filter(None, rest)), [call for _, _, calls in groups for call in calls]
    return text, []


def calls_begin(text: str, formats: Sequence[CallFormat] = KNOWN) -> int:
    """The place from which on a text, of which more may come, is or may become calls; its length if none may."""
    marks = {mark for form in formats for mark in form.marks}
    first = min((at for mark in marks if (at := text.find(mark)) >= 0), default=len(text))
    if any(not form.marks for form in formats) and text.lstrip()[:1] in ("", "{", "["):
        return 0
    return min(first, len(text) - partial_length(text, marks))


def arguments_of(value: Any) -> dict[str, Any] | None:
    """The arguments of a call from what stands for them: an object, JSON of one, or nothing; None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        found = json_at(text, 0) if text else (None, 0)
        value = found[0] if found and found[1] == len(text) else text
    return {} if value is None else value if isinstance(value, dict) else None


def _groups(text: str, form: CallFormat, tools: Tools) -> list[tuple[int, int, list[ToolCall]]]:
    """(start, end, calls) of each row of calls that a format has in the text."""
    if not form.marks:
        group = _group(text, 0, form, tools)
        named = group and all(call.name in tools.types for call in group[2])
        return [group] if named and group[1] == len(text) else []
    groups, at = [], 0
    while (start := min((i for mark in form.marks if (i := text.find(mark, at)) >= 0), default=-1)) >= 0:
        group = _group(text, start, form, tools)
        if group:
            groups.append(group)
        at = group[1] if group else start + 1
    return groups


def _group(text: str, start: int, form: CallFormat, tools: Tools) -> tuple[int, int, list[ToolCall]] | None:
    opened = re.compile(form.open).match(text, start)
    if not opened:
        return None
    calls, at, joined = [], opened.end(), opened.end()
    while read := _call(text, joined, form, tools):
        call, at = read
        calls.append(call)
        join = re.compile(form.join).match(text, at)
        if not join:
            break
        joined = join.end()
    closed = re.compile(form.close).match(text, at) if calls else None
    if closed:
        return start, closed.end(), calls
    return (start, len(text), calls) if calls and not text[at:].strip() else None


def _call(text: str, at: int, form: CallFormat, tools: Tools) -> tuple[ToolCall, int] | None:
    """(the call that begins at a place, where it ends)."""
    if not form.before:
        found = json_at(text, at)
        call = call_of(found[0], form.keys) if found else None
        return (call, found[1]) if call else None
    head = re.compile(form.before + form.between).match(text, at)
    if not head:
        return None
    found = (
        _parameters(text, head.end(), form.parameters, tools.types.get(head["name"], {}))
        if form.parameters
        else json_at(text, head.end())
    )
    arguments = arguments_of(found[0]) if found else None
    if form.parameters and not arguments and head["name"] not in tools.types:
        return None  # a word in marks
    tail = re.compile(form.after).match(text, found[1]) if found else None
    if found and not tail and not text[found[1] :].strip() and not form.parameters:
        return (ToolCall(head["name"], arguments), len(text)) if arguments is not None else None
    return (ToolCall(head["name"], arguments), tail.end()) if tail and arguments is not None else None


def call_of(value: Any, keys: Sequence[tuple[str, str]] = ()) -> ToolCall | None:
    """The call that a JSON value is: an object with the tool's name and its arguments, or one around such an object."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        return call_of(value["function"], keys)
    for name_key, argument_key in (*keys, *((n, a) for a in _ARGUMENT_KEYS for n in _NAME_KEYS)):
        name, arguments = value.get(name_key), arguments_of(value.get(argument_key, 0))
        if isinstance(name, str) and name and arguments is not None:
            return ToolCall(name, arguments)
    return None


def _parameters(
    text: str, at: int, form: Parameters, types: Mapping[str, str]
) -> tuple[dict[str, Any], int] | None:
    """(parameters that begin at a place, where they end)."""
    values = {}
    key = rf"{form.open}(?P<key>[^\s<>(){{}}:=,\"']+?)"
    bounded = re.compile(rf"{key}{form.text_middle or form.middle}(?P<value>.*?){form.close}", re.DOTALL)
    unbounded = re.compile(key + form.middle)
    separator, end = re.compile(form.separator), at
    while True:
        if form.close and (match := bounded.match(text, at)):
            kind = "string" if form.text_middle else types.get(match["key"], "")
            value, end = _typed(match["value"], kind), match.end()
        elif (form.text_middle or not form.close) and (match := unbounded.match(text, at)):
            found = value_at(text, match.end(), form.text_marks)
            if not found:
                return None
            value, end = found
        else:
            return values, end
        values[match["key"]] = value
        between = separator.match(text, end)
        at = between.end() if between else len(text)


def _typed(text: str, kind: str) -> Any:
    """The value of a parameter that is written without its type."""
    if kind == "string":
        return text
    found = json_at(text.strip(), 0)
    if found and found[1] == len(text.strip()) and not isinstance(found[0], str):
        return found[0]
    words = {"True": True, "False": False, "None": None}  # as Jinja writes them
    return words.get(text.strip(), text) if kind else text


def json_values(text: str) -> Iterator[tuple[int, Any, int]]:
    """(start, value, end) of each JSON object in a text, the outer one of nested ones first."""
    at = text.find("{")
    while at >= 0:
        if found := json_at(text, at):
            yield at, *found
        at = text.find("{", at + 1)
