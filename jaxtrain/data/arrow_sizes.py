"""What the compressed buffers of an Arrow file or stream expand to, by its metadata: pyarrow allocates it at once.

The metadata are FlatBuffers (Message.fbs and File.fbs of Apache Arrow's format), read here as far as is needed.
"""

import struct
from collections.abc import Iterator
from typing import Any

_MARK = 0xFFFFFFFF  # before a message's length
_EDGE = 8  # bytes of the mark that begins a file; its footer's length and 6 bytes of the mark end it
_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2  # kinds of messages


class _Table:
    """A table of a FlatBuffer. Reading outside of it raises struct.error."""

    def __init__(self, data: bytes, at: int):
        self._data, self._at = data, at
        self._fields = at - struct.unpack_from("<i", data, at)[0]

    def _place(self, field: int) -> int:
        """Where a field is; 0 where the table has none."""
        (size,) = struct.unpack_from("<H", self._data, self._fields)
        at = 4 + 2 * field
        offset = struct.unpack_from("<H", self._data, self._fields + at)[0] if at + 2 <= size else 0
        return self._at + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return struct.unpack_from(form, self._data, place)[0] if place else 0

    def table(self, field: int) -> "_Table | None":
        place = self._place(field)
        return _Table(self._data, place + struct.unpack_from("<I", self._data, place)[0]) if place else None

    def structs(self, field: int, form: str) -> list[tuple[int, ...]]:
        place = self._place(field)
        if not place:
            return []
        at = place + struct.unpack_from("<I", self._data, place)[0]
        (count,), size = struct.unpack_from("<I", self._data, at), struct.calcsize(form)
        if count * size > len(self._data):
            raise struct.error("a vector is longer than its table")
        return [struct.unpack_from(form, self._data, at + 4 + i * size) for i in range(count)]


def _root(data: bytes) -> _Table:
    return _Table(data, struct.unpack_from("<I", data)[0])


def expanded(file: Any, stream: bool) -> int:
    """The bytes that the compressed buffers of an open file stand for, as they say.

    Raises ValueError where the metadata are broken.
    """
    try:
        places = _of_stream(file) if stream else _of_file(file)
        return sum(_of_message(file, at) for at in places)
    except struct.error as error:
        raise ValueError(f"broken metadata ({error})") from error


def _of_file(file: Any) -> Iterator[int]:
    """Where the messages of an Arrow file begin."""
    end = file.seek(-10, 2)
    (length,) = struct.unpack("<i", _exactly(file, 4))
    if not 0 < length <= end - _EDGE:
        raise ValueError("its footer is cut off")
    file.seek(end - length)
    footer = _root(_exactly(file, length))
    for field in (2, 3):  # dictionaries, record batches: offset, length of the metadata, length of the body
        yield from (at for at, _, _ in footer.structs(field, "<qi4xq"))


def _of_stream(file: Any) -> Iterator[int]:
    """Where the messages of a stream begin."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] == bytes(4):
            return
        yield at
        start, message = _message(file, at)
        at = start + max(message.number(3, "<q"), 0)


def _message(file: Any, at: int) -> tuple[int, _Table]:
    """(where a message's body begins, the message)."""
    if at < 0:
        raise ValueError("a message before the file begins")
    file.seek(at)
    first, length = struct.unpack("<II", _exactly(file, 8))
    if first != _MARK:  # of Arrow before 0.15
        length = first
        file.seek(at + 4)
    data = _exactly(file, length)
    return file.tell(), _root(data)


def _of_message(file: Any, at: int) -> int:
    """The bytes that the compressed buffers of a message stand for."""
    start, message = _message(file, at)
    kind, batch = message.number(1, "<B"), message.table(2)
    if kind == _DICTIONARY_BATCH and batch:
        batch = batch.table(1)
    if batch is None or kind not in (_RECORD_BATCH, _DICTIONARY_BATCH) or not batch.table(3):
        return 0  # not compressed
    size = 0
    for offset, length in batch.structs(2, "<qq"):
        if length >= 8 and offset >= 0:
            file.seek(start + offset)
            (one,) = struct.unpack("<q", _exactly(file, 8))
            size += max(one, 0)  # -1: not compressed
    return size


def _exactly(file: Any, count: int) -> bytes:
    at = file.tell()
    if count > file.seek(0, 2) - at:
        raise ValueError("it is cut off")
    file.seek(at)
    return file.read(count)
