"""Stop strings, before which a completion ends: the host searches for them between two decodes."""

from collections.abc import Callable, Sequence

from jaxtrain.data.response import partial_length

UNKNOWN = "\ufffd"  # what a tokenizer makes of the first bytes of a character


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """The place in a text where the first of the stops begins, None where there is none."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


def stable_text(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """(the beginning of an unfinished text that no more tokens can change, whether a stop ended it there)."""
    if (cut := find_stop(text, stops)) is not None:
        return text[:cut], True
    whole = text.rstrip(UNKNOWN)
    return whole[: len(whole) - partial_length(whole, stops)], False


def tokens_until_stop(
    ids: Sequence[int], stops: Sequence[str], decode: Callable[[list[int]], str]
) -> int | None:
    """The number of tokens with which the text first has a whole stop in it, None where it has none.

    More tokens never take a stop away, so a binary search finds the number.
    """
    if not stops or find_stop(decode(list(ids)), stops) is None:
        return None
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        has_stop = find_stop(decode(list(ids[:middle])), stops) is not None
        low, high = (low, middle) if has_stop else (middle + 1, high)
    return low
