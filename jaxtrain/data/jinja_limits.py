"""Limits of a Jinja program that is foreign code: the time of a rendering, and the size of what it makes."""

import contextlib
import functools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.sandbox
import jinja2.visitor

SECONDS = 10.0  # most that one rendering may take
MOST = 1 << 26  # characters of a text, or items of a list
_DEADLINE: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Bounds the time of all renderings in the context together, on this thread; a rendering after it fails."""
    reset = _DEADLINE.set(min(_DEADLINE.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _DEADLINE.reset(reset)


def joined(pieces: Iterator[str]) -> str:
    """The pieces in one text. Raises TemplateRuntimeError where it has more than MOST characters."""
    written, size = [], 0
    for piece in pieces:
        written.append(piece)
        size += len(piece)
        _check_size(size)
    return "".join(written)


class LimitedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox whose loops and calls watch the time, and in which no text or list grows beyond MOST.

    Raises TemplateRuntimeError in a program that does.
    """

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self, **options: Any):
        super().__init__(**options)
        for name in _SIZES.keys() & self.filters.keys():
            self.filters[name] = _limited(name, self.filters[name])
        self.filters |= {"timed": _Timed, "concatenated": _concatenated}

    def limited(self, source: str) -> jinja2.Template:
        """The compiled program. Raises TemplateSyntaxError."""
        tree = _Limits(self).visit(self.parse(source))
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def call(self, context: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        _check_time()
        method = getattr(f, "__wrapped__", f)  # the sandbox wraps format
        if isinstance(text := getattr(method, "__self__", None), str):
            _check_result(method.__name__, (text, *args), kwargs)
        return _sized(super().call(context, f, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (abs(left) <= MOST and abs(right) <= 64):
            raise jinja2.TemplateRuntimeError(f"{operator} of numbers that large")
        if operator == "*":
            for many, count in ((left, right), (right, left)):
                if isinstance(many, Sequence) and isinstance(count, int):
                    _check_size(len(many) * count)
        if operator == "%" and isinstance(left, str):
            _check_result("format", (left, *(right if isinstance(right, tuple) else (right,))), {})
        return _sized(super().call_binop(context, operator, left, right))


class _Limits(jinja2.visitor.NodeTransformer):
    """Puts the filters of the limits around what loops run over, and around concatenations."""

    def __init__(self, env: LimitedEnvironment):
        self._env = env

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:
        node = self.generic_visit(node)
        node.iter = self._filtered("timed", node.iter)
        return node

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:
        node = self.generic_visit(node)
        return self._filtered("concatenated", jinja2.nodes.List(node.nodes, lineno=node.lineno))

    def _filtered(self, name: str, node: jinja2.nodes.Expr) -> jinja2.nodes.Filter:
        new = jinja2.nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
        new.set_environment(self._env)
        return new


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


def _concatenated(values: Sequence[Any]) -> str:
    """The operator ~."""
    return joined(map(str, values))


def _check_time() -> None:
    if time.monotonic() > _DEADLINE.get():
        raise jinja2.TemplateRuntimeError(f"it ran for more than {SECONDS:.0f} s: does it loop for ever?")


def _check_size(size: float) -> None:
    if size > MOST:
        raise jinja2.TemplateRuntimeError(f"it would make more than {MOST:,} characters or items")


def _sized(value: Any) -> Any:
    if isinstance(value, str | list | tuple):
        _check_size(len(value))
    return value


def _width(text: str, width: int = 80, *_: Any) -> int:
    return width


def _formatted(text: str, *args: Any, **named: Any) -> int:
    widths = [int(digits) for digits in re.findall(r"\d{7,}", text)]
    if "*" in text or ":{" in text:  # a width may be an argument
        widths += [abs(one) for one in (*args, *named.values()) if isinstance(one, int)]
    return max(widths, default=0)


# A filter, or a method of a text -> the size of its result, or less, from its arguments, the text first.
_SIZES: Mapping[str, Callable[..., float]] = {
    "center": _width,
    "ljust": _width,
    "rjust": _width,
    "zfill": _width,
    "expandtabs": lambda text, size=8: text.count("\t") * size,
    "format": _formatted,
    "indent": lambda text, width=4, *_, **__: (
        (text.count("\n") + 1) * (width if isinstance(width, int) else len(width))
    ),
    "replace": lambda text, old, new, *_: text.count(old) * len(new),
    "translate": lambda text, table: len(text) * max((len(str(one)) for one in table.values()), default=0),
}


def _check_result(name: str, args: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Raises TemplateRuntimeError for a call whose result would be too large; wrong arguments are the callee's."""
    with contextlib.suppress(TypeError, AttributeError):
        _check_size(_SIZES.get(name, lambda *_, **__: 0)(*args, **named))


def _limited(name: str, f: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that checks the size of its result first; some are given Jinja's context before the value."""
    first = int(hasattr(f, "jinja_pass_arg"))

    @functools.wraps(f)
    def checked(*args: Any, **named: Any) -> Any:
        _check_result(name, args[first:], named)
        return f(*args, **named)

    return checked
