"""Diversity of a set of texts: distinct-n, self-BLEU, and the mean cosine distance of embeddings; NumPy alone."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

MAX_ORDER = 4  # longest n-grams of BLEU
MAX_TEXTS = 500  # texts of self-BLEU, as in Texygen's own code
_EPSILON = 0.1  # matches that a precision without any counts as

Ngram = tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text: what white space parts, without case."""
    return text.casefold().split()


def ngrams(words: Sequence[str], n: int) -> list[Ngram]:
    """The n-grams of a list of words, in order."""
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """distinct-n: different n-grams / all n-grams of the texts (Li et al. 2016, arXiv:1510.03055); 0 without any."""
    counts = Counter(ngram for text in texts for ngram in ngrams(words(text), n))
    return len(counts) / counts.total() if counts else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Self-BLEU: the mean BLEU-4 of each text against all others, 0 to 1; 1 where all are alike.

    The definition is Texygen's (Zhu et al. 2018, arXiv:1802.01886); BLEU is Papineni et al. 2002:
        BLEU = min(1, exp(1 − r/c)) · exp(mean_n log p_n)
    with p_n the clipped precisions of n = 1 to 4, of uniform weights; c the words of the text, r those of the reference
    nearest in length, of two the shorter. Smoothing as in Texygen's code (method 1 of Chen and Cherry 2014): no match
    counts as 0.1. As there at most 500 texts count, but evenly spaced ones, not the first.
    Two choices differ from NLTK, which Texygen calls: orders that the text is too short for are left out of the mean
    (NLTK gives them p_n = 0.1), and a text without a common word is smoothed too (NLTK gives it 0).
    Texts without words are left out; 0 for fewer than two others.
    """
    split = [each for each in map(words, texts) if each]
    if len(split) > MAX_TEXTS:
        split = [split[i * len(split) // MAX_TEXTS] for i in range(MAX_TEXTS)]
    if len(split) < 2:
        return 0.0
    counts = [[Counter(ngrams(each, n)) for n in range(1, MAX_ORDER + 1)] for each in split]
    highest = [_two_highest([each[order] for each in counts]) for order in range(MAX_ORDER)]
    lengths = [len(each) for each in split]
    return sum(_bleu(i, counts[i], highest, lengths) for i in range(len(split))) / len(split)


def _two_highest(counts: Sequence[Counter]) -> dict[Ngram, tuple[int, int, int]]:
    """n-gram -> (highest count in a text, that text, highest in another): for any text its references' maximum."""
    highest: dict[Ngram, tuple[int, int, int]] = {}
    for i, each in enumerate(counts):
        for ngram, count in each.items():
            first, where, second = highest.get(ngram, (0, -1, 0))
            highest[ngram] = (count, i, first) if count > first else (first, where, max(second, count))
    return highest


def _bleu(i: int, counts: Sequence[Counter], highest: Sequence[dict], lengths: Sequence[int]) -> float:
    """BLEU of text i, whose n-gram counts by order are `counts`, against all other texts."""
    log_precisions = []
    for own, maxima in zip(counts, highest, strict=True):
        total = own.total()
        if not total:
            continue
        matched = 0
        for ngram, count in own.items():
            first, where, second = maxima[ngram]
            matched += min(count, second if where == i else first)
        log_precisions.append(math.log((matched or _EPSILON) / total))
    c = lengths[i]
    r = min((abs(length - c), length) for j, length in enumerate(lengths) if j != i)[1]
    return math.exp(sum(log_precisions) / len(log_precisions) + min(0.0, 1 - r / c))


def mean_cosine_distance(vectors: np.ndarray) -> float:
    """1 − the mean cosine of two different rows of f[N, D]: 0 where all point one way, 1 where they do not agree.

    With unit rows u_i the mean is (‖Σ u_i‖² − N)/(N(N − 1)). 0 for fewer than two rows that are not zero.
    """
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=-1)
    unit = vectors[norms > 0] / norms[norms > 0, None]
    N = len(unit)
    if N < 2:
        return 0.0
    return float(1 - (np.square(unit.sum(0)).sum() - N) / (N * (N - 1)))


def diversity_metrics(texts: Sequence[str]) -> dict[str, float]:
    """The diversity of texts as metrics: distinct_1 to distinct_3, self_bleu, and the mean of their words."""
    return {f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)} | {
        "self_bleu": self_bleu(texts),
        "words": float(np.mean([len(words(text)) for text in texts] or [0])),
    }
