"""Contamination: documents that share n words in a row with an evaluation set (GPT-3, 2005.14165, appendix C)."""

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
    """The n-grams of an evaluation set, on disk."""

    path: Path
    n: int


def build(texts: Iterable[Sequence[str]], settings: Decontaminate, path: Path) -> dict[str, int]:
    """Writes the sorted n-grams u64 of the evaluation documents' texts; returns counts of them and of the documents.

    Raises ConfigError where none has: the whole set would be let through unseen.
    """
    n, documents, matched = settings.decontaminate_ngram, 0, 0
    found, waiting, held = np.zeros(0, np.uint64), [], 0
    for one in texts:
        grams = [fingerprints.ngrams(_coded(fingerprints.words_only(text)), n) for text in one]
        documents += 1
        matched += any(map(len, grams))
        waiting += grams
        held += sum(map(len, grams))
        if held >= 1 << 20:
            found, waiting, held = np.unique(np.concatenate([found, *waiting])), [], 0
    found = np.unique(np.concatenate([found, *waiting]))
    if not len(found):
        raise ConfigError(
            f"--decontaminate={settings.decontaminate}: none of its {documents:,} documents has {n} words in a row; "
            "lower --decontaminate_ngram"
        )
    np.save(path, found)
    return {"documents": documents, "too_short": documents - matched, "ngrams": len(found)}


def check(table: NgramTable) -> Check:
    """A check for n-grams of the table: the score is how many the text shares, the span is the first of them."""
    known = np.load(table.path, mmap_mode="r")

    def found(text: str) -> Sequence[Finding]:
        words = fingerprints.words_only(text)
        grams = fingerprints.ngrams(_coded(words), table.n)
        if not len(grams):
            return ()
        at = np.searchsorted(known, grams)
        shared = known[np.minimum(at, len(known) - 1)] == grams
        if not shared.any():
            return ()
        first = int(np.argmax(shared))
        return [
            Finding(
                f"ngram_{table.n}", float(shared.sum()), _span(text, words[first : first + table.n], first)
            )
        ]

    return found


def _coded(words: Sequence[str]) -> np.ndarray:
    return fingerprints.coded([" ".join(words)])[0]


def _span(text: str, words: Sequence[str], first: int) -> tuple[int, int] | None:
    """Where the words begin and end in the text; None where normalising moved the characters."""
    places = [match.span() for match in fingerprints.WORD.finditer(text)][first : first + len(words)]
    if len(places) < len(words) or text[slice(*places[0])].casefold() != words[0]:
        return None
    return places[0][0], places[-1][1]
