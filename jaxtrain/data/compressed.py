"""Compressed files, whatever their names: gzip, bzip2, xz, lzma and zstandard, by their first bytes."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from typing import Any, BinaryIO

import zstandard

from jaxtrain.config import ConfigError

BROKEN = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile, UnicodeDecodeError)
_LAYERS = 3  # of compression, one inside another
_BLOCK = 1 << 18


class _Decoded(io.RawIOBase):
    """The bytes that `decode` makes of a stream's blocks."""

    def __init__(self, raw: BinaryIO):
        self._raw, self._ready = raw, b""

    def readable(self) -> bool:
        return True

    def _more(self) -> bytes | None:
        """Further bytes, perhaps none; None at the end."""
        raise NotImplementedError

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            more = self._more()
            if more is None:
                return 0
            self._ready = more
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


class _Zst(_Decoded):
    """Decompressed frames of a zstandard file; unlike the library's reader it notices a truncated one."""

    def __init__(self, raw: BinaryIO):
        super().__init__(raw)
        self._rest, self._frame = b"", None

    def _more(self) -> bytes | None:
        block = self._rest or self._raw.read(_BLOCK)
        if not block:
            if self._frame is not None:
                raise EOFError("the last frame is cut off")
            return None
        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        ready, self._rest = self._frame.decompress(block), b""
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None
        return ready


class _Bz2(bz2.BZ2File):
    """Decompressed bytes of a bzip2 file; what is broken raises EOFError, not an OSError without a number."""

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except OSError as error:
            if error.errno is None:
                raise EOFError(str(error)) from error
            raise


class _Utf8(_Decoded):
    """A text in UTF-16 or UTF-32 as UTF-8, without its byte order mark; half a surrogate pair stays, as three bytes."""

    def __init__(self, raw: BinaryIO, encoding: str):
        super().__init__(raw)
        self._decoder, self._end = codecs.getincrementaldecoder(encoding)("surrogatepass"), False

    def _more(self) -> bytes | None:
        if self._end:
            return None
        block = self._raw.read(_BLOCK)
        self._end = not block
        return self._decoder.decode(block, final=self._end).encode("utf-8", "surrogatepass")


_OPENERS = (
    (".gz", b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw, mode="rb")),
    (".bz2", b"BZh", _Bz2),
    (".xz", b"\xfd7zXZ\0", lzma.LZMAFile),
    (".lzma", b"\x5d\0\0", lzma.LZMAFile),
    (".zst", b"\x28\xb5\x2f\xfd", _Zst),
    *((".zst", bytes([0x50 + i, 0x2A, 0x4D, 0x18]), _Zst) for i in range(16)),  # frames to skip
)


def broken(label: str, line: int, how: str, error: Exception) -> ConfigError:
    """The error for compressed data that are broken or cut off at a line; `how` is empty in a zip archive."""
    reason = str(error) or type(error).__name__
    return ConfigError(f"{label}:{line}: broken {how or 'zip'} data ({reason}); fetch the file again")


def decompressed(raw: Any, label: str) -> tuple[Any, str]:
    """(the content of a buffered stream, the suffixes of its compression, "" where it has none).

    Reading the content raises one of BROKEN where the compressed data are broken or cut off. `label` is the file's name
    in a ConfigError, where they are so from their begin.
    """
    names: list[str] = []
    for _ in range(_LAYERS):
        try:
            head = raw.peek(8)
        except BROKEN as error:
            raise broken(label, 1, "".join(reversed(names)), error) from error
        found = next(((name, opener) for name, magic, opener in _OPENERS if head.startswith(magic)), None)
        if found is None:
            break
        names.append(found[0])
        raw = io.BufferedReader(found[1](raw), _BLOCK)
    return raw, "".join(reversed(names))


def as_utf8(raw: Any, encoding: str) -> Any:
    """A stream of text in another encoding as UTF-8."""
    return io.BufferedReader(_Utf8(raw, encoding), _BLOCK) if encoding != "utf-8" else raw
