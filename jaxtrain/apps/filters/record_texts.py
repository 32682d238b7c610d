"""The texts inside a record: their paths, which are training targets, and the record with texts replaced."""

import base64
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.filters.types import Finding

Path = tuple[Any, ...]  # keys, places in lists, at the end perhaps a FieldName

# Fields that a model is trained to write, that it only reads, and the answer that it is trained to avoid.
_TARGETS = (
    "completion",
    "response",
    "output",
    "chosen",
    "response_a",
    "response_b",
    "completions",
    "revision",
)
_INPUTS = ("prompt", "instruction", "input", "system", "request", "critique")
_REJECTED = ("rejected",)
_TURNS = ("messages", "conversations")
_ASSISTANT = ("assistant", "gpt", "bot", "model")
_CONTENT = ("content", "value", "text")
_PLAIN_NAME = re.compile(r"[^\W\d][\w -]{0,39}")


class FieldName(NamedTuple):
    """The last element of a path to the name of a field, rather than to its value."""

    name: str

    def __str__(self) -> str:
        return f"{self.name} (name)"


class RecordText(NamedTuple):
    """A text of a record. `is_target`: a model is trained to write it, not only to read it."""

    path: Path
    text: Any  # str, or bytes where a data set has invalid UTF-8
    is_target: bool

    @property
    def field(self) -> str:
        """The name of the field that the text stands in, however deep in lists; "" for a field's name itself."""
        if isinstance(self.path[-1], FieldName):
            return ""
        return next((key for key in reversed(self.path) if isinstance(key, str)), "")


def find_texts(record: Mapping[str, Any], field: str = "text") -> list[RecordText]:
    """The texts of a record of any format that data/record_formats.py reads; `field` holds plain text."""
    texts: list[RecordText] = []
    for name in (field, *_INPUTS, *_TURNS, *_TARGETS, *_REJECTED):
        if name in record and not (name != field and texts and texts[0].path == (name,)):
            texts += _walk(record[name], (name,), name == field or name in _TARGETS)
    return texts


def _walk(value: Any, path: Path, is_target: bool) -> Iterator[RecordText]:
    if isinstance(value, str | bytes):
        yield RecordText(path, value, is_target)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _walk(one, (*path, i), is_target)
    elif isinstance(value, dict):
        role = value.get("role", value.get("from"))
        if isinstance(role, list):  # an object of lists, as TFDS keeps a list of messages
            yield from _columns(value, role, path)
            return
        by_role = role in _ASSISTANT if isinstance(role, str) else is_target
        for name in _CONTENT:
            if name in value:
                yield from _walk(value[name], (*path, name), by_role)


def _columns(value: Mapping[str, Any], roles: Sequence[Any], path: Path) -> Iterator[RecordText]:
    for name in _CONTENT:
        column = value.get(name)
        if isinstance(column, list):
            for i, (role, one) in enumerate(zip(roles, column, strict=False)):
                yield from _walk(one, (*path, name, i), role in _ASSISTANT)


def find_strings(record: Mapping[str, Any]) -> list[RecordText]:
    """Every string of a record, however deep: values, and the names of fields. Whole numbers of 7 digits and more too.

    A name's path ends in a FieldName. Depth is bounded by memory alone.
    """
    strings: list[RecordText] = []
    stack: list[tuple[Path, Any]] = [((), record)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            strings.append(RecordText(path, value, False))
        elif isinstance(value, Mapping):
            strings += [
                RecordText((*path, FieldName(key)), key, False)
                for key in value
                if isinstance(key, str) and not key.isidentifier()
            ]
            stack += [((*path, key), one) for key, one in reversed(value.items())]
        elif isinstance(value, list | tuple):
            stack += [
                ((*path, i), one)
                for i, one in zip(range(len(value) - 1, -1, -1), reversed(value), strict=True)
            ]
        elif isinstance(value, int) and abs(value) >= 1_000_000:
            strings.append(RecordText(path, str(value), False))
    return strings


def replace_strings(value: Any, changed: Mapping[Path, str], path: Path = ()) -> Any:
    """A copy of a record with other strings at these paths of `find_strings`; no two fields get one name."""
    if path in changed:
        return changed[path]
    if isinstance(value, list | tuple):
        return [replace_strings(one, changed, (*path, i)) for i, one in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    copy: dict[Any, Any] = {}
    for key, one in value.items():
        name = base = changed.get((*path, FieldName(key)), key) if isinstance(key, str) else key
        number = 1
        while name != key and (name in copy or name in value):
            number += 1
            name = f"{base} {number}"
        copy[name] = replace_strings(one, changed, (*path, key))
    return copy


@functools.lru_cache(1 << 12)
def field_pattern(path: Path) -> str:
    """The fields of a path as text, `messages[].content`; names that may themselves be data are *."""
    keys = [
        "[]" if isinstance(key, int) else f".{key if _PLAIN_NAME.fullmatch(str(key)) else '*'}"
        for key in path
    ]
    return "".join(keys).removeprefix(".")


def path_text(path: Path) -> str:
    """A path as text, `messages[2].content`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def targets(texts: Sequence[RecordText]) -> list[RecordText]:
    """The training targets of the texts; all of them where none is, as in a record of a prompt alone."""
    return [one for one in texts if one.is_target] or list(texts)


def replace_text(value: Any, path: Path, text: str) -> Any:
    """A copy of `value` with `text` at `path`; what is not on the path is shared."""
    if not path:
        return text
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = replace_text(copy[path[0]], path[1:], text)
    return copy


def mask_findings(text: str, findings: Sequence[Finding]) -> str:
    """The text with the findings' replacements; of overlapping ones the first's, which covers them all."""
    masks = [one for one in findings if one.replacement is not None]
    pieces, end = [], 0
    for one in sorted(masks, key=lambda one: _order(one, len(text))):
        start, stop = one.span or (0, len(text))
        if start >= end or not pieces:
            pieces += [text[end:start], one.replacement]
            end = stop
        elif stop > end:  # half a card number is personal data too
            end = stop
    return "".join([*pieces, text[end:]])


def _order(one: Finding, size: int) -> tuple[int, int]:
    start, stop = one.span or (0, size)
    return start, -stop


def json_line(value: Any) -> bytes:
    """A JSON line. Bytes become {"base64": …}; half a surrogate pair stays an escape, since UTF-8 has none.

    NaN and infinities, which JSON does not have, become the strings "NaN", "Infinity" and "-Infinity".
    """
    try:
        text = _ENCODER.encode(value)
    except ValueError:
        value = _finite(value)
        text = _ENCODER.encode(value)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return _ASCII_ENCODER.encode(value).encode() + b"\n"


def _finite(value: Any) -> Any:
    """A copy with strings for the numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def _bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} is not JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_bytes, separators=(",", ":"))
_ASCII_ENCODER = json.JSONEncoder(allow_nan=False, default=_bytes, separators=(",", ":"))
