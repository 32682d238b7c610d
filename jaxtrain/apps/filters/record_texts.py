"""The texts inside a record: where they stand, which are learnt, and the record with others in their place."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.filters.types import Finding

Path = tuple[str | int, ...]

# What a model learns to write, what it only reads, and the answer that it learns to avoid.
_LEARNT = (
    "completion",
    "response",
    "output",
    "chosen",
    "response_a",
    "response_b",
    "completions",
    "revision",
)
_GIVEN = ("prompt", "instruction", "input", "system", "request", "critique")
_AVOIDED = ("rejected",)
_TURNS = ("messages", "conversations")
_ASSISTANT = ("assistant", "gpt", "bot", "model")
_CONTENT = ("content", "value", "text")


class RecordText(NamedTuple):
    """A text of a record. `learnt`: a model is trained to write it, not only to read it."""

    path: Path
    text: Any  # str, or bytes where a data set holds what is no UTF-8
    learnt: bool


def parts(record: Mapping[str, Any], field: str = "text") -> list[RecordText]:
    """The texts of a record of any format that data/record_formats.py reads; `field` holds plain text."""
    found: list[RecordText] = []
    for name in (field, *_GIVEN, *_TURNS, *_LEARNT, *_AVOIDED):
        if name in record and not (name != field and found and found[0].path == (name,)):
            found += _walk(record[name], (name,), name == field or name in _LEARNT)
    return found


def _walk(value: Any, path: Path, learnt: bool) -> Iterator[RecordText]:
    if isinstance(value, str | bytes):
        yield RecordText(path, value, learnt)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _walk(one, (*path, i), learnt)
    elif isinstance(value, dict):
        role = value.get("role", value.get("from"))
        if isinstance(role, list):  # an object of lists, as TFDS keeps a list of messages
            yield from _columns(value, role, path)
            return
        said = role in _ASSISTANT if isinstance(role, str) else learnt
        for name in _CONTENT:
            if name in value:
                yield from _walk(value[name], (*path, name), said)


def _columns(value: Mapping[str, Any], roles: Sequence[Any], path: Path) -> Iterator[RecordText]:
    for name in _CONTENT:
        column = value.get(name)
        if isinstance(column, list):
            for i, (role, one) in enumerate(zip(roles, column, strict=False)):
                yield from _walk(one, (*path, name, i), role in _ASSISTANT)


def shown(path: Path) -> str:
    """A path as people write it, `messages[2].content`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def judged(found: Sequence[RecordText]) -> list[RecordText]:
    """The parts that are learnt; all of them where none is, as in a record that is a prompt alone."""
    return [part for part in found if part.learnt] or list(found)


def replaced(value: Any, path: Path, text: str) -> Any:
    """`value` with `text` at `path`; what is not on the path is shared, nothing is changed in place."""
    if not path:
        return text
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], text)
    return copy


def masked(text: str, findings: Sequence[Finding]) -> str:
    """The text with the findings' replacements; of overlapping ones the first's, which covers them all."""
    wanted = [one for one in findings if one.replacement is not None]
    pieces, end = [], 0
    for one in sorted(wanted, key=lambda one: _order(one, len(text))):
        start, stop = one.span or (0, len(text))
        if start >= end or not pieces:
            pieces += [text[end:start], one.replacement]
            end = stop
        elif stop > end:  # the rest of an overlapping one goes too: half a card number is still one
            end = stop
    return "".join([*pieces, text[end:]])


def _order(one: Finding, size: int) -> tuple[int, int]:
    start, stop = one.span or (0, size)
    return start, -stop


def dumps(value: Any) -> bytes:
    """A line of JSON. Bytes become {"base64": …}; half a surrogate pair stays an escape, since UTF-8 has none."""
    text = _LINES.encode(value)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, default=_bytes, separators=(",", ":")).encode() + b"\n"


def _bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} is no JSON")


_LINES = json.JSONEncoder(ensure_ascii=False, default=_bytes, separators=(",", ":"))
