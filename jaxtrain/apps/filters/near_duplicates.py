"""Near duplicates: MinHash LSH finds candidates, the edit distance of the words decides.

A document is dropped only if it was compared with the kept copy, so no chain of small edits removes what is unlike it.
Documents are taken in order, so that the first copy is kept and the result does not depend on the shards.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtrain import config
from jaxtrain.apps.filters import fingerprints
from jaxtrain.apps.filters.fingerprints import MinHashPlan
from jaxtrain.config import ConfigError, arg

_MAX_NEIGHBOURS = 8  # earlier documents of a bucket that each is compared with, besides its first
_WINDOW = 1 << 16  # documents whose candidates are in memory at once
_MAX_EDIT_WORDS = 20_000  # of a document; of longer ones the Jaccard index of the n-grams decides
_NUMBERS, _MIN_NUMBERS = 0.05, 3  # of the words, and how many, from which on numbers make a record
_MIN_RECALL = 0.97  # of a pair at the threshold


@dataclasses.dataclass(frozen=True)
class NearDuplicates(config.Group):
    # fmt: off
    near: str = arg("drop", "Near duplicates, within and across the data sets; the first copy is kept",
        choices=("drop", "off"))
    near_similarity: float = arg(0.8,
        "Documents are near duplicates from this similarity on: 1 - edit distance between their words / "
        "words of the "
        "longer one", low=0.5, only=("near", ("drop",)))
    near_numbers: float = arg(0.5,
        "Least share of their numbers that near duplicates have in common, where numbers are a twentieth "
        "of the words and "
        "three at least; 0: no rule", low=0, only=("near", ("drop",)))
    near_from: int = arg(0, "Fewest words of a document that is compared", low=0, only=("near", ("drop",)))
    near_ngram: int = arg(2, "Words of a shingle, by which candidates are found", low=1, only=("near", ("drop",)))
    near_hashes: int = arg(144, "MinHash values of a document", low=16, only=("near", ("drop",)))
    # fmt: on

    def check(self):
        if not self.near_similarity < 1:
            raise ConfigError(
                f"--near_similarity={self.near_similarity}: must be below 1; equal texts are --exact's"
            )
        if self.near_numbers > 1:
            raise ConfigError(f"--near_numbers={self.near_numbers}: a share, at most 1")
        if min_jaccard(self.near_similarity, self.near_ngram) < 0.1:
            raise ConfigError(
                f"--near_ngram={self.near_ngram}: such edits may leave no {self.near_ngram} words in a "
                f"row that both "
                "share; lower it, or raise --near_similarity"
            )


def min_jaccard(similarity: float, n: int) -> float:
    """The least Jaccard index of the n-grams of two equally long texts at that similarity.

    d edits change at most d n of the n-grams (the q-gram lemma, Ukkonen 1992): J ≥ (1 - n e) / (1 + n e) with
    e = 1 - similarity.
    """
    lost = n * (1 - similarity)
    return max(0.0, (1 - lost) / (1 + lost))


def minhash_plan(settings: NearDuplicates) -> MinHashPlan:
    """The MinHash plan with the most rows, hence the fewest false candidates, that finds 97 % at the threshold.

    A pair with Jaccard index J shares one of b bands of r rows with probability 1 - (1 - J^r)^b.
    """
    J, best = min_jaccard(settings.near_similarity, settings.near_ngram), 1
    for rows in range(1, settings.near_hashes + 1):
        if 1 - (1 - J**rows) ** (settings.near_hashes // rows) >= _MIN_RECALL:
            best = rows
    return MinHashPlan(settings.near_ngram, settings.near_hashes, best)


class FingerprintShards(NamedTuple):
    """The fingerprints of all documents that passed the steps, shard after shard; files are mapped, not read."""

    folders: tuple[Path, ...]
    starts: np.ndarray  # i64[shards + 1]: documents before each shard

    @classmethod
    def open(cls, folders: Sequence[Path]) -> "FingerprintShards":
        """The fingerprints in these folders of FingerprintWriter."""
        sizes = [len(np.load(folder / "numbers.npy", mmap_mode="r")) for folder in folders]
        return cls(tuple(folders), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str, row: int | None = None) -> np.ndarray:
        """An array of all shards, one after the other; of a matrix its row `row`."""
        pick = (lambda a: a) if row is None else (lambda a: a[row])
        return np.concatenate([pick(np.load(folder / name, mmap_mode="r")) for folder in self.folders])

    def sketches(self, documents: np.ndarray) -> np.ndarray:
        """u8[documents, hashes], the sketches of these documents."""
        shard = np.searchsorted(self.starts, documents, side="right") - 1
        out = None
        for i in np.unique(shard).tolist():
            sketches = np.load(self.folders[i] / "sketches.npy", mmap_mode="r")
            if out is None:
                out = np.empty((len(documents), sketches.shape[1]), np.uint8)
            inside = shard == i
            out[inside] = sketches[documents[inside] - self.starts[i]]
        return out


class _WordReader:
    """The words of documents by number, each a character, with the last ones cached."""

    def __init__(self, shards: FingerprintShards):
        self._shards = shards
        self._mapped = functools.lru_cache(64)(self._map)
        self.words = functools.lru_cache(1 << 14)(self._words)

    def _map(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        folder = self._shards.folders[shard]
        return np.load(folder / "ends.npy"), np.memmap(folder / "words.bin", np.uint32, "r")

    def _words(self, document: int) -> str:
        shard = int(np.searchsorted(self._shards.starts, document, side="right")) - 1
        ends, words = self._mapped(shard)
        i = document - int(self._shards.starts[shard])
        return words[ends[i - 1] if i else 0 : ends[i]].tobytes().decode("utf-32-le")


def candidate_pairs(
    shards: FingerprintShards, compared: np.ndarray, settings: NearDuplicates, band: int
) -> np.ndarray:
    """u64, sorted: (document << 32 | an earlier one) for pairs of this band whose sketches are similar enough.

    `compared` bool[documents] are those that take part. Similar enough: at most four standard deviations below the
    threshold's Jaccard index.
    """
    documents = np.flatnonzero(compared)
    keys = shards.column("bands.npy", band)[documents]
    order = np.argsort(keys, kind="stable")
    keys, documents = keys[order], documents[order]
    begins = np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]])
    first = documents[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    pairs = [_encode_pairs(documents[~begins], first[~begins])]
    for lag in range(1, _MAX_NEIGHBOURS + 1):
        same = keys[lag:] == keys[:-lag]
        pairs.append(_encode_pairs(documents[lag:][same], documents[:-lag][same]))
    codes = np.unique(np.concatenate(pairs))
    J = min_jaccard(settings.near_similarity, settings.near_ngram)
    least = J - 4 * np.sqrt(J * (1 - J) / settings.near_hashes)
    kept = [codes[:0]]
    for block in np.array_split(codes, max(1, len(codes) >> 16)):
        later, earlier = _decode_pairs(block)
        if len(block):
            same = (shards.sketches(later) == shards.sketches(earlier)).mean(axis=1)
            kept.append(block[(same - 1 / 256) / (1 - 1 / 256) >= least])
    return np.concatenate(kept)


def _encode_pairs(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    return later.astype(np.uint64) << np.uint64(32) | earlier.astype(np.uint64)


def _decode_pairs(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (codes >> np.uint64(32)).astype(np.int64), (codes & np.uint64(0xFFFFFFFF)).astype(np.int64)


def eligible(shards: FingerprintShards, exact: np.ndarray, settings: NearDuplicates) -> np.ndarray:
    """bool[documents]: those to compare, which are no exact copies and have enough words, one at least."""
    sizes = [np.diff(np.load(folder / "ends.npy"), prepend=0) for folder in shards.folders]
    return (exact < 0) & (np.concatenate(sizes) >= max(1, settings.near_from))


def leaders(
    shards: FingerprintShards, bands: Sequence[Path], settings: NearDuplicates
) -> tuple[np.ndarray, np.ndarray]:
    """(i64[documents], the kept copy that each is a near duplicate of or -1; f32[documents], their similarity).

    `bands` are files of `candidate_pairs`, one a band.
    """
    leader, score = np.full(len(shards), -1, np.int64), np.zeros(len(shards), np.float32)
    words = _WordReader(shards).words
    for document, candidates in _candidates(bands, len(shards)):
        followed = np.where(leader[candidates] < 0, candidates, leader[candidates])
        own, best, chosen = words(document), 0.0, -1
        for other in np.unique(followed).tolist():
            score_of_other = similarity(own, words(other), settings)
            if score_of_other > best:
                best, chosen = score_of_other, other
        leader[document], score[document] = chosen, best
    return leader, score


def _candidates(bands: Sequence[Path], size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(document, the earlier ones to compare it with), in the order of the documents, a window at a time."""
    files = [np.load(path, mmap_mode="r") for path in bands]
    for start in range(0, size, _WINDOW):
        low, high = np.uint64(start << 32), np.uint64(min(start + _WINDOW, size) << 32)
        parts = [file[slice(*np.searchsorted(file, [low, high]))] for file in files]
        later, earlier = _decode_pairs(np.unique(np.concatenate(parts)))
        bounds = [*np.flatnonzero(np.diff(later, prepend=-1)).tolist(), len(later)]
        for at, end in pairwise(bounds):
            yield int(later[at]), earlier[at:end]


def similarity(a: str, b: str, settings: NearDuplicates) -> float:
    """The similarity of two documents; 0 below the threshold, and where they are of one form with other numbers."""
    value = _similarity_of_words(a, b, settings)
    if value and settings.near_numbers:
        shared, share = fingerprints.shared_numbers(a, b)
        many = share >= _NUMBERS and share * max(len(a), len(b)) >= _MIN_NUMBERS - 1e-9
        return 0.0 if many and shared < settings.near_numbers else value
    return value


def _similarity_of_words(a: str, b: str, settings: NearDuplicates) -> float:
    """1 - edit distance / words of the longer one; 0 below the threshold.

    The edit distance takes time in proportion to both lengths, so of very long documents the exact Jaccard index of
    the n-grams decides, and the similarity of that index by `min_jaccard` is returned.
    """
    from rapidfuzz.distance import Levenshtein

    if max(len(a), len(b)) <= _MAX_EDIT_WORDS:
        longest = max(len(a), len(b), 1)
        most = math.floor((1 - settings.near_similarity) * longest + 1e-9)  # 0.2 x 15 is 3, which floats miss
        edits = Levenshtein.distance(a, b, score_cutoff=most)
        return 1 - edits / longest if edits <= most else 0.0
    n = settings.near_ngram
    one, two = (
        np.unique(fingerprints.ngram_hashes(np.frombuffer(x.encode("utf-32-le"), np.uint32), n))
        for x in (a, b)
    )
    shared = len(np.intersect1d(one, two, assume_unique=True))
    J = shared / max(1, len(one) + len(two) - shared)
    value = 1 - (1 - J) / (n * (1 + J))
    return value if value >= settings.near_similarity else 0.0
