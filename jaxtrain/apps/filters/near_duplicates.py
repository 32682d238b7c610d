"""Near duplicates: MinHash LSH finds candidates, the edit distance between words decides.

A document is dropped only if it was compared with the copy that is kept, so no chain of small steps removes what is
unlike it. Documents are taken in order, so that the first copy is kept and the result does not depend on the shards.
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

_NEIGHBOURS = 8  # earlier documents of a bucket that each is compared with, besides its first
_WINDOW = 1 << 16  # documents whose candidates are held at once
_LONG = 20_000  # words from which the Jaccard index of the n-grams decides
_LEAST_RECALL = 0.97  # of a pair at the threshold, by the choice of the bands


@dataclasses.dataclass(frozen=True)
class NearDuplicates(config.Group):
    # fmt: off
    near: str = arg("drop", "Near duplicates, within and across the data sets; the first copy is kept",
        choices=("drop", "off"))
    near_similarity: float = arg(0.8,
        "Documents are near duplicates from this similarity on: 1 - edit distance between their words / words of the "
        "longer one", low=0.5, only=("near", ("drop",)))
    near_from: int = arg(0, "Fewest words of a document that is compared", low=0, only=("near", ("drop",)))
    near_ngram: int = arg(2, "Words of a shingle, by which candidates are found", low=1, only=("near", ("drop",)))
    near_hashes: int = arg(144, "MinHash values of a document", low=16, only=("near", ("drop",)))
    # fmt: on

    def check(self):
        if not self.near_similarity < 1:
            raise ConfigError(
                f"--near_similarity={self.near_similarity}: must be below 1; equal texts are --exact's"
            )
        if bound(self.near_similarity, self.near_ngram) < 0.1:
            raise ConfigError(
                f"--near_ngram={self.near_ngram}: such edits may leave no {self.near_ngram} words in a row that both "
                "share; lower it, or raise --near_similarity"
            )


def bound(similarity: float, n: int) -> float:
    """The least Jaccard index of the n-grams of two equally long texts at that similarity.

    d edits change at most d n of the n-grams (the q-gram lemma, Ukkonen 1992): J ≥ (1 - n e) / (1 + n e) with
    e = 1 - similarity.
    """
    lost = n * (1 - similarity)
    return max(0.0, (1 - lost) / (1 + lost))


def plan(settings: NearDuplicates) -> MinHashPlan:
    """The bands with the most rows, hence the fewest false candidates, that find 97 % of pairs at the threshold.

    A pair with Jaccard index J shares one of b bands of r rows with probability 1 - (1 - J^r)^b.
    """
    J, best = bound(settings.near_similarity, settings.near_ngram), 1
    for rows in range(1, settings.near_hashes + 1):
        if 1 - (1 - J**rows) ** (settings.near_hashes // rows) >= _LEAST_RECALL:
            best = rows
    return MinHashPlan(settings.near_ngram, settings.near_hashes, best)


class FingerprintShards(NamedTuple):
    """The fingerprints of all documents that are left, shard after shard; files are mapped, not read."""

    folders: tuple[Path, ...]
    starts: np.ndarray  # i64[shards + 1]: documents before each shard

    @classmethod
    def of(cls, folders: Sequence[Path]) -> "FingerprintShards":
        """The shards of these folders, that `dedup.Writer` filled."""
        sizes = [len(np.load(folder / "numbers.npy", mmap_mode="r")) for folder in folders]
        return cls(tuple(folders), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str, row: int | None = None) -> np.ndarray:
        """An array of all shards, one after the other; of a matrix by rows, that row."""
        pick = (lambda a: a) if row is None else (lambda a: a[row])
        return np.concatenate([pick(np.load(folder / name, mmap_mode="r")) for folder in self.folders])

    def sketches(self, at: np.ndarray) -> np.ndarray:
        """u8[documents, hashes] of these documents."""
        shard = np.searchsorted(self.starts, at, side="right") - 1
        out = None
        for i in np.unique(shard).tolist():
            found = np.load(self.folders[i] / "sketches.npy", mmap_mode="r")
            if out is None:
                out = np.empty((len(at), found.shape[1]), np.uint8)
            mine = shard == i
            out[mine] = found[at[mine] - self.starts[i]]
        return out

    def reader(self) -> "_Words":
        """Reads documents' words."""
        return _Words(self)


class _Words:
    def __init__(self, shards: FingerprintShards):
        self._shards = shards
        self._mapped = functools.lru_cache(64)(self._map)
        self.of = functools.lru_cache(1 << 14)(self._of)

    def _map(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        folder = self._shards.folders[shard]
        return np.load(folder / "ends.npy"), np.memmap(folder / "words.bin", np.uint32, "r")

    def _of(self, document: int) -> str:
        shard = int(np.searchsorted(self._shards.starts, document, side="right")) - 1
        ends, words = self._mapped(shard)
        i = document - int(self._shards.starts[shard])
        return words[ends[i - 1] if i else 0 : ends[i]].tobytes().decode("utf-32-le")


def pairs(shards: FingerprintShards, unique: np.ndarray, settings: NearDuplicates, band: int) -> np.ndarray:
    """u64, sorted: (document << 32 | an earlier one) for pairs of this band whose sketches are alike enough.

    `unique` says which documents take part. Enough is four standard deviations below the threshold's Jaccard index.
    """
    chosen = np.flatnonzero(unique)
    keys = shards.column("bands.npy", band)[chosen]
    order = np.argsort(keys, kind="stable")
    keys, documents = keys[order], chosen[order]
    begins = np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]])
    first = documents[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    found = [_coded(documents[~begins], first[~begins])]
    for lag in range(1, _NEIGHBOURS + 1):
        same = keys[lag:] == keys[:-lag]
        found.append(_coded(documents[lag:][same], documents[:-lag][same]))
    codes = np.unique(np.concatenate(found))
    J = bound(settings.near_similarity, settings.near_ngram)
    least = J - 4 * np.sqrt(J * (1 - J) / settings.near_hashes)
    kept = [codes[:0]]
    for block in np.array_split(codes, max(1, len(codes) >> 16)):
        later, earlier = _decoded(block)
        if len(block):
            same = (shards.sketches(later) == shards.sketches(earlier)).mean(axis=1)
            kept.append(block[(same - 1 / 256) / (1 - 1 / 256) >= least])
    return np.concatenate(kept)


def _coded(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    return later.astype(np.uint64) << np.uint64(32) | earlier.astype(np.uint64)


def _decoded(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (codes >> np.uint64(32)).astype(np.int64), (codes & np.uint64(0xFFFFFFFF)).astype(np.int64)


def takes_part(shards: FingerprintShards, exact: np.ndarray, settings: NearDuplicates) -> np.ndarray:
    """bool[documents]: those that are no exact copies and have enough words; an empty one has none."""
    sizes = [np.diff(np.load(folder / "ends.npy"), prepend=0) for folder in shards.folders]
    return (exact < 0) & (np.concatenate(sizes) >= max(1, settings.near_from))


def leaders(
    shards: FingerprintShards, found: Sequence[Path], settings: NearDuplicates
) -> tuple[np.ndarray, np.ndarray]:
    """(i64[documents], the kept copy that each is a near duplicate of or -1; f32[documents], their similarity).

    `found` are the files of `pairs`, one a band.
    """
    leader, score = np.full(len(shards), -1, np.int64), np.zeros(len(shards), np.float32)
    words = shards.reader()
    for document, candidates in _candidates(found, len(shards)):
        followed = np.where(leader[candidates] < 0, candidates, leader[candidates])
        mine, best, chosen = words.of(document), 0.0, -1
        for other in np.unique(followed).tolist():
            alike = similarity(mine, words.of(other), settings)
            if alike > best:
                best, chosen = alike, other
        leader[document], score[document] = chosen, best
    return leader, score


def _candidates(found: Sequence[Path], size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(document, the earlier ones to compare it with), in the order of the documents, a window at a time."""
    files = [np.load(path, mmap_mode="r") for path in found]
    for start in range(0, size, _WINDOW):
        low, high = np.uint64(start << 32), np.uint64(min(start + _WINDOW, size) << 32)
        parts = [file[slice(*np.searchsorted(file, [low, high]))] for file in files]
        later, earlier = _decoded(np.unique(np.concatenate(parts)))
        bounds = [*np.flatnonzero(np.diff(later, prepend=-1)).tolist(), len(later)]
        for at, end in pairwise(bounds):
            yield int(later[at]), earlier[at:end]


def similarity(a: str, b: str, settings: NearDuplicates) -> float:
    """1 - edit distance / length of the longer one, or 0 below the threshold.

    The edit distance takes time in proportion to both lengths, so of very long documents the exact Jaccard index of
    the n-grams decides, and the similarity that it stands for by `bound` is given.
    """
    from rapidfuzz.distance import Levenshtein

    if max(len(a), len(b)) <= _LONG:
        longest = max(len(a), len(b), 1)
        most = math.floor((1 - settings.near_similarity) * longest + 1e-9)  # 0.2 x 15 is 3, which floats miss
        edits = Levenshtein.distance(a, b, score_cutoff=most)
        return 1 - edits / longest if edits <= most else 0.0
    n = settings.near_ngram
    one, two = (
        np.unique(fingerprints.ngrams(np.frombuffer(x.encode("utf-32-le"), np.uint32), n)) for x in (a, b)
    )
    shared = len(np.intersect1d(one, two, assume_unique=True))
    J = shared / max(1, len(one) + len(two) - shared)
    alike = 1 - (1 - J) / (n * (1 + J))
    return alike if alike >= settings.near_similarity else 0.0
