"""How a chat template writes thoughts and tool calls, learnt from what it makes of messages with known ones."""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.data.chat import Template
from jaxtrain.data.messages import BadRecord, Message
from jaxtrain.data.response import MARKS, ThoughtMarks, split_thought
from jaxtrain.data.tool_calls import NAME, CallFormat, Parameters, ToolCall, call_of, json_values

_CONTENT, _THOUGHT = "Zqcontent", "Zqthought"
_FIRST = ToolCall("zq_first", {"zqalpha": "Zqone", "zqbeta": "Zqtwo", "zqgamma": 7})
_SECOND = ToolCall("zq_second", {"zqdelta": "Zqthree"})
_IDS = ("zqcall001", "zqcall002")  # nine letters and digits, which Mistral's templates want
_USER: Message = {"role": "user", "content": "Zqquestion"}


class ResponseFormats(NamedTuple):
    """What a template writes around thoughts and calls."""

    thought: ThoughtMarks | None  # None: it writes none, or in the marks of data/response.py
    calls: CallFormat | None  # None: it has no place for calls


def response_formats(template: Template) -> ResponseFormats:
    """The formats of a chat template, learnt from what it makes of a thought and of calls that are known."""
    return ResponseFormats(_thought_marks(template), _call_format(template))


def _answer(
    template: Template, content: str, calls: Sequence[tuple[ToolCall, str]] = (), thought: str = ""
) -> str | None:
    """What the template writes for an answer; None where it refuses it."""
    message: Message = {"role": "assistant", "content": content}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call, i in calls
        ]
    try:
        return template.completion_text([_USER], message)
    except (BadRecord, ConfigError):
        return None


def _thought_marks(template: Template) -> ThoughtMarks | None:
    text = _answer(template, _CONTENT, thought=_THOUGHT)
    if text is None or _THOUGHT not in text or _CONTENT not in text:
        return None
    text = _without_end(text, template, (_answer(template, _CONTENT) or "").rpartition(_CONTENT)[2])
    if any(split_thought(text, opened)[0] == _THOUGHT for opened in (False, True)):
        return None  # in well-known marks
    head, _, rest = text.partition(_THOUGHT)
    # Where the prompt opens the thought, it ends with the mark.
    start = head.strip() or template.prompt_text([_USER]).rstrip().rpartition("\n")[2].strip()
    end = rest.partition(_CONTENT)[0].strip()
    return ThoughtMarks(start, end) if start and end else None


def _call_format(template: Template) -> CallFormat | None:
    one, two = (_FIRST, _IDS[0]), (_SECOND, _IDS[1])
    both, single = _answer(template, "", [one, two]), _answer(template, "", [one])
    # A template may write one call a turn.
    whole = both if both and _SECOND.name in both else single
    if whole is None or _FIRST.name not in whole:
        return None
    for marks in MARKS:  # a template may write an empty thought before a call
        before, end, rest = whole.partition(marks.end)
        whole = rest if end and _FIRST.name not in before else whole
    whole = _without_end(whole, template, (_answer(template, _CONTENT) or "").rpartition(_CONTENT)[2])
    head = _head(whole, _answer(template, _CONTENT, [one]))
    return _object_format(whole, head) or _named_format(whole, head)


def _head(whole: str, beside: str | None) -> Callable[[int], str]:
    """A function of what the template writes before a place of the first call and after the content."""
    content = beside.find(_CONTENT) + len(_CONTENT) if beside and _CONTENT in beside else -1
    name = beside.find(_FIRST.name) if beside else -1

    def head(at: int) -> str:
        shift = whole.index(_FIRST.name) - at
        if 0 <= content <= name - shift:
            return _common_suffix(whole[:at], beside[content : name - shift]).lstrip()
        return whole[:at].lstrip()

    return head


def _object_format(whole: str, head: Callable[[int], str]) -> CallFormat | None:
    """The format of calls that are JSON objects with their name and arguments."""
    spans: list[tuple[int, int]] = []
    keys: tuple[tuple[str, str], ...] = ()
    for call in (_FIRST, _SECOND):
        for start, value, end in json_values(whole):
            pair = _keys_of(value, call)
            if (call_of(value) == call or (pair and call_of(value, [pair]) == call)) and call.name in whole[
                start:end
            ]:
                spans.append((start, end))
                keys = keys if call_of(value) == call else (pair,)
                break
    if not spans:
        return None
    (start, end), last = spans[0], spans[-1][1]
    opening = head(start)
    join = _literal(whole[end : spans[1][0]]) if len(spans) > 1 else r"\s*,\s*"
    return CallFormat(tuple(opening.split()[:1]), _literal(opening), join, _literal(whole[last:]), keys=keys)


def _keys_of(value: Any, call: ToolCall) -> tuple[str, str] | None:
    """The keys under which an object has a call's name and arguments, where they are no usual ones."""
    if not isinstance(value, dict):
        return None
    name = next((key for key, one in value.items() if one == call.name), None)
    arguments = next(
        (key for key, one in value.items() if one in (call.arguments, json.dumps(call.arguments))), None
    )
    return (name, arguments) if name and arguments else None


def _named_format(whole: str, head: Callable[[int], str]) -> CallFormat | None:
    """The format of calls whose name stands before their arguments, a JSON object or parameters one by one."""
    name = whole.index(_FIRST.name)
    after_name = name + len(_FIRST.name)
    spans = [_json_span(whole, call) for call in (_FIRST, _SECOND)]
    parameters = None
    if spans[0]:
        between, end = whole[after_name : spans[0][0]], spans[0][1]
        last = spans[1][1] if spans[1] else end
    else:
        learnt = _parameters(whole, after_name)
        if learnt is None:
            return None
        between, parameters, end, last = learnt
    opening, before, after, join = head(name), head(name), "", ""
    second = whole.find(_SECOND.name, end)
    if second >= 0:
        joined = whole[end:second]
        before = _common_suffix(opening, joined)
        after = _common_prefix(joined[: len(joined) - len(before)], whole[last:])
        join = joined[len(after) : len(joined) - len(before)]
    opening = opening[: len(opening) - len(before)]
    mark = opening.split()[:1] or before.split()[:1]
    if not mark:
        return None
    return CallFormat(
        marks=tuple(mark),
        open=_literal(opening),
        join=_literal(join) if join.strip() else r"\s*",
        close=_literal(whole[last + len(after) :]),
        before=_literal(before) + NAME,
        between=_literal(between).replace(_FIRST.name, "(?P=name)"),
        after=_literal(after),
        parameters=parameters,
    )


def _json_span(whole: str, call: ToolCall) -> tuple[int, int] | None:
    """Where the arguments of a call stand as a JSON object."""
    after = whole.find(call.name)
    spans = (
        (start, end) for start, value, end in json_values(whole) if start > after and value == call.arguments
    )
    return next(spans, None)


def _parameters(whole: str, at: int) -> tuple[str, Parameters, int, int] | None:
    """(text between name and parameters, their format, where those of the first and of the last call end)."""
    words = ("zqalpha", "Zqone", "zqbeta", "Zqtwo", "zqgamma")
    places = [whole.find(word, at) for word in words]
    if -1 in places or sorted(places) != places:
        return None
    alpha, one, beta, _, gamma = places
    number = re.compile(r"([^7]*)7").match(whole, gamma + len("zqgamma"))
    if not number:
        return None
    step, first = whole[one + len("Zqone") : beta], whole[at:alpha]
    opening = _common_suffix(first, step)
    body = step[: len(step) - len(opening)]
    third = whole.find("Zqthree")
    close = _common_prefix(body, whole[third + len("Zqthree") :]) if third >= 0 else body
    middle, end = whole[alpha + len("zqalpha") : one], number.end()
    last = third + len("Zqthree") + len(close) if third >= 0 else -1
    if number[1] == middle:
        end += len(close)
        form = Parameters(_literal(opening), _exact(middle), _exact(close), _literal(body[len(close) :]))
    elif middle in (number[1] + "'", number[1] + '"') and close[:1] == middle[-1]:  # a text is a literal too
        last = last - len(close) + 1
        form = Parameters(_literal(opening), _literal(number[1]), "", _literal(body[1:]))
    else:
        form = Parameters(
            open=_literal(opening),
            middle=_literal(number[1]),
            close=_exact(close),
            separator=_literal(body[len(close) :]),
            text_middle=_exact(middle),
            text_marks=(middle.removeprefix(number[1]), close),
        )
    return first[: len(first) - len(opening)], form, end, last if third >= 0 else end


def _without_end(text: str, template: Template, plain: str) -> str:
    """The text of a turn without what ends it, as it ends a plain answer."""
    text = text.rstrip()
    end = max(
        (special for special in template.tokenizer.specials if text.endswith(special)), key=len, default=""
    )
    return text.removesuffix(end) if end else text[: len(text) - len(_common_suffix(text, plain))]


def _common_prefix(a: str, b: str) -> str:
    return "".join(
        x for x, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    )


def _common_suffix(a: str, b: str) -> str:
    return _common_prefix(a[::-1], b[::-1])[::-1]


def _literal(text: str) -> str:
    """A regular expression of a text, in any white space; the id of a call is any word."""
    pattern = r"\s*".join(map(re.escape, re.split(r"\s+", text)))
    for i in _IDS:
        pattern = pattern.replace(re.escape(i), r"[\w.:\-]+")
    return pattern


def _exact(text: str) -> str:
    """A regular expression of a text beside a value: its white space may lack, and more of it is the value's."""
    parts = re.split(r"(\s+)", text)
    return "".join(f"(?:{re.escape(part)})?" if part.isspace() else re.escape(part) for part in parts)
