"""The texts inside a record: their paths, which are training targets, and the record with texts replaced."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.filters.types import Finding

Path = tuple[str | int, ...]

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


class RecordText(NamedTuple):
    """A text of a record. `is_target`: a model is trained to write it, not only to read it."""

    path: Path
    text: Any  # str, or bytes where a data set has invalid UTF-8
    is_target: bool


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
    """A JSON line. Bytes become {"base64": …}; half a surrogate pair stays an escape, since UTF-8 has none."""
    text = _ENCODER.encode(value)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, default=_bytes, separators=(",", ":")).encode() + b"\n"


def _bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} is no JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_bytes, separators=(",", ":"))
