"""Zip archives whose damage raises one error: zipfile raises what its parsing happens to meet."""

import contextlib
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
    ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError,
)  # fmt: skip
_IGNORED = ("__MACOSX/", ".DS_Store", "Thumbs.db")  # what file managers add to archives


class BrokenZip(Exception):
    """An archive is broken, or uses what Python cannot read."""


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise BrokenZip(str(error) or type(error).__name__) from error


def open_archive(file: Any) -> zipfile.ZipFile:
    """The archive in a file that can seek. Raises BrokenZip."""
    with _one_error():
        return zipfile.ZipFile(file)


def files(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in an archive, but for what file managers add."""
    names = [one for one in archive.infolist() if one.filename and not one.filename.endswith("/")]
    return [one for one in names if not _is_ignored(one.filename)]


def _is_ignored(name: str) -> bool:
    return name.startswith(_IGNORED[0]) or name.rpartition("/")[2] in _IGNORED


def open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> "Member":
    """The content of a file in an archive. Raises BrokenZip."""
    with _one_error():
        return Member(archive.open(member))


class Member(io.RawIOBase):
    """The content of a file in an archive; reading raises EOFError where the data are broken."""

    def __init__(self, content: zipfile.ZipExtFile):
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            with _one_error():
                return self._content.readinto(buffer)
        except BrokenZip as error:
            raise EOFError(str(error)) from error

    def close(self) -> None:
        self._content.close()
        super().close()
