"""Decontamination: drops documents that share n-grams with an evaluation set (GPT-3, 2005.14165, appendix C)."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtrain import config
from jaxtrain.apps.filters import fingerprints
from jaxtrain.apps.filters.types import Check, Finding
from jaxtrain.config import ConfigError, arg


@dataclasses.dataclass(frozen=True)
class Decontaminate(config.Group):
    # fmt: off
    decontaminate: str = arg("",
        "Evaluation data, of the same form as --data: documents that share n-grams with it are dropped")
    decontaminate_ngram: int = arg(13, "Words in a row that are shared", low=1)
    # fmt: on

    def check(self):
        if not self.decontaminate and self.decontaminate_ngram != type(self).decontaminate_ngram:
            raise ConfigError("--decontaminate_ngram: acts only with --decontaminate")


class NgramTable(NamedTuple):
    """The n-gram hashes of an evaluation set, in a file."""

    path: Path
    n: int


def build_ngram_table(texts: Iterable[Sequence[str]], settings: Decontaminate, path: Path) -> dict[str, int]:
    """Counts of n-grams and documents of an evaluation set, after writing the sorted hashes u64 of its n-grams.

    Raises ConfigError where no document is long enough: the whole set would pass.
    """
    n, documents, long_enough = settings.decontaminate_ngram, 0, 0
    table, pending, size = np.zeros(0, np.uint64), [], 0
    for one in texts:
        hashes = [fingerprints.ngram_hashes(_encode(fingerprints.bare_words(text)), n) for text in one]
        documents += 1
        long_enough += any(map(len, hashes))
        pending += hashes
        size += sum(map(len, hashes))
        if size >= 1 << 20:
            table, pending, size = np.unique(np.concatenate([table, *pending])), [], 0
    table = np.unique(np.concatenate([table, *pending]))
    if not len(table):
        raise ConfigError(
            f"--decontaminate={settings.decontaminate}: none of its {documents:,} documents has {n} words in a row; "
            "lower --decontaminate_ngram"
        )
    np.save(path, table)
    return {"documents": documents, "too_short": documents - long_enough, "ngrams": len(table)}


def check(table: NgramTable) -> Check:
    """A check for n-grams of the table: the score is the number that the text shares, the span the first of them."""
    known = np.load(table.path, mmap_mode="r")

    def findings(text: str) -> Sequence[Finding]:
        words = fingerprints.bare_words(text)
        hashes = fingerprints.ngram_hashes(_encode(words), table.n)
        if not len(hashes):
            return ()
        at = np.searchsorted(known, hashes)
        shared = known[np.minimum(at, len(known) - 1)] == hashes
        if not shared.any():
            return ()
        first = int(np.argmax(shared))
        span = _span(text, words[first : first + table.n], first)
        return [Finding(f"ngram_{table.n}", float(shared.sum()), span)]

    return findings


def _encode(words: Sequence[str]) -> np.ndarray:
    return fingerprints.encode_words([" ".join(words)])[0]


def _span(text: str, words: Sequence[str], first: int) -> tuple[int, int] | None:
    """The words' span in the text; None where normalising moved the characters."""
    places = [match.span() for match in fingerprints.WORD.finditer(text)][first : first + len(words)]
    if len(places) < len(words) or text[slice(*places[0])].casefold() != words[0]:
        return None
    return places[0][0], places[-1][1]
