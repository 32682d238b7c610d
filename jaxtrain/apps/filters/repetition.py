"""Gopher's repetition rules (2112.11446, table A1): how much of a document is repeated.

Counting every n-gram of 2 to 10 words is most of the cost of the published filters, so a bound is tried first: an
n-gram is at most as frequent as its rarest word, and five words repeat only where each of them does.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from jaxtrain import config
from jaxtrain.apps.filters import rule_scope
from jaxtrain.apps.filters.types import Check, Finding, Findings
from jaxtrain.config import arg
from jaxtrain.measures.diversity import ngrams

_PARAGRAPHS = re.compile(r"\n{2,}")
# The table's thresholds: the share of the characters in the most frequent n-gram, and in all repeated n-grams.
TOP = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


@dataclasses.dataclass(frozen=True)
class RepetitionFilter(config.Group):
    # fmt: off
    repetition_from: int = arg(600, "Characters from which the rules about repetition act on a document", low=0)
    max_line_repeats: float = arg(0.3,
        "Gopher: most of the lines, or of the paragraphs, that repeat another; 1: no rule", low=0)
    max_line_repeat_chars: float = arg(0.2,
        "Gopher: most of the characters in lines, or in paragraphs, that repeat another; 1: no rule", low=0)
    repeated_ngrams: float = arg(1.0,
        "Gopher's shares of characters in the most frequent 2 to 4 words and in repeated 5 to 10 words, "
        "times this; 0: no rule", low=0)
    # fmt: on


def check(settings: RepetitionFilter) -> Check:
    """A check by these rules; each finding's score is the share that the rule measured."""

    def findings(text: str) -> Sequence[Finding]:
        if len(text) < settings.repetition_from or not text.strip():
            return ()
        found = [*_line_repeats(settings, text), *_ngram_repeats(settings.repeated_ngrams, text)]
        if not found:
            return ()
        scale, form = rule_scope.repetition_scope(text)
        looser, why = _looser(settings, scale), rule_scope.has_no_ngrams(text, form)
        again = [*_line_repeats(looser, text), *(() if why else _ngram_repeats(looser.repeated_ngrams, text))]
        rules = {one.rule for one in again}
        return Findings(again, [(one.rule, why or form) for one in found if one.rule not in rules])

    return findings


def _looser(settings: RepetitionFilter, scale: float) -> RepetitionFilter:
    return dataclasses.replace(
        settings,
        max_line_repeats=scale * settings.max_line_repeats,
        max_line_repeat_chars=scale * settings.max_line_repeat_chars,
        repeated_ngrams=scale * settings.repeated_ngrams,
    )


def _line_repeats(settings: RepetitionFilter, text: str) -> Iterator[Finding]:
    stripped = text.strip()
    for name, units in (
        ("line", [line for line in stripped.split("\n") if line]),
        ("paragraph", _PARAGRAPHS.split(stripped) if "\n\n" in stripped else [stripped]),
    ):
        unique = set(units)
        if len(unique) == len(units):
            continue
        share = (len(units) - len(unique)) / len(units)
        if share > settings.max_line_repeats:
            yield Finding(f"gopher_{name}_repeats", share)
        chars = (sum(map(len, units)) - sum(map(len, unique))) / len(text)
        if chars > settings.max_line_repeat_chars:
            yield Finding(f"gopher_{name}_repeat_chars", chars)


def _ngram_repeats(scale: float, text: str) -> Iterator[Finding]:
    words = text.split()
    if not scale or len(words) < 2:
        return
    counts = np.fromiter(map(Counter(words).__getitem__, words), np.int32, len(words))
    longest = max(map(len, words))
    for n, limit in TOP.items():
        least = limit * scale * len(text) / (n * longest + n - 1)
        share = top_share(words, n, len(text), counts >= max(1, least))
        if share > limit * scale:
            yield Finding(f"gopher_top_{n}gram", share)
    if _bound(words, counts, len(text)) <= min(REPEATED.values()) * scale:
        return
    for n, limit in REPEATED.items():
        share = repeated_share(words, n, len(text))
        if share is None:
            return
        if share > limit * scale:
            yield Finding(f"gopher_repeated_{n}grams", share)


def _bound(words: Sequence[str], counts: np.ndarray, size: int) -> float:
    """The share of `size` characters in repeated 5-grams, their first occurrence included; 0 without any."""
    starts = list(_runs(counts > 1, 5))
    fives = [tuple(words[at : at + 5]) for at in starts]
    counts_of = Counter(fives)
    if len(counts_of) == len(fives):
        return 0.0
    repeated = [at for at, five in zip(starts, fives, strict=True) if counts_of[five] > 1]
    return sum(len(words[i]) for i in {i for at in repeated for i in range(at, at + 5)}) / size


def _runs(marked: np.ndarray, n: int) -> Iterator[int]:
    """The starts of n marked words in a row."""
    flags, run = marked.tobytes(), b"\1" * n
    at = flags.find(run)
    while at >= 0:
        yield at
        at = flags.find(run, at + 1)


def top_share(words: Sequence[str], n: int, size: int, frequent: np.ndarray) -> float:
    """The share of `size` characters in the most frequent n-gram, of equally frequent ones the longest.

    Only n-grams of `frequent` words, bool[words], are counted: an n-gram is no more frequent than its words.
    """
    grams = Counter([tuple(words[at : at + n]) for at in _runs(frequent, n)])
    if not grams:
        return 0.0
    most = max(grams.values())
    length = max(sum(map(len, gram)) + n - 1 for gram, count in grams.items() if count == most)
    return most * length / size


def repeated_share(words: Sequence[str], n: int, size: int) -> float | None:
    """The share of `size` characters in n-grams that repeat an earlier one, none counted twice; None without any."""
    grams = ngrams(words, n)
    if len(set(grams)) == len(grams):
        return None
    seen, chars, at = set(), 0, 0
    while at < len(grams):
        gram = grams[at]
        if gram in seen:
            chars += sum(map(len, gram))
            at += n
        else:
            seen.add(gram)
            at += 1
    return chars / size
