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
from jaxtrain.data.read_limits import Expanding, Expansion

BROKEN = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile, UnicodeDecodeError)
_LAYERS = 3  # of compression, one inside another
BLOCK = 1 << 18
_LARGEST_BLOCK = 1 << 17  # bytes that a block of zstandard stands for at most
_SKIPPABLE = b"\x2a\x4d\x18"  # behind 0x50 to 0x5f: a frame that holds no data


class _Decoded(io.RawIOBase):
    """The bytes that `_more` makes of a stream's blocks."""

    def __init__(self, raw: BinaryIO):
        self._raw, self._ready = raw, memoryview(b"")

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
            self._ready = memoryview(more)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


class _Zst(_Decoded):
    """Decompressed frames of a zstandard file, a block of at most 128 KiB at a time (RFC 8878, section 3.1.1).

    The library's reader does not notice a truncated frame, and its decompressobj returns all of its input at once: a
    block of four bytes stands for 128 KiB.
    """

    def __init__(self, raw: BinaryIO):
        super().__init__(raw)
        self._decompressor = zstandard.ZstdDecompressor()  # one for all frames: a file may have millions
        self._frame: Any = None
        self._checksum = 0  # bytes behind the last block of the frame

    def _more(self) -> bytes | None:
        if self._frame is None:
            return self._begin()
        head = self._exactly(3)
        last, kind, size = head[0] & 1, head[0] >> 1 & 3, int.from_bytes(head, "little") >> 3
        if kind == 3 or (kind != 1 and size > _LARGEST_BLOCK):
            raise zstandard.ZstdError("a block of an unknown kind or size")
        block = head + self._exactly(1 if kind == 1 else size)
        if not last:
            return self._frame.decompress(block)
        ready, whole = self._frame.decompress(block + self._exactly(self._checksum)), self._frame.eof
        self._frame = None
        if not whole:
            raise zstandard.ZstdError("a frame goes on behind its last block")
        return ready

    def _begin(self) -> bytes | None:
        """Reads the header of a frame, or a frame to skip; None at the end of the file."""
        magic = self._raw.read(4)
        if not magic:
            return None
        if magic[1:] == _SKIPPABLE and magic[0] >> 4 == 5:
            left = int.from_bytes(self._exactly(4), "little")
            while left:
                left -= len(self._exactly(min(left, BLOCK)))
            return b""
        header = magic + self._exactly(2)
        header += self._exactly(max(zstandard.frame_header_size(header + bytes(12)) - len(header), 0))
        self._checksum = 4 * zstandard.get_frame_parameters(header).has_checksum
        self._frame = self._decompressor.decompressobj()
        return self._frame.decompress(header)

    def _exactly(self, count: int) -> bytes:
        data = self._raw.read(count)
        if len(data) < count:
            raise EOFError("the last frame is cut off")
        return data


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
        block = self._raw.read(BLOCK)
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


def decompressed(raw: Any, label: str, expansion: Expansion) -> tuple[Any, str]:
    """(the content of a buffered stream, the suffixes of its compression, "" where it has none).

    Reading the content raises one of BROKEN where the compressed data are broken or cut off, and ConfigError where they
    expand too far. `label` is the file's name in a ConfigError, also where they are broken from their begin.
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
        # Each layer counts: one of them may expand far and the next hold nothing.
        raw = io.BufferedReader(Expanding(found[1](raw), expansion), BLOCK)
    return raw, "".join(reversed(names))


def as_utf8(raw: Any, encoding: str) -> Any:
    """A stream of text in another encoding as UTF-8."""
    return io.BufferedReader(_Utf8(raw, encoding), BLOCK) if encoding != "utf-8" else raw
