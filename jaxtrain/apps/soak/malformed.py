"""Strategies of hypothesis for malformed records: accepted ones of every format, mutated, in files of every kind."""

import bz2
import copy
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import zstandard
from hypothesis import strategies as st

_ASKED = [{"role": "user", "content": "2+3?"}]
_ANSWER = {"role": "assistant", "content": "5"}
_OTHER = {"role": "assistant", "content": "6"}
_CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
_TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}]
_TOKEN = {
    "token": "5",
    "logprob": -0.1,
    "bytes": [53],
    "top_logprobs": [{"token": "5", "logprob": -0.1, "bytes": [53]}],
}
_REPLY = {"text": "5", "role": "assistant", "rank": 0, "replies": []}

_NO_FORMATS = ("rows of a tree", "vote", "labelled")  # that ?format= knows by these names

# Accepted records of each format.
RECORDS: dict[str, tuple[dict[str, Any], ...]] = {
    "text": ({"text": "two and three are five"}, {"text": "a longer text, of Ω and 中", "logp": -3.5}),
    "messages": (
        {"messages": [*_ASKED, _ANSWER], "system": "Be brief."},
        {"messages": {"role": ["user", "assistant"], "content": ["2+3?", "5"]}},
        {"messages": json.dumps([*_ASKED, _ANSWER])},
        {
            "messages": [
                *_ASKED,
                {"role": "assistant", "content": "", "tool_calls": [_CALL], "reasoning_content": "add"},
                {"role": "tool", "tool_call_id": "c1", "content": "5"},
                {"role": "assistant", "content": [{"type": "text", "text": "5"}], "weight": 1},
            ],
            "tools": _TOOLS,
        },
    ),
    "conversations": (
        {"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "5"}]},
        {"conversation": [{"input": "2+3?", "output": "5"}]},
        {"data": ["2+3?", "5"]},
    ),
    "completion": ({"prompt": "2+3?", "completion": "5", "documents": [{"text": "sums"}]},),
    "instruction": (
        {"instruction": "Add.", "input": "2+3", "output": "5", "history": [["1+1?", "2"]]},
        {"instruction": "Add 2 and 3.", "response": "5", "chat_template_kwargs": {"enable_thinking": False}},
    ),
    "question": ({"question": "2+3?", "answer": "5"}, {"prompt": "2+3?", "response": "5"}),
    "stored": (
        {
            "object": "chat.completion",
            "input": _ASKED,
            "choices": [
                {"message": _ANSWER, "finish_reason": "stop", "logprobs": {"content": [_TOKEN]}},
            ],
        },
    ),
    "tree": (
        {"prompt": {"text": "2+3?", "role": "prompter", "replies": [_REPLY, {**_REPLY, "text": "6", "rank": 1}]}},
    ),
    "rows of a tree": (
        {"message_id": "a", "parent_id": None, "text": "2+3?", "role": "prompter"},
        {"message_id": "b", "parent_id": "a", "text": "5", "role": "assistant", "rank": 0},
        {"message_id": "c", "parent_id": "a", "text": "6", "role": "assistant", "rank": 1},
    ),
    "chosen": (
        {"prompt": "2+3?", "chosen": "5", "rejected": "6", "margin": 0.5},
        {"chosen": [*_ASKED, _ANSWER], "rejected": [*_ASKED, _OTHER]},
        {"chosen": "\n\nHuman: 2+3?\n\nAssistant: 5", "rejected": "\n\nHuman: 2+3?\n\nAssistant: 6"},
        {"input": {"messages": _ASKED}, "preferred_output": [_ANSWER], "non_preferred_output": [_OTHER]},
    ),
    "responses": ({"prompt": "2+3?", "response_a": "5", "response_b": "6", "preferred": "a", "p_win": 0.9},),
    "ranked": ({"prompt": "2+3?", "completions": ["5", "6", "7"], "ranking": [1, 2, 2]},),
    "marked": ({"prompt": "2+3?", "answers": [{"text": "5", "score": 2}, {"text": "6", "score": 1.5}]},),
    "judged": ({"prompt": "2+3?", "completion": "5", "label": True},),
    "prompt": ({"prompt": "2+3?", "answer": 5}, {"prompt": _ASKED}),
    "labelled": (
        {"text": "two and three are five", "label": "good"},
        {"text": "BUY NOW two and three", "label": "spam"},
        {"messages": [*_ASKED, _ANSWER], "label": 0},
        {"prompt": "2+3?", "completion": "5", "label": True},
    ),
    "vote": (
        {"prompt": "2+3?", "response_a": "5", "response_b": "6", "preferred": "a", "reason": "", "annotator": "ann",
         "item": 3, "models": ["sft", "ppo"]},
        {"prompt": [*_ASKED, _ANSWER, *_ASKED], "completions": ["5", "6", "7"], "ranking": [1, 2, 2], "reason": "so",
         "annotator": "bob", "item": 4, "models": ["sft", "ppo", "base"]},
    ),
}  # fmt: skip

_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def _deep(levels: int, inside: Any = "x") -> Any:
    for _ in range(levels):
        inside = [inside]
    return inside


_DIGITS = "<digits>"  # replaced by a number of more digits than Python reads
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"), 10**30, 10**400,
    -(10**400), _DIGITS, "", " ", "\n", "\0", "\ud800", "a\udfffb", "\ufeff", "<|im_end|>", "</s>", "[/INST]",
    "é" * 300, "x" * 70_000, "{{ messages }}", "{% raw %}", "[1, 2", "[]", "{}", "null", '{"role": "user"}',
    "[" * 3_000, [], {}, [[]], [None], [{}], {"": 1}, {"a": None}, [1, "a", None, [2]], _deep(30), _deep(190),
    _deep(300), [_IMAGE], {"type": "image"}, [{"type": "text"}], [{"type": "text", "text": 5}], [_CALL],
    [{"function": {"name": 5}}],
    {"function": {"arguments": "\\ud800"}}, {"role": ["user", "assistant"], "content": ["a"]},
    {"role": "assistant", "content": None}, {"role": "user", "content": [_IMAGE]}, {"role": [], "content": []},
    [{"role": "tool", "content": "x"}], [["a", "b"]], [["a"]], [{"text": "5", "rank": 1}], {"content": None}, [256, -1],
)  # fmt: skip
_NAMES = (
    "role", "content", "from", "value", "text", "prompt", "completion", "messages", "tools", "tool_calls", "weight",
    "train", "rank", "label", "system", "history", "name", "choices", "margin", "chosen", "replies", "thinking",
    "chat_template_kwargs", "documents", "functions", "function_call", "deleted", "logprobs", "p_win", "refusal", "",
)  # fmt: skip

Path = tuple[str | int, ...]


def _paths(value: Any, at: Path = ()) -> list[Path]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, one in inside for path in _paths(one, (*at, key)))]


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _renamed(holder: Any, key: Any, odd: Any, name: str) -> None:
    if isinstance(holder, dict):
        holder[name] = holder.pop(key)


def _added(holder: Any, key: Any, odd: Any, name: str) -> None:
    if isinstance(holder, dict):
        holder[name] = copy.deepcopy(odd)
    else:
        holder.insert(key, copy.deepcopy(odd))


def _set(change: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any, str], None]:
    def apply(holder: Any, key: Any, odd: Any, name: str) -> None:
        holder[key] = change(holder[key], copy.deepcopy(odd))

    return apply


# Changes of the value at a key of an object, or a place of a list.
_CHANGES: tuple[Callable[[Any, Any, Any, str], None], ...] = (
    _set(lambda value, odd: odd),
    _set(lambda value, odd: odd),
    _set(lambda value, odd: [value]),
    _set(lambda value, odd: [value, odd]),
    _set(lambda value, odd: {"role": value}),
    _set(lambda value, odd: str(value)),
    _set(lambda value, odd: json.dumps(value)),
    _set(lambda value, odd: value * 2 if isinstance(value, str | list) else [odd, value]),
    _set(lambda value, odd: value[:-1] if isinstance(value, str | list) else odd),
    _set(lambda value, odd: {str(i): one for i, one in enumerate(value)} if isinstance(value, list) else odd),
    _set(lambda value, odd: list(value.values()) if isinstance(value, dict) else odd),
    lambda holder, key, odd, name: holder.pop(key),
    _renamed,
    _added,
    _added,
)


@st.composite
def _mutated(draw: st.DrawFn, record: dict[str, Any]) -> Any:
    """The record with one to three changes, anywhere in it; rarely none."""
    record = copy.deepcopy(record)
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 1, 2, 3)))):
        paths = _paths(record)[1:]
        if not paths:
            return draw(st.sampled_from(_ODD))
        path = draw(st.sampled_from(paths))
        odd, name = draw(st.sampled_from(_ODD) | st.text(max_size=8)), draw(st.sampled_from(_NAMES))
        draw(st.sampled_from(_CHANGES))(_at(record, path[:-1]), path[-1], odd, name)
    return record


def _line(record: Any, ascii: bool) -> bytes:
    text = json.dumps(record, ensure_ascii=ascii).replace(f'"{_DIGITS}"', "1" * 5_000)
    return text.encode("utf-8", "surrogatepass")


def _doubled(line: bytes, at: int) -> bytes:
    """The line with its first key twice."""
    return line.replace(b"{", b'{"prompt": 1, "text": [], "messages": 2, ', 1)


# Changes of a line of JSON at one of its bytes.
_DAMAGES: tuple[Callable[[bytes, int], bytes], ...] = (
    lambda line, at: line[:at],
    lambda line, at: line[at:] or b"x",
    lambda line, at: line[:at] + b"\0" + line[at:],
    lambda line, at: line[:at] + b"\xff" + line[at + 1 :],
    lambda line, at: line[:at] + bytes([line[at] ^ 1]).replace(b"\n", b"x") + line[at + 1 :],
    lambda line, at: line + line,
    lambda line, at: line + b" trailing",
    lambda line, at: b"\xef\xbb\xbf" + line,
    lambda line, at: line + b"\r",
    lambda line, at: b"[" * 5_000 + line,
    lambda line, at: b'{"a":' * 300 + line + b"}" * 300,
    lambda line, at: line.replace(b'"', b"'"),
    lambda line, at: b"NaN",
    _doubled,
)  # fmt: skip


class RecordFile(NamedTuple):
    """A file of records: its name, its bytes, how many records were written, and whether each is on a line."""

    name: str
    content: bytes
    count: int
    lines: bool


class RecordBatch(NamedTuple):
    """Files of mutated records of one format, and the option that names a format, or an empty string.

    `expected` has the JSON of each record of a TFDS data set, empty for one that was changed.
    """

    format: str
    files: tuple[RecordFile, ...]
    option: str
    expected: tuple[str, ...] = ()


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("in/a.jsonl"), content)
    return file.getvalue()


_PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "jsonl": bytes, "jsonl.gz": lambda content: gzip.compress(content, mtime=0), "jsonl.bz2": bz2.compress,
    "jsonl.xz": lzma.compress,
    "jsonl.zst": lambda content: zstandard.ZstdCompressor().compress(content), "zip": _zip,
}  # fmt: skip


@st.composite
def _file(draw: st.DrawFn, name: str, records: Sequence[dict[str, Any]], most: int) -> RecordFile:
    count = draw(st.integers(2, most))
    intact = draw(st.sampled_from((0, 3, 3))) * (
        count > 6
    )  # so that most files have a format and something is left
    some = [
        copy.deepcopy(one) if i < intact else draw(_mutated(one))
        for i, one in enumerate(records[i % len(records)] for i in range(count))
    ]
    lines = [_line(one, draw(st.booleans())) for one in some]
    if draw(st.booleans()):
        for i in draw(st.lists(st.integers(0, count - 1), max_size=3, unique=True)):
            damage, at = draw(st.sampled_from(_DAMAGES)), draw(st.integers(0, len(lines[i]) - 1))
            lines[i] = damage(lines[i], at) or b"x"
    kind = draw(st.sampled_from((*_PACK, "jsonl", "jsonl", "json", "parquet", "csv")))
    if kind in _PACK:
        return RecordFile(f"{name}.{kind}", _PACK[kind](b"\n".join(lines) + b"\n"), count, True)
    if kind == "parquet" and (content := _parquet(some)):
        return RecordFile(f"{name}.parquet", content, count, False)
    if kind == "csv":
        return RecordFile(f"{name}.csv", _table(some), count, False)
    array = b"[" + draw(st.sampled_from((b",", b",\n", b" , \n\n"))).join(lines) + b"]"
    return RecordFile(f"{name}.json", array, count, False)


def _parquet(records: Sequence[Any]) -> bytes:
    """A Parquet file of the records; empty where Arrow has no type for them, or pyarrow is not there."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        return b""
    file = io.BytesIO()
    try:
        parquet.write_table(pa.Table.from_pylist([one for one in records if isinstance(one, dict)]), file)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, NotImplementedError):
        return b""
    return file.getvalue()


def _table(records: Sequence[Any]) -> bytes:
    """A CSV of the fields of the first record, a cell of JSON where a value is no text; some cells are missing."""
    first = next((one for one in records if isinstance(one, dict) and one), {"text": "a", "note": "b"})
    rows = [",".join(map(_cell, first))]
    for one in records:
        values = one if isinstance(one, dict) else {"": one}
        rows.append(
            ",".join(_cell(values[name]) for name in (first if first.keys() <= values.keys() else values))
        )
    return "\n".join(rows).encode("utf-8", "surrogatepass") + b"\n"


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return '"{}"'.format(text.replace('"', '""'))


@st.composite
def batches(draw: st.DrawFn, formats: Sequence[str], named: bool, most: int) -> RecordBatch:
    """Files of at most `most` mutated records of one of the formats; where it may be `named`, it is in some."""
    name = draw(st.sampled_from(sorted(formats)))
    several = draw(st.sampled_from((1, 1, 2)))
    files = tuple(draw(_file(f"{i}", RECORDS[name], most // several)) for i in range(several))
    option = draw(st.sampled_from(("", "", f"?format={name}"))) if named and name not in _NO_FORMATS else ""
    return RecordBatch(name, files, option)
