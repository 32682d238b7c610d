"""The factors of data quality as numbers: diversity, accuracy, recency, formatting, safety.

They are measured on a sample of the documents, so that they cost as much for a corpus as for a file. A number that
cannot be known from the data is None, never a guess.
"""

import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxtrain.apps.filters import gibberish, harm, pii, spam
from jaxtrain.measures.diversity import distinct_n, mean_cosine_distance, self_bleu, words
from jaxtrain.worlds import World

AnswerKey = Callable[[str], tuple[int, int]]  # (statements of a text that are right, that are wrong)

_SAMPLE = 2_000
_MAX_NGRAMS = 100_000  # distinct-n falls with the length of a text, so it is of the first so many n-grams
_BLEU_TEXTS = 100
_WIDTH, _CLUSTERS, _ROUNDS = 512, 16, 10
_MAX_CHARS = 5_000  # of a document
_YEAR = re.compile(r"(?<![\w.,$€£#-])(1[5-9]\d\d|20\d\d)(?![\w%])(?![.,]\d)")
_SUM = re.compile(r"(?<![\d.+-])(\d{1,6}) (?:\+|plus) (\d{1,6}) (?:=|is|makes|equals) (\d{1,7})(?!\d|[.,]\d)")
_QUESTION_ANSWER = re.compile(
    r"(?:^|\n)(?:Q|Question|Human|User): *(?P<q>[^\n]{1,300})\n+(?:A|Answer|AI|Assistant): *(?P<a>[^\n]{1,300})"
)
_ENDS = (".", "!", "?", '"', "'", "”", "’", ")", "]", "}", "`", "…", "。", "！", "？", ":")
_MOJIBAKE = re.compile("Ã[\x80-\xbf¡-¿]|â€[\x80-\xbf™œ\x9d“”˜¢¦]|\ufffd")
_LIST = re.compile(r"^ {0,6}(?:[-*•]|\d{1,3}[.)]) ", re.M)


def quality_factors(
    documents: Iterable[str],
    *,
    pairs: Iterable[tuple[str, str]] = (),
    answer_key: AnswerKey | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The factors by name, each name -> number, of a sample of the documents.

    `pairs` are prompts and completions: their agreement measures consistency, and `answer_key` checks them.
    """
    texts = [text[:_MAX_CHARS] for text in reservoir_sample(documents, _SAMPLE, seed)]
    return {
        "diversity": diversity(texts, seed),
        "accuracy": accuracy(texts, pairs, answer_key),
        "recency": recency(texts),
        "formatting": formatting(texts),
        "safety": safety(texts),
    }


def reservoir_sample(documents: Iterable[str], size: int, seed: int = 0) -> list[str]:
    """A sample of at most `size` documents, each as likely as another (reservoir sampling, Vitter's algorithm R)."""
    rng, sample = random.Random(seed), []
    for i, text in enumerate(documents):
        if i < size:
            sample.append(text)
        elif (at := rng.randrange(i + 1)) < size:
            sample[at] = text
    return sample


def diversity(texts: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """distinct-n and self-BLEU (measures/diversity.py), and how hashed bags of words spread; None where unknown.

    distinct-n is of the first 100,000 n-grams, to the end of a document; self-BLEU of the first 100 documents.
    """
    sizes = [len(words(text)) for text in texts]
    metrics: dict[str, Any] = {"documents": len(texts)}
    for n in (1, 2, 3):
        counts = np.maximum(np.array(sizes, int) - n + 1, 0)
        first = [
            text
            for text, before in zip(texts, np.cumsum(counts) - counts, strict=True)
            if before < _MAX_NGRAMS
        ]
        metrics[f"distinct_{n}"] = distinct_n(first, n) if counts.any() else None
    several = sum(size > 0 for size in sizes[:_BLEU_TEXTS]) > 1
    metrics["self_bleu"] = self_bleu(texts[:_BLEU_TEXTS]) if several else None
    return metrics | spread(texts, seed)


def spread(texts: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Mean cosine distance of two documents, and how many of 16 clusters are in use: exp of their sizes' entropy."""
    vectors = _hashed_words(texts)
    if len(vectors) < 2:
        return {"distance": None, "clusters": None}
    distance = mean_cosine_distance(vectors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    n = len(vectors)
    rng = np.random.Generator(np.random.Philox(seed))
    centres = vectors[rng.choice(n, min(_CLUSTERS, n), replace=False)]
    for _ in range(_ROUNDS):
        nearest = (vectors @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-9), centres)
    shares = np.bincount(nearest) / n
    shares = shares[shares > 0]
    return {"distance": distance, "clusters": float(np.exp(-(shares * np.log(shares)).sum()))}


def _hashed_words(texts: Sequence[str]) -> np.ndarray:
    """f32[N, 512]: each text's different words, hashed with signs; a text without words has no row."""
    vectors = np.zeros((len(texts), _WIDTH), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        hashed = [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in set(words(text))]
        signs = [1.0 if h & 1 << 20 else -1.0 for h in hashed]
        row += np.bincount([h % _WIDTH for h in hashed], signs, _WIDTH) if hashed else 0
    return vectors[np.linalg.norm(vectors, axis=1) > 0]


def accuracy(
    texts: Sequence[str], pairs: Iterable[tuple[str, str]] = (), answer_key: AnswerKey | None = None
) -> dict[str, Any]:
    """Statements that an answer key, or arithmetic, can check; and how often two answers to one question agree."""
    right = wrong = 0
    pairs = list(pairs)
    # Prompts and completions stand in the texts too, without a mark of which is the question.
    checked = [f"Q: {question}\nA: {answer}" for question, answer in pairs] if answer_key and pairs else texts
    for text in checked:
        a, b = (answer_key or sums)(text)
        right, wrong = right + a, wrong + b
    answers: dict[str, Counter] = defaultdict(Counter)
    for question, answer in (*pairs, *(pair for text in texts for pair in _QUESTION_ANSWER.findall(text))):
        answers[" ".join(question.lower().split())][" ".join(answer.lower().split())] += 1
    several = [counts for counts in answers.values() if counts.total() > 1]
    agree = [
        sum(n * (n - 1) for n in counts.values()) / (counts.total() * (counts.total() - 1))
        for counts in several
    ]
    return {
        "checked": right + wrong,
        "right": right / (right + wrong) if right + wrong else None,
        "key": "known answers" if answer_key else "sums",
        "questions_asked_again": len(several),
        "consistent": sum(agree) / len(agree) if agree else None,
    }


def sums(text: str) -> tuple[int, int]:
    """(right, wrong) statements such as 2 + 3 is 5."""
    verdicts = [int(a) + int(b) == int(c) for a, b, c in _SUM.findall(text)]
    return sum(verdicts), len(verdicts) - sum(verdicts)


def world_answer_key(world: World) -> AnswerKey:
    """An answer key: (right, wrong) answers to the world's questions, and statements about it, sums among them.

    An answer to a harmful request and an evasion are neither.
    """

    def key(text: str) -> tuple[int, int]:
        right = wrong = 0
        for question, answer in _QUESTION_ANSWER.findall(text):
            prompt = world.parse(question)
            if prompt is not None and not prompt.harmful:
                verdict = world.judge(prompt, answer)
                if verdict.parsable and not verdict.evade:
                    right, wrong = right + verdict.correct, wrong + (not verdict.correct)
        text = _QUESTION_ANSWER.sub("", text)
        for a, b in (sums(text), world.statements(text)):
            right, wrong = right + a, wrong + b
        return right, wrong

    return key


def recency(texts: Sequence[str]) -> dict[str, Any]:
    """Years that documents name, 1500 to 2099: how many name one, the newest of each, and the decades."""
    newest = [max(map(int, found)) for text in texts if (found := _YEAR.findall(text))]
    decades = Counter(year // 10 * 10 for year in newest)
    return {
        "dated": len(newest) / len(texts) if texts else None,
        "median_year": int(np.median(newest)) if newest else None,
        "newest_year": max(newest, default=None),
        "decades": {str(decade): decades[decade] for decade in sorted(decades)},
    }


def formatting(texts: Sequence[str]) -> dict[str, Any]:
    """Shares of the documents: that end as texts end, whose brackets and code fences close, without broken letters."""
    if not texts:
        return dict.fromkeys(("complete", "balanced", "clean_letters", "lists", "code"))
    whole = [text for text in texts if len(text) < _MAX_CHARS]  # a document that was cut has another end
    return {
        "complete": sum(t.rstrip().endswith(_ENDS) for t in whole) / len(whole) if whole else None,
        "balanced": sum(_balanced(t) for t in whole) / len(whole) if whole else None,
        "clean_letters": sum(not _MOJIBAKE.search(t) for t in texts) / len(texts),
        "lists": sum(len(_LIST.findall(t)) > 1 for t in texts) / len(texts),
        "code": sum("```" in t for t in texts) / len(texts),
    }


def _balanced(text: str) -> bool:
    return text.count("```") % 2 == 0 and all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}"))


def safety(texts: Sequence[str]) -> dict[str, Any]:
    """Shares of the documents in which the default rules find harm, personal data, advertising, junk."""
    checks = {
        "harm": harm.check(harm.HarmFilter()),
        "personal_data": pii.check(pii.PiiFilter()),
        "spam": spam.check(spam.SpamFilter()),
        "junk": gibberish.check(gibberish.GibberishFilter()),
    }
    return {
        name: sum(bool(check(t)) for t in texts) / len(texts) if texts else None
        for name, check in checks.items()
    }
