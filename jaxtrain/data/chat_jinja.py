"""Chat templates as Jinja programs: what they may call, and how long they may run.

A template comes with a model, so it is foreign code: it runs in Jinja's sandbox, within a time. It sees what
`transformers` gives one: messages, tools, documents, add_generation_prompt, the names of special tokens,
raise_exception, strftime_now, tojson, and the tags generation, break and continue.
"""

import datetime
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from jaxtrain.data.bad_records import is_unicode

SECONDS = 10.0  # most that one rendering may take
MOST = 1 << 28  # characters, or items, that one multiplication may make
# For templates that write the date: the same data give the same ids on any day.
_TODAY = datetime.datetime(2024, 7, 26)
_DEADLINE: ContextVar[float] = ContextVar("deadline", default=math.inf)


class TemplateFailure(ValueError):
    """A rendering that failed; the message is the template's own, or what went wrong in it."""


class ChatJinja:
    """A compiled template. Raises jinja2.TemplateSyntaxError where the source is none."""

    def __init__(self, source: str):
        env = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        env.globals |= {"raise_exception": _raise, "strftime_now": _TODAY.strftime}
        env.filters |= {"tojson": _to_json, "timed": _Timed}
        tree = env.parse(source)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = jinja2.nodes.Filter(loop.iter, "timed", [], [], None, None, lineno=loop.lineno)
            loop.iter.set_environment(env)
        code = env.compile(tree)
        self._template = jinja2.Template.from_code(env, code, env.make_globals(None))

    def render(self, messages: Sequence[Any], variables: Mapping[str, Any]) -> str:
        """The text of the messages. Raises TemplateFailure, also after SECONDS."""
        reset = _DEADLINE.set(time.monotonic() + SECONDS)
        try:
            text = self._template.render(
                {"tools": None, "documents": None, **variables, "messages": list(messages)}
            )
        except jinja2.TemplateError as error:
            raise TemplateFailure(str(error)) from error
        except Exception as error:  # whatever a foreign program may raise
            raise TemplateFailure(f"{type(error).__name__}: {error}") from error
        finally:
            _DEADLINE.reset(reset)
        if not is_unicode(text):
            raise TemplateFailure("it writes half a surrogate pair")
        return text


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**"])

    def call(self, *args: Any, **kwargs: Any) -> Any:
        _check_time()
        return super().call(*args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (abs(left) <= MOST and abs(right) <= 64):
            raise jinja2.TemplateRuntimeError(f"{operator} of numbers that large")
        for many, count in ((left, right), (right, left)):
            if isinstance(many, Sequence) and isinstance(count, int) and len(many) * count > MOST:
                raise jinja2.TemplateRuntimeError(f"{operator} would make more than {MOST:,} items")
        return super().call_binop(context, operator, left, right)


class _Timed:
    """What a loop runs over, with the time checked at each item."""

    def __init__(self, items: Any):
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            _check_time()
            yield item

    def __len__(self) -> int:
        return len(self._items)


class _Generation(jinja2.ext.Extension):
    """The tag {% generation %} … {% endgeneration %}, which some templates put around an assistant's text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Arguments(dict):
    """A call's arguments: an object for tojson and items, JSON where a template writes or adds them as text."""

    def __str__(self) -> str:
        return _to_json(self)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


def with_arguments(call: Any) -> Any:
    """A tool call whose arguments, an object or JSON of one, a template can read as an object and write as text."""
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": with_arguments(call["function"])}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return call  # what a model wrote wrong stays as it is
    return {**call, "arguments": _Arguments(arguments)} if isinstance(arguments, dict) else call


def _check_time() -> None:
    if time.monotonic() > _DEADLINE.get():
        raise jinja2.TemplateRuntimeError(f"it ran for more than {SECONDS:.0f} s: does it loop for ever?")


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, **options: Any) -> str:
    """JSON as templates expect it; Jinja's own escapes what HTML would read."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
