"""How much a set of texts repeats itself."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDER = 4  # longest n-grams of BLEU
MOST = 500  # texts that self-BLEU compares with one another: it takes their number squared
_EPSILON = 0.1  # matches that a precision without any counts as


def words(text: str) -> list[str]:
    return text.casefold().split()


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's words."""
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams / all n-grams of the texts together (Li et al. 2016, arXiv:1510.03055); 0 without any."""
    found = [one for text in texts for one in grams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """The mean BLEU-4 of each text with all others as references (Texygen, arXiv:1802.01886), 0 to 1; 1 repeats all.

    Clipped precisions p_n with uniform weights over the n that the text is long enough for; exp(1 − r/c) for a text of
    c words shorter than r, those of the reference nearest in length. No match counts as 0.1. Of more than MOST texts
    evenly spread ones count. 0 for fewer than two texts with words.
    """
    texts = [text for text in texts if words(text)]
    if len(texts) > MOST:
        texts = [texts[i * len(texts) // MOST] for i in range(MOST)]
    if len(texts) < 2:
        return 0.0
    counts = [[Counter(grams(text, n)) for n in range(1, ORDER + 1)] for text in texts]
    highest = [_two_highest([one[n] for one in counts]) for n in range(ORDER)]
    sizes = [len(words(text)) for text in texts]
    return sum(_bleu(i, counts[i], highest, sizes) for i in range(len(texts))) / len(texts)


def _two_highest(counts: Sequence[Counter]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """n-gram -> (most in one text, that text, most in another): the references' maximum for any text in turn."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, each in enumerate(counts):
        for gram, count in each.items():
            best, where, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, i, best) if count > best else (best, where, max(second, count))
    return found


def _bleu(i: int, counts: Sequence[Counter], highest: Sequence[dict], sizes: Sequence[int]) -> float:
    logs = []
    for own, most in zip(counts, highest, strict=True):
        total = sum(own.values())
        if not total:
            continue
        matched = 0
        for gram, count in own.items():
            best, where, second = most[gram]
            matched += min(count, second if where == i else best)
        logs.append(math.log((matched or _EPSILON) / total))
    c = sizes[i]
    r = min((abs(size - c), size) for j, size in enumerate(sizes) if j != i)[1]
    return math.exp(sum(logs) / len(logs) + min(0.0, 1 - r / c))


def spread(vectors: np.ndarray) -> float:
    """1 − the mean cosine between two different rows of f[N, D]: 0 where all point one way, 1 where they do not agree.

    With unit rows u_i the mean is (‖Σ u_i‖² − N)/(N(N − 1)). 0 for fewer than two rows that are not zero.
    """
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=-1)
    unit = vectors[norms > 0] / norms[norms > 0, None]
    N = len(unit)
    if N < 2:
        return 0.0
    return float(1 - (np.square(unit.sum(0)).sum() - N) / (N * (N - 1)))


def report(texts: Sequence[str]) -> dict[str, float]:
    """What is told of a data set's texts."""
    found = {f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}
    return found | {
        "self_bleu": self_bleu(texts),
        "words": float(np.mean([len(words(text)) for text in texts] or [0])),
    }
