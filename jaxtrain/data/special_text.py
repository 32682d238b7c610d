"""Special tokens in texts: those in a message are text, those of a template are shown as they are written.

A guard is a noncharacter, which no text needs, inside whatever a tokenizer could read as a special token. It goes
through the chat template with the message, and its own tokens are left out of the ids.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxtrain.data.messages import BadRecord, strings
from jaxtrain.data.tokenizer import Tokenizer

GUARDS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # noncharacters


def pattern(specials: Iterable[str]) -> re.Pattern[str]:
    """One that matches each of the special tokens, the longest first; nothing where there are none."""
    ordered = sorted(specials, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")


class SpecialText:
    """The special tokens of a tokenizer, as what messages may hold by accident."""

    def __init__(self, specials: Iterable[str]):
        specials = tuple(specials)
        self._special = pattern(specials)
        self._heads = tuple({text[:k] for text in specials for k in range(1, len(text))})
        self._tails = tuple({text[k:] for text in specials for k in range(1, len(text))})

    def occurs(self, value: Any) -> bool:
        """Whether a string in `value` could be read as a special token, whole or at its edges."""
        return any(self._guarded(text, "\0") is not text for text in strings(value, keys=False))

    def guarded(self, value: Any, guard: str) -> Any:
        """`value` with the guard inside whatever could be read so, in every string but the keys of objects."""
        if isinstance(value, str):
            return self._guarded(value, guard)
        if isinstance(value, Mapping):
            return {k: self.guarded(v, guard) for k, v in value.items()}
        return [self.guarded(v, guard) for v in value] if isinstance(value, list | tuple) else value

    def _guarded(self, text: str, guard: str) -> str:
        """`text` itself where nothing needs a guard."""
        while self._special.search(text):
            text = self._special.sub(lambda match: match[0][0] + guard + match[0][1:], text)
        inner = text.strip()
        if inner.endswith(self._heads):
            at = len(text.rstrip()) - 1
            text = text[:at] + guard + text[at:]
        if inner.startswith(self._tails):
            at = len(text) - len(text.lstrip()) + 1
            text = text[:at] + guard + text[at:]
        return text


def unused_guard(value: Any) -> str:
    """A guard that no string in `value` has. Raises BadRecord where there is none."""
    whole = "".join(strings(value, keys=False))
    guard = next((one for one in GUARDS if one not in whole), None)
    if guard is None:
        raise BadRecord("no text: it has every noncharacter from U+FDD0 to U+FDEF")
    return guard


def without_guard(text: str, guard: str, ids: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids and spans of a text but those of the guards in it; spans stay those of the text with its guards."""
    if not guard or guard not in text:
        return ids, spans
    there = np.zeros(len(text) + 1, bool)
    there[[match.start() for match in re.finditer(guard, text)]] = True
    keep = ~(there[spans[:, 0]] & (spans[:, 1] - spans[:, 0] == 1))
    return ids[keep], spans[keep]


def marked_decoder(tokenizer: Tokenizer) -> Callable[[Iterable[int]], str]:
    """A function that makes text of ids, with special tokens as they are written, but padding."""
    padding = {tokenizer.pad} - {tokenizer.bos, tokenizer.eos}
    names = {i: "" if i in padding else text for text, i in tokenizer.specials.items()}

    def decode(ids: Iterable[int]) -> str:
        parts = []
        for special, group in itertools.groupby(map(int, ids), names.__contains__):
            run = [*group]
            parts.append("".join(names[i] for i in run) if special else tokenizer.decode_completion(run))
        return "".join(parts)

    return decode
