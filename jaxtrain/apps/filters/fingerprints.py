"""Fingerprints of documents: a digest for exact duplicates, a character for each word, and MinHash signatures.

A word becomes one of the 2^20 characters from U+10000 on, by a hash that is the same in every process; a word with a
digit becomes an odd one. A document is then a string with one character a word, which compiled string metrics read as
it is.
"""

import hashlib
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtrain.apps.filters import notices

SEED = 7
_FIRST_CHARACTER = 0x10000
WORD = re.compile(r"\w+")
_BATCH_DOCUMENTS, _BATCH_CHARS = 1_024, 1 << 21
_SPACES = bytes(32 if chr(code).isspace() else code for code in range(256))  # of ASCII
_PLACE_FACTORS = (np.random.Philox(SEED).random_raw(256) >> np.uint64(32)).astype(
    np.uint32
)  # by a byte's place in its word


def normalise(text: str) -> str:
    """The text that exact duplicates share: NFKC, without case, one space for all white space."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if not text.isascii():
        return " ".join(text.split())
    raw = text.encode().translate(_SPACES)
    while b"  " in raw:
        raw = raw.replace(b"  ", b" ")
    return raw.strip(b" ").decode()


def comparable(texts: Sequence[str], normalised: Sequence[str]) -> str:
    """The words of a document that near duplicates are compared by: all but notices that many documents share."""
    return " ".join(
        normalise(notices.without_notices(text)) if notices.has_hint(plain) else plain
        for text, plain in zip(texts, normalised, strict=True)
    )


def digest(texts: Sequence[str]) -> bytes:
    """A digest of normalised texts, 16 bytes."""
    return hashlib.blake2b("\x1e".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def encode_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(u32[words], the characters of the words of all texts; i64[texts], where each text ends).

    The texts are normalised: only spaces part words. A word's bytes are hashed by a sum, each times the factor of
    its place, all of them at once.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    raw = np.frombuffer(b" ".join([*encoded, b""]), np.uint8)
    stops = np.flatnonzero(raw == 32)
    starts = np.concatenate([[0], stops[:-1] + 1])[: len(stops)]
    place = np.arange(len(raw), dtype=np.uint32).astype(np.uint8)  # in its word, modulo 256
    place -= np.repeat(starts.astype(np.uint8), stops - starts + 1)
    terms = _PLACE_FACTORS[place] * (raw ^ np.uint8(32))
    hashes = np.add.reduceat(terms, starts) if len(raw) else stops
    numbers = np.zeros(len(stops), np.uint64)
    numbers[np.searchsorted(stops, np.flatnonzero(raw - np.uint8(48) < 10))] = 1  # a digit in the word
    hashes = mix64(hashes.astype(np.uint64)) >> np.uint64(45) << np.uint64(1) | numbers
    words = (_FIRST_CHARACTER + hashes).astype(np.uint32)
    nonempty = stops > starts  # an empty text leaves an empty word
    ends = np.searchsorted(stops, np.cumsum([len(one) + 1 for one in encoded]), side="left")
    return words[nonempty], np.concatenate([[0], np.cumsum(nonempty)])[ends]


def shared_numbers(a: str, b: str) -> tuple[float, float]:
    """(the share of the words with a digit that two documents of `encode_words` share, the share of such words)."""
    one, two = (np.frombuffer(x.encode("utf-32-le"), np.uint32) for x in (a, b))
    counts = [Counter(words[words & 1 == 1].tolist()) for words in (one, two)]
    most = max(counter.total() for counter in counts)
    return (counts[0] & counts[1]).total() / max(1, most), most / max(1, len(one), len(two))


def bare_words(text: str) -> list[str]:
    """The words of a text without case and punctuation, as n-grams of an evaluation set are compared."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def mix64(x: np.ndarray) -> np.ndarray:
    """u64, hashed by the finaliser of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """u64[words - n + 1], a hash of each n words in a row."""
    size = len(words) - n + 1
    if size < 1:
        return np.zeros(0, np.uint64)
    total, factor = np.zeros(size, np.uint64), 0x9E3779B97F4A7C15
    for i in range(n):
        total += words[i : i + size].astype(np.uint64) * np.uint64(factor)
        factor = factor * 0xD1342543DE82EF95 % (1 << 64)
    return mix64(total)


def shingles(words: np.ndarray, ends: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(u64 hashes of n-grams, i64 bounds by document); of a shorter document one hash of all its words.

    `words` are the documents', one after the other; `ends` is where each ends.
    """
    sizes = np.diff(ends, prepend=0)
    runs = ngram_hashes(words, n)
    # A run is of one document where it ends before the document does.
    document = np.repeat(np.arange(len(ends)), sizes)[: len(runs)]
    inside = np.arange(len(runs)) + n <= ends[document]
    counts = np.maximum(sizes - n + 1, 0)
    bounds = np.concatenate([[0], np.cumsum(np.maximum(counts, 1))])
    out = np.empty(bounds[-1], np.uint64)
    short = counts < 1
    place = np.zeros(bounds[-1], bool)
    place[bounds[:-1][short]] = True
    out[~place] = runs[inside]
    for i in np.flatnonzero(short).tolist():
        words_of = words[ends[i] - sizes[i] : ends[i]]
        out[bounds[i]] = ngram_hashes(words_of, len(words_of))[0] if len(words_of) else 0
    return out, bounds


class MinHashPlan(NamedTuple):
    """MinHash parameters: n words a shingle, the number of hashes, and the hashes (rows) of a band."""

    n: int
    hashes: int
    rows: int

    @property
    def bands(self) -> int:
        """The number of bands."""
        return self.hashes // self.rows


def minhash_signatures(
    words: np.ndarray, ends: np.ndarray, plan: MinHashPlan
) -> tuple[np.ndarray, np.ndarray]:
    """(sketches u8[documents, hashes], band keys u32[bands, documents]).

    The sketch is the low eight bits of each hash: b-bit MinHash (Li and König, 0910.3349), which agree by chance
    once in 256.
    """
    from rensa import RMinHash

    flat, bounds = shingles(words, ends, plan.n)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, bounds.astype(np.uint64), plan.hashes, SEED)
    flat_rows = itertools.chain.from_iterable(matrix.to_rows())
    full = np.fromiter(flat_rows, np.uint32, len(ends) * plan.hashes).reshape(len(ends), plan.hashes)
    used = full[:, : plan.bands * plan.rows].reshape(len(ends), plan.bands, plan.rows)
    keys, factor = np.zeros(used.shape[:2], np.uint64), 0x9E3779B97F4A7C15
    for i in range(plan.rows):
        keys = mix64(keys + used[..., i].astype(np.uint64) * np.uint64(factor))
    return full.astype(np.uint8), np.ascontiguousarray((keys >> np.uint64(32)).astype(np.uint32).T)


class FingerprintWriter:
    """A context that writes the fingerprints of a shard's documents, about a thousand at a time."""

    def __init__(self, folder: Path, plan: MinHashPlan | None):
        self._folder, self._plan = folder, plan
        self._numbers: list[int] = []
        self._digests: list[bytes] = []
        self._sizes: list[np.ndarray] = []
        self._pending: list[str] = []
        self._sketches: list[np.ndarray] = []
        self._bands: list[np.ndarray] = []
        self._words = (folder / "words.bin").open("wb")
        self._pending_chars = 0

    def add(self, number: int, texts: Sequence[str]) -> None:
        """Adds a document, its number and texts."""
        normalised = [normalise(text) for text in texts]
        self._numbers.append(number)
        self._digests.append(digest(normalised))
        if self._plan:
            self._pending.append(comparable(texts, normalised))
            self._pending_chars += len(self._pending[-1])
            if len(self._pending) >= _BATCH_DOCUMENTS or self._pending_chars >= _BATCH_CHARS:
                self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        words, ends = encode_words(self._pending)
        sketches, bands = minhash_signatures(words, ends, self._plan)
        self._sizes.append(np.diff(ends, prepend=0))
        self._sketches.append(sketches)
        self._bands.append(bands)
        words.tofile(self._words)
        self._pending, self._pending_chars = [], 0

    def __enter__(self) -> "FingerprintWriter":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._words:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        np.save(self._folder / "numbers.npy", np.array(self._numbers, np.int64))
        pairs = np.frombuffer(b"".join(self._digests), np.uint64).reshape(-1, 2)
        np.save(self._folder / "digests.npy", pairs)
        if self._plan:
            self._flush()
            empty = np.zeros((self._plan.bands, 0), np.uint32), np.zeros((0, self._plan.hashes), np.uint8)
            np.save(self._folder / "bands.npy", np.concatenate([empty[0], *self._bands], axis=1))
            np.save(self._folder / "sketches.npy", np.concatenate([empty[1], *self._sketches]))
            np.save(
                self._folder / "ends.npy", np.cumsum(np.concatenate([[0], *self._sizes])[1:], dtype=np.int64)
            )


def first_copies(digests: np.ndarray) -> np.ndarray:
    """i64[documents]: the first document with the same digest u64[documents, 2], or -1 where it is the first itself."""
    copy_of = np.full(len(digests), -1, np.int64)
    if not len(digests):
        return copy_of
    order = np.lexsort(
        (digests[:, 1], digests[:, 0])
    )  # stable: equal ones stay in the order of the documents
    ordered = digests[order]
    begins = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    first = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    copy_of[order[~begins]] = first[~begins]
    return copy_of
