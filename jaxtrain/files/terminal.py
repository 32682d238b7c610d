"""Text for a terminal: aligned tables, wrapped lines, notes on stderr, numbers."""

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 78  # of a line, so that it fits a terminal
END = " ⏎"  # after the last token of a document


_VERBS = {"are": "is", "were": "was", "have": "has", "do": "does"}
_ONE = re.compile(
    r"(?<![\w.,:/=-])1 ((?:[a-z-]+ )?)(?P<noun>answer|batch|byte|choice|completion|comparison|conversation|device|"
    r"document|end|episode|exchange|file|group|host|layer|line|message|model|option|pair|piece|principle|prompt|question|record|request|row|"
    r"run|seed|shard|step|target|text|tie|token|topic|tree|turn|update|value|vote)(?:e?s)\b"
    rf"(?:(?P<between> )(?P<verb>{'|'.join(_VERBS)})\b)?"
)


def singular(text: str) -> str:
    """The text with "1 rows are" as "1 row is": counts come from data, and their nouns stand in the plural."""

    def one(match: re.Match) -> str:
        return f"1 {match[1]}{match['noun']}" + (f" {_VERBS[match['verb']]}" if match["verb"] else "")

    return _ONE.sub(one, text)


def lines(table: Iterable[tuple[str, Any]]) -> list[str]:
    """The lines of a two-column table; where names are long, each stands once above its values."""
    table = [(name, singular(str(value))) for name, value in table]
    wide = max((len(name) for name, _ in table), default=0)
    if wide <= 24:
        return [part for name, value in table for part in _filled(value, f"  {name:<{wide}}  ")]
    out = []
    for name in dict.fromkeys(name for name, _ in table):
        out.append(f"  {name}")
        for value in (value for other, value in table if other == name):
            out += _filled(value, "    ")
    return out


def _filled(text: str, head: str) -> list[str]:
    later = " " * len(head)
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=later,
        break_on_hyphens=False,
        break_long_words=False,
    )


def wrapped(text: str, head: str) -> list[str]:
    """The lines of a text, each behind `head`, the long ones wrapped."""
    fold = textwrap.TextWrapper(WIDTH - len(head), break_on_hyphens=False)
    return [f"{head}{part}".rstrip() for line in text.split("\n") for part in fold.wrap(line) or [""]]


def note(table: Sequence[tuple[str, str]]) -> None:
    """Prints a table to stderr, where it does not mix with results on stdout."""
    print("\n".join(lines(table)), file=sys.stderr, flush=True)


def number(value: float | None) -> str:
    """A number as text, with digits by its size; None is a dash."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage; None is a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"
