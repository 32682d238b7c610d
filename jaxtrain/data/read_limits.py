"""Limits on what is read of files: the bytes of a record, and how far compressed data may expand."""

import io
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Reading

MIB = 1 << 20
FREE = 1 << 28  # bytes that compressed data may expand to, whatever their size


class ReadLimits(NamedTuple):
    """The most bytes of a record, and the most bytes that one byte of compressed data may stand for above FREE."""

    record: int = Reading.max_line_mb * MIB
    expansion: float = Reading.max_expansion

    @classmethod
    def of(cls, reading: Reading) -> "ReadLimits":
        """Those of --max_line_mb and --max_expansion."""
        return cls(reading.max_line_mb * MIB, reading.max_expansion)

    def too_long(self, size: int, what: str = "line") -> str:
        """What is wrong with a record of `size` bytes; an empty string where nothing is."""
        if size <= self.record:
            return ""
        return f"too long: a {what} of {size:,} bytes, more than --max_line_mb={self.record / MIB:g} allows"

    def check_expansion(self, size: int, compressed: int, label: str) -> None:
        """Raises ConfigError where `size` bytes of data from so many compressed ones are more than may be."""
        if size > max(FREE, self.expansion * compressed):
            raise ConfigError(
                f"{label}: {compressed:,} bytes expand to more than {FREE:,} bytes and to more than "
                f"{self.expansion:g} times as many; if this is no decompression bomb, raise --max_expansion"
            )


DEFAULT = ReadLimits()


class Expansion:
    """What a file on the disk expands to: all of its layers of compression, members and rows together."""

    def __init__(self, limits: ReadLimits, label: str, compressed: int):
        self._limits, self._label, self._compressed, self._size = limits, label, compressed, 0

    def add(self, size: int) -> None:
        """Counts further bytes. Raises ConfigError where there are too many."""
        self.check(size)
        self._size += size

    def check(self, size: int) -> None:
        """Raises ConfigError where further bytes would be too many."""
        if self._size + size > FREE:
            self._limits.check_expansion(self._size + size, self._compressed, self._label)


class Expanding(io.RawIOBase):
    """The content of a compressed stream, whose bytes are counted."""

    def __init__(self, content: Any, expansion: Expansion):
        self._content, self._expansion = content, expansion

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._content.readinto(buffer)
        self._expansion.add(count)
        return count
