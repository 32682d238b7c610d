"""Texts before which a completion ends: the host looks for them between calls of the device."""

from collections.abc import Callable, Sequence

UNKNOWN = "\ufffd"  # what a tokenizer makes of the first bytes of a character


def first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stops in a text begins."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters may be the beginning of a stop."""
    longest = max(map(len, stops), default=1) - 1
    return next(
        (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in stops)), 0
    )


def settled(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """(the beginning of a text under way that no more tokens can change, whether a stop ended it there)."""
    if (cut := first(text, stops)) is not None:
        return text[:cut], True
    whole = text.rstrip(UNKNOWN)
    return whole[: len(whole) - held_back(whole, stops)], False


def upto(ids: Sequence[int], stops: Sequence[str], decode: Callable[[list[int]], str]) -> int | None:
    """The number of tokens with which the text has first a whole stop in it, None where it has none.

    More tokens never take a stop away, so the number is found by halving.
    """
    if not stops or first(decode(list(ids)), stops) is None:
        return None
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        found = first(decode(list(ids[:middle])), stops) is not None
        low, high = (low, middle) if found else (middle + 1, high)
    return low
