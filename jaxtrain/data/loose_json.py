"""JSON values, and what templates write in their place: Python's words and quotes, bare keys, texts in marks."""

import ast
import json
import re
from typing import Any

_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_WORD = re.compile(r"[A-Za-z]+\b")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_KEY = re.compile(r"\s*([\w$.\-]+)\s*:\s*")
_SPACE = re.compile(r"\s*")
DEEPEST = 100  # objects and lists inside each other


def json_at(text: str, at: int) -> tuple[Any, int] | None:
    """(the JSON value that begins at a place, where it ends); None where there is none."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None


def value_at(text: str, at: int, marks: tuple[str, str] = ("", "")) -> tuple[Any, int] | None:
    """(the value that begins at a place, where it ends), JSON or written loosely; `marks` stand around texts."""
    try:
        return json_at(text, at) or _value(text, at, marks, 0)
    except (ValueError, SyntaxError):
        return None


def _value(text: str, at: int, marks: tuple[str, str], depth: int) -> tuple[Any, int]:
    """As `value_at`. Raises ValueError or SyntaxError where there is none."""
    start, end = marks
    if start and text.startswith(start, at):
        stop = text.index(end, at + len(start))
        return text[at + len(start) : stop], stop + len(end)
    if quoted := _QUOTED.match(text, at):
        return ast.literal_eval(quoted[0].replace("\r", "\\r").replace("\n", "\\n")), quoted.end()
    if text.startswith(("{", "["), at) and depth < DEEPEST:
        return _members(text, at, marks, depth)
    word = _WORD.match(text, at)
    if word and word[0] in _WORDS:
        return _WORDS[word[0]], word.end()
    if (number := json_at(text, at)) is None:
        raise ValueError("no value")
    return number


def _members(text: str, at: int, marks: tuple[str, str], depth: int) -> tuple[Any, int]:
    """A list, or an object with keys that may be bare."""
    close, items = ("}", {}) if text[at] == "{" else ("]", [])
    at = _SPACE.match(text, at + 1).end()
    while not text.startswith(close, at):
        if isinstance(items, dict):
            if bare := _KEY.match(text, at):
                key, at = bare[1], bare.end()
            else:
                key, at = _value(text, at, marks, depth + 1)
                at = _SPACE.match(text, text.index(":", at) + 1).end()
            items[str(key)], at = _value(text, at, marks, depth + 1)
        else:
            item, at = _value(text, at, marks, depth + 1)
            items.append(item)
        at = _SPACE.match(text, at).end()
        if text.startswith(",", at):
            at = _SPACE.match(text, at + 1).end()
        elif not text.startswith(close, at):
            raise ValueError("neither a comma nor an end")
    return items, at + 1


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_constant)
