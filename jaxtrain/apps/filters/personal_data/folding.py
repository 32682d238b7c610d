"""Texts with one form of each space, hyphen, digit and @, as the patterns of personal data expect them."""

import re
import unicodedata
from collections.abc import Sequence

# Full-width ASCII, spaces, hyphens and dashes, digits of other scripts.
_VARIANT = re.compile(
    "[\uff01-\uff5e\u00a0\u2000-\u200a\u202f\u205f\u3000\u2010-\u2015\u2212\ufe58\ufe63\ufe6b"
    "\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u09e6-\u09ef\u0e50-\u0e59]"
)
# Soft hyphens, zero-width characters and marks of direction: a reader does not see them.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_SPACES, _HYPHENS = "\u00a0\u202f\u205f\u3000", "\u2212\ufe58\ufe63"


def _plain(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    if 0xFF01 <= code <= 0xFF5E:
        return chr(code - 0xFEE0)
    if char in _SPACES or 0x2000 <= code <= 0x200A:
        return " "
    if char in _HYPHENS or 0x2010 <= code <= 0x2015:
        return "-"
    return "@" if char == "\ufe6b" else str(unicodedata.decimal(char))


def fold(text: str) -> tuple[str, Sequence[int] | None]:
    """(the folded text, the place of each of its characters in `text`); None where every place is the same."""
    if text.isascii():
        return text, None
    folded = _VARIANT.sub(_plain, text)
    if not _INVISIBLE.search(folded):
        return folded, None
    places = [i for i, char in enumerate(folded) if not _INVISIBLE.match(char)]
    return "".join([folded[i] for i in places]), [*places, len(text)]


def unfold(span: tuple[int, int], places: Sequence[int] | None) -> tuple[int, int]:
    """A span of the folded text as one of the text."""
    return span if places is None else (places[span[0]], places[span[1] - 1] + 1)
