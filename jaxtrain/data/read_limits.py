"""Limits on what is read of files: the bytes of a record, and how far compressed data may expand."""

import io
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Data

MIB = 1 << 20
FREE = 1 << 28  # bytes that compressed data may expand to, whatever their size


class ReadLimits(NamedTuple):
    """The most bytes of a record, and the most bytes that one byte of compressed data may stand for above FREE."""

    record: int = Data.max_line_mb * MIB
    expansion: float = Data.max_expansion

    @classmethod
    def of(cls, data: Data) -> "ReadLimits":
        """Those of --max_line_mb and --max_expansion."""
        return cls(data.max_line_mb * MIB, data.max_expansion)

    def too_long(self, size: int, what: str = "line") -> str:
        """What is wrong with a record of `size` bytes; an empty string where nothing is."""
        if size <= self.record:
            return ""
        return f"too long: a {what} of {size:,} bytes, more than --max_line_mb={self.record / MIB:g} allows"

    def check_expansion(self, size: int, compressed: int, label: str) -> None:
        """Raises ConfigError where `size` bytes of data from so many compressed ones are more than may be."""
        if size > max(FREE, self.expansion * compressed):
            raise ConfigError(
                f"{label}: {compressed:,} compressed bytes expand to more than {FREE:,} bytes and to more than "
                f"{self.expansion:g} times as many; if this is no decompression bomb, raise --max_expansion"
            )


DEFAULT = ReadLimits()


class Expanding(io.RawIOBase):
    """The content of a compressed stream, as long as it expands within the limits; `raw` is the compressed stream."""

    def __init__(self, content: Any, raw: Any, limits: ReadLimits, label: str):
        self._content, self._raw, self._limits, self._label, self._size = content, raw, limits, label, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._content.readinto(buffer)
        self._size += count
        if self._size > FREE:
            self._limits.check_expansion(self._size, self._raw.tell(), self._label)
        return count
