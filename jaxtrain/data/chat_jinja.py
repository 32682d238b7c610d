"""Chat templates as Jinja programs: what they see.

A template comes with a model, so it is foreign code: it runs in a sandbox with limits (jinja_limits.py). It sees what
`transformers` gives one: messages, tools, documents, add_generation_prompt, the names of special tokens,
raise_exception, strftime_now, tojson, and the tags generation, break and continue.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from jaxtrain.data import jinja_limits
from jaxtrain.data.bad_records import is_unicode
from jaxtrain.data.jinja_limits import LimitedEnvironment

# For templates that write the date: the same data give the same ids on any day.
_TODAY = datetime.datetime(2024, 7, 26)


class TemplateFailure(ValueError):
    """A rendering that failed; the message is the template's own, or what went wrong in it."""


class ChatJinja:
    """A compiled template. Raises jinja2.TemplateSyntaxError where the source is none."""

    def __init__(self, source: str):
        env = LimitedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        env.globals |= {"raise_exception": _raise, "strftime_now": _TODAY.strftime}
        env.filters["tojson"] = _to_json
        self._template = env.limited(source)

    def render(self, messages: Sequence[Any], variables: Mapping[str, Any]) -> str:
        """The text of the messages. Raises TemplateFailure, also after SECONDS."""
        try:
            with jinja_limits.within(jinja_limits.SECONDS):
                text = jinja_limits.joined(
                    self._template.generate(
                        {"tools": None, "documents": None, **variables, "messages": list(messages)}
                    )
                )
        except jinja2.TemplateError as error:
            raise TemplateFailure(str(error)) from error
        except Exception as error:  # whatever a foreign program may raise
            raise TemplateFailure(f"{type(error).__name__}: {error}") from error
        if not is_unicode(text):
            raise TemplateFailure("it writes half a surrogate pair")
        return text


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


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, **options: Any) -> str:
    """JSON as templates expect it; Jinja's own escapes what HTML would read."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
