"""Names near a misspelt one: of flags, values, stages and runs."""

import difflib
from collections.abc import Collection


def near(word: str, known: Collection[str], most: int = 3) -> list[str]:
    """The names of `known` that are spelled like `word`, nearest first; case and -_ do not count."""
    plain = {_plain(name): name for name in reversed(list(known))}
    return [plain[name] for name in difflib.get_close_matches(_plain(word), plain, most, 0.65)]


def hint(word: str, known: Collection[str], start: str = "; ", prefix: str = "") -> str:
    """`; did you mean A or B?` of the near names, each behind `prefix`; empty where none is near."""
    names = [f"{prefix}{name}" for name in near(word, known)]
    return f"{start}did you mean {' or '.join(names)}?" if names else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
