"""The rows of tables as records: CSV, TSV and their kin, Parquet, and Arrow (Feather) files and streams."""

import csv
import datetime
import decimal
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from jaxtrain import full_disk
from jaxtrain.config import ConfigError
from jaxtrain.data import arrow_sizes
from jaxtrain.data.read_limits import Expansion, ReadLimits

_BATCH = 16  # rows of a Parquet file that are read at once: each may be as long as a page stands for
_VALUE = 8  # bytes of a value in a list
_PASSED_OVER = 1 << 20  # characters of a row that is too long that are read at once
# Columns of a delimited text in which a JSON value stands for itself; every other cell is the text that it is, so that
# 007 stays 007 and the answer 42 a text.
_TYPED = frozenset((
    "messages", "conversations", "conversation", "completions", "responses", "ranking", "tools", "documents", "history",
    "choices", "metadata", "chat_template_kwargs", "label", "score", "score_chosen", "score_rejected", "chosen_rating",
    "rejected_rating", "logp", "rank",
))  # fmt: skip
_MESSAGES = frozenset(
    ("prompt", "chosen", "rejected", "completion", "input")
)  # typed where it is a list of messages


class Unreadable(Exception):
    """The table is broken: what follows cannot be read."""


class Row(NamedTuple):
    """A row: its number (the line on which it begins, or its number from 1), its record, or what is wrong with it."""

    number: int
    record: dict[str, Any]
    wrong: str = ""
    raw: bytes = b""  # as it stands in the file, where something is wrong


class _LongRow(Exception):
    """A row is longer than a record may be; `size` is its characters."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size


class _Lines:
    """Lines for csv.reader; those of the row under way stay. Reading one raises _LongRow."""

    def __init__(self, stream: TextIO, longest: int):
        self._stream, self._longest = stream, longest
        self.begin()
        self.count = 0

    def begin(self) -> None:
        """A row begins."""
        self.row: list[str] = []
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._longest + 2)
        if not line:
            raise StopIteration
        self.count += 1
        self.row.append(line)
        self._size += max(len(line.rstrip("\r\n")), 1)
        if self._size > self._longest:
            raise _LongRow(self._size + self._pass_over(line))
        return line

    def _pass_over(self, line: str) -> int:
        """Reads the rest of a line, and returns its characters. Raises Unreadable where a quote is open behind it."""
        quotes, size = sum(one.count('"') for one in self.row), 0
        while not line.endswith(("\n", "\r")) and (line := self._stream.readline(_PASSED_OVER)):
            quotes, size = quotes + line.count('"'), size + len(line)
        if quotes % 2:
            begin = self.count - len(self.row) + 1
            raise Unreadable(f"a quote in the row that begins on line {begin} has no end")
        return size


def delimited(stream: TextIO, delimiter: str, limits: ReadLimits) -> Iterator[Row]:
    """The rows of a delimited text whose first row names the fields.

    `stream` was opened with newline="" and errors="surrogateescape". Raises Unreadable for a header that names a field
    twice, and for a quote without its end.
    """
    csv.field_size_limit(limits.record + 1)
    lines = _Lines(stream, limits.record)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = lines.count + 1
        lines.begin()
        try:
            row = next(reader, None)
        except _LongRow as error:
            if header is None:
                raise Unreadable("its header is too long") from error
            yield Row(start, {}, limits.too_long(error.size, "row"), _bytes(lines.row))
            continue
        except csv.Error as error:
            if lines.count - start > 1_000 or "unexpected end" in str(error) or "limit" in str(error):
                raise Unreadable(f"a quote in the row that begins on line {start} has no end") from error
            yield Row(start, {}, f"no row of a table ({error})", _bytes(lines.row))
            continue
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = _header(row)
            continue
        if len(row) != len(header):
            wrong = f"{len(row)} fields where the header has {len(header)}"
            yield Row(start, {}, wrong, _bytes(lines.row))
        elif any(not one.isascii() and not _is_text(one) for one in row):
            yield Row(start, {}, "invalid UTF-8", _bytes(lines.row))
        else:
            yield Row(start, {name: _cell(name, one) for name, one in zip(header, row, strict=True)})


def _header(row: list[str]) -> list[str]:
    names = [one.strip().removeprefix("\ufeff") or f"column {i}" for i, one in enumerate(row, 1)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise Unreadable(f"its header names the field {twice[0]!r} twice")
    return names


def _bytes(lines: list[str]) -> bytes:
    return "".join(lines).encode("utf-8", "surrogateescape")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cell(name: str, text: str) -> Any:
    if name in _TYPED:
        if not text:
            return None
        return _value(text.lower() if text in ("True", "False", "TRUE", "FALSE") else text)
    if name in _MESSAGES and text.startswith("[") and '"role"' in text:
        value = _value(text)
        return value if isinstance(value, list) and all(isinstance(one, dict) for one in value) else text
    return text


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parquet(file: Any, left_out: Counter[str], expansion: Expansion) -> Iterator[Row]:
    """The rows of a Parquet file, a path or an open file that can seek. `left_out` counts the values by column that are
    binary data, which records have as null. Raises Unreadable where the file is broken, and ConfigError where its
    columns are too large to be read.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        with pq.ParquetFile(file, pre_buffer=False) as opened:
            expansion.check(_expanded(opened))
            yield from _rows(opened.iter_batches(batch_size=_BATCH), left_out)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise _unreadable(error) from error


def _expanded(opened: Any) -> int:
    """The bytes that the columns of a Parquet file are in memory, as its footer has them.

    The lists of a row are read at once, and a number that is repeated in them takes no room in the file.
    """
    size, repeated = 0, [opened.schema.column(i).max_repetition_level > 0 for i in range(len(opened.schema))]
    for i in range(opened.metadata.num_row_groups):
        group = opened.metadata.row_group(i)
        for at, lists in enumerate(repeated):
            column = group.column(at)
            size += max(column.total_uncompressed_size, _VALUE * column.num_values * lists, 0)
    return size


def arrow(file: Any, stream: bool, left_out: Counter[str], expansion: Expansion) -> Iterator[Row]:
    """The rows of an Arrow file, or of a stream; otherwise as `parquet`."""
    import pyarrow as pa

    try:
        expansion.check(arrow_sizes.expanded(file, stream))
        file.seek(0)
        if stream:
            with pa.ipc.open_stream(file) as opened:
                yield from _rows(opened, left_out)
        else:
            with pa.ipc.open_file(file) as opened:
                yield from _rows(map(opened.get_batch, range(opened.num_record_batches)), left_out)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> Exception:
    """What is raised in place of an error of Arrow's; a ConfigError, which is a ValueError, and a full disk stay."""
    return error if isinstance(error, ConfigError) or full_disk.is_full(error) else Unreadable(_short(error))


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _rows(batches: Any, left_out: Counter[str]) -> Iterator[Row]:
    number = 1
    for batch in batches:
        names = batch.schema.names
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise Unreadable(f"it has the column {twice[0]!r} twice")
        # A value at a time: in memory a short column may be a long one, whose values are stored once.
        columns = [(one.as_py() for one in _checked(column)) for column in batch.columns]
        for i, row in enumerate(zip(*columns, strict=True), number):
            yield Row(i, _record(names, row, left_out))
        number += batch.num_rows


def _checked(column: Any) -> Any:
    """A column that can be read: damaged data may end the process. Times are text, since Python has no nanoseconds;
    a column of text that is no UTF-8 throughout is bytes.
    """
    import pyarrow as pa

    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if not text or "UTF8" not in str(error):
            raise
        column = column.cast(pa.large_binary())
        column.validate(full=True)
    return column.cast(pa.string()) if pa.types.is_temporal(column.type) else column


def _record(names: Sequence[str], row: Iterable[Any], left_out: Counter[str]) -> dict[str, Any]:
    return {name: _plain(value, name, left_out) for name, value in zip(names, row, strict=True)}


def _plain(value: Any, column: str, left_out: Counter[str]) -> Any:
    """A value of Arrow as JSON has it. A null inside a structure is a field that is not there, since Arrow gives every
    row the fields of all.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {k: _plain(v, column, left_out) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        if value and all(isinstance(one, tuple) for one in value):  # a map
            return {str(k): _plain(v, column, left_out) for k, v in value}
        return [_plain(one, column, left_out) for one in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            left_out[column] += 1
            return None
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
