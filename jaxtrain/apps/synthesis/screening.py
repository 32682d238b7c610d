"""Checks of a synthetic text that need no judge: length, language, near duplicates."""

import importlib.util
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.measures.diversity import ngrams, words

N = 3  # words of the n-grams of near duplicates


def length_fault(text: str, low: int, high: int) -> str:
    """Why a text is too short or too long, in characters; high 0 is no bound. Empty where it is neither."""
    size = len(text.strip())
    if size < low:
        return f"short: fewer than {low} characters"
    return f"long: more than {high} characters" if high and size > high else ""


def language_check(language: str) -> Callable[[str], str]:
    """A function: why a text is not in `language`, an ISO 639-1 code; empty where it is. Raises ConfigError."""
    if not language:
        return lambda text: ""
    if importlib.util.find_spec("py3langid") is None:
        raise ConfigError(f"--language={language}: needs py3langid: pip install 'jaxtrain[filters]'")
    import py3langid

    known = sorted(name for name, _ in py3langid.rank("a"))
    if language not in known:
        raise ConfigError(f"--language={language}: not one of {', '.join(known)}")

    def fault(text: str) -> str:
        detected = py3langid.classify(text)[0]
        return "" if detected == language else f"language: {detected}, not {language}"

    return fault


class NearDuplicateIndex:
    """An index of accepted texts, which finds duplicates and near duplicates of them.

    Two texts are near duplicates where the Jaccard index of their sets of word 3-grams (shorter texts: of all their
    words as one) is at least `near`. Exact: two such sets of n and m share one of the first n − ⌈near · n⌉ + 1 grams in
    any common order (the prefix filter of Bayardo et al. 2007), so only those are looked up. `near` 1 finds texts with
    the same words in the same order, whatever their case and spaces; above 1 nothing.
    """

    def __init__(self, near: float):
        self._near = near
        self._texts: dict[tuple[str, ...], Any] = {}
        self._sets: list[tuple[frozenset, Any]] = []
        self._where: dict[tuple[str, ...], list[int]] = defaultdict(list)

    def twin(self, text: str) -> tuple[str, Any]:
        """("duplicate" or "near duplicate", the name of the earlier text), ("", None) where there is none."""
        key = tuple(words(text))
        if key in self._texts and self._near <= 1:
            return "duplicate", self._texts[key]
        if self._near < 1:
            own = _shingles(text)
            for i in sorted({i for gram in self._prefix(own) for i in self._where[gram]}):
                other, name = self._sets[i]
                if len(own & other) >= self._near * len(own | other):
                    return "near duplicate", name
        return "", None

    def add(self, text: str, name: Any) -> None:
        """Adds a text under a name."""
        self._texts.setdefault(tuple(words(text)), name)
        if self._near < 1:
            own = _shingles(text)
            for gram in self._prefix(own):
                self._where[gram].append(len(self._sets))
            self._sets.append((own, name))

    def _prefix(self, own: frozenset) -> list[tuple[str, ...]]:
        ordered = sorted(own)
        return ordered[: len(own) - _ceil(self._near * len(own)) + 1]


def _shingles(text: str) -> frozenset:
    return frozenset(ngrams(words(text), N)) or frozenset([tuple(words(text))])


def _ceil(x: float) -> int:
    """⌈x⌉, of a product of floats that may be a hair above the whole number that it should be."""
    return int(-(-(x - 1e-9) // 1))
