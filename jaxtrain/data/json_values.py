"""JSON values of a text, one by one and in bounded memory: of an array, of objects one after another, or of a list
inside an object.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from jaxtrain.data import file_kinds

_BLOCK = 1 << 20  # characters read at once
HEAD = 1 << 20  # characters of a value that is too long that are returned
_SPACE = re.compile(r"[ \t\r\n\ufeff]*+")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(r"[^\s,\]}\[{:]++")
_QUOTE, _BACKSLASH = 0x22, 0x5C
_CASE, _OPEN, _CLOSE = 0x20, 0x7B, 0x7D  # a square bracket is a curly one but for a bit
_DECODER = json.JSONDecoder()


class Broken(Exception):
    """The text is cut off, or is no JSON between its records: what follows cannot be read."""


class _TooLong(Exception):
    """What begins here is longer than a record may be."""


class Value(NamedTuple):
    """The text of a record, the line on which it begins, and its characters; of one that is too long the text has the
    first.
    """

    line: int
    text: str
    size: int


class _Buffer:
    """A stretch of a text that is read on where more of it is needed; `held` is where it begins, else `at`."""

    def __init__(self, stream: TextIO, longest: int):
        self._stream, self._longest, self.held = stream, longest, -1
        self.text, self.at, self.line, self._end = "", 0, 1, False

    def more(self) -> bool:
        """Whether more could be read; grows with what is there, so that reading again stays cheap.

        Raises _TooLong.
        """
        if self._end:
            return False
        if self.held < 0:
            self.text, self.at = self.text[self.at :], 0
        if len(self.text) - max(self.held, 0) > self._longest:
            raise _TooLong
        block = self._stream.read(max(_BLOCK, len(self.text) // 2))
        self._end = not block
        self.text += block
        return not self._end

    def move(self, end: int) -> str:
        """The text to `end`, after which reading goes on."""
        text = self.text[self.at : end]
        self.line += text.count("\n")
        self.at = end
        return text

    def next(self) -> str:
        """The next character that is no space, which stays; an empty string at the end."""
        while True:
            self.move(_SPACE.match(self.text, self.at).end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def string_end(self) -> int:
        """The end of the string that begins here."""
        return self._until(lambda: match.end() if (match := _STRING.match(self.text, self.at)) else -1)

    def value_end(self) -> int:
        """The end of the value that begins here."""
        first = self.next()
        if not first:
            raise Broken(f"the JSON is cut off on line {self.line}")
        if first == '"':
            return self.string_end()
        if first in "[{":
            try:
                return _DECODER.raw_decode(self.text, self.at)[1]
            except (ValueError, RecursionError):
                search = _ValueEnd(first)
                return self._until(lambda: search.next(self.text, self.at))
        return self._until(self._scalar_end)

    def _scalar_end(self) -> int:
        match = _SCALAR.match(self.text, self.at)
        if match is None:
            raise Broken(f"line {self.line}: {self.text[self.at]!r} where a value must begin")
        return match.end() if match.end() < len(self.text) or self._end else -1

    def _until(self, find: Callable[[], int]) -> int:
        line = self.line
        while (end := find()) < 0:
            if not self.more():
                if (end := find()) >= 0:
                    return end
                raise Broken(f"the JSON is cut off in the value that begins on line {line}")
        return end


class _ValueEnd:
    """The search for the end of a string, an array or an object, which goes on where it stopped once more is read.

    It takes a block at once: a step for each string in it would take minutes for some hundred MB of short ones.
    """

    def __init__(self, first: str):
        self._is_string, self._in_string, self._depth = first == '"', False, 0
        self._done = 0  # characters behind the begin of the value

    def next(self, text: str, begin: int) -> int:
        """The position behind the value that begins at `begin`; -1: not yet read."""
        end, whole = self.search(text, begin + self._done)
        self._done = end - begin
        return end if whole else -1

    def search(self, text: str, at: int) -> tuple[int, bool]:
        """(how far the value goes in its next piece, whether it ends there)."""
        while block := text[at : at + _BLOCK]:
            if (
                len(block) - len(block.rstrip("\\"))
            ) % 2:  # with the character behind a backslash, or without it
                block = text[at : at + len(block) + 1] if at + len(block) < len(text) else block[:-1]
            if not block:
                break
            if (end := self._in_block(block)) >= 0:
                return at + end, True
            at += len(block)
        return at, False

    def _in_block(self, block: str) -> int:
        import numpy as np  # flags are checked without it

        codes = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), np.uint32)
        quotes = np.flatnonzero(codes == _QUOTE)
        if "\\" in block:
            quotes = np.setdiff1d(quotes, _escaped(codes), assume_unique=True)
        if self._is_string:
            closing = quotes[1 - self._in_string :]
            if len(closing):
                return int(closing[0]) + 1
        else:
            folded = codes | _CASE
            marks = np.flatnonzero((folded == _OPEN) | (folded == _CLOSE))
            marks = marks[(np.searchsorted(quotes, marks) + self._in_string) % 2 == 0]
            depths = self._depth + np.cumsum(np.where(folded[marks] == _OPEN, 1, -1))
            if len(ends := np.flatnonzero(depths == 0)):
                return int(marks[ends[0]]) + 1
            self._depth = int(depths[-1]) if len(depths) else self._depth
        self._in_string = bool((self._in_string + len(quotes)) % 2)
        return -1


def _escaped(codes: Any) -> Any:
    """i64[n], the places behind an odd number of backslashes in code points u32[N]."""
    import numpy as np

    at = np.flatnonzero(codes == _BACKSLASH)
    apart = np.diff(at) != 1
    first, last = at[np.concatenate([[True], apart])], at[np.concatenate([apart, [True]])]
    return last[(last - first) % 2 == 0] + 1


def values(stream: TextIO, beside: Callable[[str, list[str]], None], longest: int) -> Iterator[Value]:
    """The values of a JSON text: the members of arrays, the records under an object's list (file_kinds.list_key), and
    other objects as they are.

    `beside` is called with the key of such a list and the other keys of its object. A value of more than `longest`
    characters has its first HEAD alone. Raises Broken, with the line, where the text goes on as no JSON.
    """
    buffer = _Buffer(stream, longest)
    try:
        while first := buffer.next():
            if first == "[":
                yield from _members(buffer)
            elif first == "{" and (key := _listed(buffer)):
                yield from _under(buffer, key, beside)
            elif first == ",":  # after a record, as some people end their lines
                buffer.move(buffer.at + 1)
            else:
                yield _value(buffer)
    except _TooLong as error:
        raise Broken(
            f"line {buffer.line}: the name that begins here is longer than {longest:,} characters"
        ) from error


def _value(buffer: _Buffer) -> Value:
    line = buffer.line
    try:
        text = buffer.move(buffer.value_end())
    except _TooLong:
        return Value(line, *_passed_over(buffer))
    return Value(line, text, len(text))


def _passed_over(buffer: _Buffer) -> tuple[str, int]:
    """(the first HEAD characters of the value that begins here, its length); reading goes on behind it."""
    line, head, size = buffer.line, buffer.text[buffer.at : buffer.at + HEAD], 0
    rest = _ValueEnd(head[0]) if head[0] in '"[{' else None
    while True:
        end, done = rest.search(buffer.text, buffer.at) if rest else _scalar_end(buffer.text, buffer.at)
        size += len(buffer.move(end))
        if done:
            return head, size
        if not buffer.more():
            if rest is None:
                return head, size
            raise Broken(f"the JSON is cut off in the value that begins on line {line}")


def _scalar_end(text: str, at: int) -> tuple[int, bool]:
    """(the end of a number or word in a piece of it, whether that is its last)."""
    match = _SCALAR.match(text, at)
    end = match.end() if match else at
    return end, end < len(text)


def _members(buffer: _Buffer) -> Iterator[Value]:
    buffer.move(buffer.at + 1)
    comma = False
    while (first := buffer.next()) != "]":
        if comma and first == ",":
            buffer.move(buffer.at + 1)
            first = buffer.next()
            if first == "]":
                break  # a comma after the last, as people write it
        elif comma and first:
            raise Broken(f"line {buffer.line}: {first!r} where ',' or ']' must follow a record")
        if not first:
            raise Broken(f"the JSON is cut off on line {buffer.line}: its array has no end")
        yield _value(buffer)
        comma = True
    buffer.move(buffer.at + 1)


def _listed(buffer: _Buffer) -> str:
    """The key under which the object that begins here has a list of records; reading has not gone on."""
    at, line, found = buffer.at, buffer.line, ""
    try:
        return file_kinds.list_key(_DECODER.raw_decode(buffer.text, at)[0])
    except (ValueError, RecursionError):
        pass  # not yet read whole, or bad
    buffer.held = at
    try:
        for key in _keys(buffer):
            if key in file_kinds.FIELDS:
                break
            if key in file_kinds.LISTS and buffer.next() == "[":
                found = key if _first_is_a_record(buffer) else ""
                break
            buffer.move(buffer.value_end())
    except (Broken, _TooLong):
        found = ""
    buffer.at, buffer.line, buffer.held = at, line, -1
    return found


def _keys(buffer: _Buffer) -> Iterator[str]:
    """The keys of the object that begins here; after each its value is to be read."""
    buffer.move(buffer.at + 1)
    while (first := buffer.next()) != "}":
        if first == ",":
            buffer.move(buffer.at + 1)
            first = buffer.next()
        if first != '"':
            raise Broken(f"line {buffer.line}: {first!r} where a key must begin")
        key = buffer.move(buffer.string_end())
        if buffer.next() != ":":
            raise Broken(f"line {buffer.line}: no ':' after the key {key[:40]}")
        buffer.move(buffer.at + 1)
        buffer.next()
        yield key[1:-1]
    buffer.move(buffer.at + 1)


def _first_is_a_record(buffer: _Buffer) -> bool:
    buffer.move(buffer.at + 1)
    if buffer.next() != "{":
        return False
    try:
        first: Any = json.loads(buffer.move(buffer.value_end()))
    except (ValueError, RecursionError, _TooLong):
        return True  # a bad one
    return file_kinds.are_records([first])


def _under(buffer: _Buffer, key: str, beside: Callable[[str, list[str]], None]) -> Iterator[Value]:
    others = []
    for one in _keys(buffer):
        if one == key:
            yield from _members(buffer)
        else:
            others.append(one)
            _value(buffer)
    if others:
        beside(key, others)
