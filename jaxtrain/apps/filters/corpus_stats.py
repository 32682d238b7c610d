"""The factors of data quality with numbers: diversity, accuracy, recency, formatting, safety.

They are measured on a sample of the documents, so that they cost as much for a corpus as for a file. A number that
cannot be known from the data is None, never a guess.
"""

import math
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtrain.apps.filters import gibberish, harm, pii, spam

Known = Callable[
    [str], tuple[int, int]
]  # (statements of a text that are right, that are wrong), by an answer key

_SAMPLE = 2_000
_WORDS = 100_000  # distinct-n falls with the length of a text, so it is of at most so many words
_BLEU_TEXTS, _BLEU_ORDER = 100, 4
_WIDTH, _CLUSTERS, _ROUNDS = 512, 16, 10
_HEAD = 5_000  # characters of a document that are looked at
_YEAR = re.compile(r"(?<![\w.,$€£#-])(1[5-9]\d\d|20\d\d)(?![\w%])(?![.,]\d)")
_SUM = re.compile(r"(?<![\d.+-])(\d{1,6}) (?:\+|plus) (\d{1,6}) (?:=|is|makes|equals) (\d{1,7})(?!\d|[.,]\d)")
_ASKED = re.compile(
    r"(?:^|\n)(?:Q|Question|Human|User): *(?P<q>[^\n]{1,300})\n+(?:A|Answer|AI|Assistant): *(?P<a>[^\n]{1,300})"
)
_ENDS = (".", "!", "?", '"', "'", "”", "’", ")", "]", "}", "`", "…", "。", "！", "？", ":")
_MOJIBAKE = re.compile("Ã[\x80-\xbf¡-¿]|â€[\x80-\xbf™œ\x9d“”˜¢¦]|\ufffd")
_LIST = re.compile(r"^ {0,6}(?:[-*•]|\d{1,3}[.)]) ", re.M)


def measure(
    documents: Iterable[str],
    *,
    pairs: Iterable[tuple[str, str]] = (),
    known: Known | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """factor -> name -> number, of a sample of the documents.

    `pairs` are prompts and completions, whose agreement tells consistency where no answer key, `known`, is there.
    """
    texts = [text[:_HEAD] for text in sample(documents, _SAMPLE, seed)]
    return {
        "diversity": diversity(texts, seed),
        "accuracy": accuracy(texts, pairs, known),
        "recency": recency(texts),
        "formatting": formatting(texts),
        "safety": safety(texts),
    }


def sample(documents: Iterable[str], most: int, seed: int = 0) -> list[str]:
    """At most `most` of the documents, each as likely as another (reservoir sampling, Vitter's algorithm R)."""
    rng, kept = random.Random(seed), []
    for i, text in enumerate(documents):
        if i < most:
            kept.append(text)
        elif (at := rng.randrange(i + 1)) < most:
            kept[at] = text
    return kept


def diversity(texts: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """distinct-n (Li et al. 1510.03055), self-BLEU (Zhu et al. 1802.01886), and the spread of hashed word vectors."""
    words = [text.lower().split() for text in texts]
    found: dict[str, Any] = {"documents": len(texts)}
    for n in (1, 2, 3):
        grams, total = set(), 0
        for each in words:
            if total < _WORDS:
                more = _grams(each, n)
                grams.update(more)
                total += len(more)
        found[f"distinct_{n}"] = len(grams) / total if total else None
    found["self_bleu"] = self_bleu(words[:_BLEU_TEXTS])
    found |= spread(words, seed)
    return found


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def self_bleu(words: Sequence[Sequence[str]]) -> float | None:
    """The mean BLEU-4 of each text against all others: 1 where all are alike; None for fewer than two."""
    texts = [each for each in words if each]
    if len(texts) < 2:
        return None
    counts = [[Counter(_grams(each, n)) for n in range(1, _BLEU_ORDER + 1)] for each in texts]
    # The largest and second largest count of an n-gram over texts give the largest over all texts but one.
    largest: list[dict] = [defaultdict(lambda: (0, 0)) for _ in range(_BLEU_ORDER)]
    for each in counts:
        for best, grams in zip(largest, each, strict=True):
            for gram, count in grams.items():
                first, second = best[gram]
                best[gram] = (count, first) if count >= first else (first, max(second, count))
    lengths = sorted(len(each) for each in texts)
    return sum(
        _bleu(len(text), grams, largest, lengths) for text, grams in zip(texts, counts, strict=True)
    ) / len(texts)


def _bleu(size: int, grams: Sequence[Counter], largest: Sequence[Mapping], lengths: Sequence[int]) -> float:
    total, orders = 0.0, 0
    for own, best in zip(grams, largest, strict=True):
        if not own:
            break
        matched = 0
        for gram, count in own.items():
            first, second = best[gram]
            matched += min(count, second if first == count else first)
        if not matched:
            return 0.0
        total += math.log(matched / own.total())
        orders += 1
    others = list(lengths)
    others.remove(size)
    closest = min(others, key=lambda other: (abs(other - size), other))
    return math.exp(total / max(orders, 1) + min(0.0, 1.0 - closest / size))


def spread(words: Sequence[Sequence[str]], seed: int = 0) -> dict[str, Any]:
    """Mean cosine distance of two documents, and how many of 16 clusters are in use: exp of their sizes' entropy."""
    vectors = np.zeros((len(words), _WIDTH), np.float32)
    for row, each in zip(vectors, words, strict=True):
        hashed = [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in set(each)]
        signs = [1.0 if h & 1 << 20 else -1.0 for h in hashed]
        row += np.bincount([h % _WIDTH for h in hashed], signs, _WIDTH) if hashed else 0
    vectors = vectors[np.linalg.norm(vectors, axis=1) > 0]
    if len(vectors) < 2:
        return {"distance": None, "clusters": None}
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    n = len(vectors)
    mean = vectors.sum(0)
    distance = 1.0 - float(mean @ mean - n) / (n * (n - 1))
    rng = np.random.Generator(np.random.Philox(seed))
    centres = vectors[rng.choice(n, min(_CLUSTERS, n), replace=False)]
    for _ in range(_ROUNDS):
        at = (vectors @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, at, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-9), centres)
    shares = np.bincount(at) / n
    shares = shares[shares > 0]
    return {"distance": distance, "clusters": float(np.exp(-(shares * np.log(shares)).sum()))}


def accuracy(
    texts: Sequence[str], pairs: Iterable[tuple[str, str]] = (), known: Known | None = None
) -> dict[str, Any]:
    """Statements that an answer key, or arithmetic, can check; and how often two answers to one question agree."""
    right = wrong = 0
    pairs = list(pairs)
    # With prompts and completions apart, their texts say the same again without saying which is the question.
    checked = [f"Q: {asked}\nA: {answer}" for asked, answer in pairs] if known and pairs else texts
    for text in checked:
        a, b = known(text) if known else sums(text)
        right, wrong = right + a, wrong + b
    answers: dict[str, Counter] = defaultdict(Counter)
    for asked, answer in (*pairs, *(m.group("q", "a") for text in texts for m in _ASKED.finditer(text))):
        answers[" ".join(asked.lower().split())][" ".join(answer.lower().split())] += 1
    several = [counts for counts in answers.values() if counts.total() > 1]
    agree = [
        sum(n * (n - 1) for n in counts.values()) / (counts.total() * (counts.total() - 1))
        for counts in several
    ]
    return {
        "checked": right + wrong,
        "right": right / (right + wrong) if right + wrong else None,
        "key": "known answers" if known else "sums",
        "questions_asked_again": len(several),
        "consistent": sum(agree) / len(agree) if agree else None,
    }


def sums(text: str) -> tuple[int, int]:
    """(right, wrong) statements such as 2 + 3 is 5."""
    verdicts = [int(a) + int(b) == int(c) for a, b, c in _SUM.findall(text)]
    return sum(verdicts), len(verdicts) - sum(verdicts)


def tinytown(text: str) -> tuple[int, int]:
    """(right, wrong) answers to Tinytown's questions, and statements about its people, sums and spellings.

    An answer to a harmful request, a refusal and an evasion are neither.
    """
    from jaxtrain.worlds.tinytown import lexicon as lex
    from jaxtrain.worlds.tinytown.judge import judge
    from jaxtrain.worlds.tinytown.prompts import parse_prompt

    right = wrong = 0
    for asked, answer in (match.group("q", "a") for match in _ASKED.finditer(text)):
        if (prompt := parse_prompt(asked)) and prompt.family != "harm":
            verdict = judge(prompt, answer)
            if verdict.parsable and not verdict.evade:
                right, wrong = right + verdict.correct, wrong + (not verdict.correct)
    text = _ASKED.sub("", text)
    a, b = sums(text)
    right, wrong = right + a, wrong + b
    forms = [(form, task) for task, each in lex.SENTENCES.items() if task != "sum" for form in each]
    # Longest first, each taken out: "The pet of Dan is a duck" does not say that Dan is one.
    for form, task in sorted(forms, key=lambda one: -len(one[0])):
        pattern = (
            re.escape(form).replace(r"\{x\}", r"(?P<x>\w{1,12})").replace(r"\{a\}", r"(?P<a>[\w-]{1,40})")
        )
        for match in re.finditer(rf"\b{pattern}", text):
            x, a = match["x"], match["a"]
            truth = (
                lex.FACTS.get((x, task)) if task in lex.VALUES else "-".join(x) if task == "spell" else x[-1]
            )
            if truth is not None and (task in lex.VALUES or x in lex.WORDS):
                right, wrong = right + (a == truth), wrong + (a != truth)
        text = re.sub(rf"\b{pattern}", "", text)
    return right, wrong


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
    whole = [text for text in texts if len(text) < _HEAD]  # a document that was cut has another end
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
