"""Diversity, by hand and against slower formulas."""

import itertools
import math
import random

import numpy as np
import pytest

from jaxtrain.measures import diversity


def test_distinct_by_hand():
    assert diversity.distinct_n(["a b a", "B c"], 1) == 3 / 5
    assert diversity.distinct_n(["a b a", "a b c"], 2) == 3 / 4
    assert diversity.distinct_n(["a", "b"], 2) == 0


def test_texts_that_repeat_one_another_have_self_bleu_1_and_strangers_hardly_any():
    assert diversity.self_bleu(["the cat sat on the mat"] * 3) == pytest.approx(1)
    assert diversity.self_bleu(["a b", "c d"]) == pytest.approx(math.sqrt(0.05 * 0.1))
    assert diversity.self_bleu(["alone"]) == 0 == diversity.self_bleu(["", "alone"])


def test_self_bleu_by_hand():
    """a b c d e against a b c: 3/5, 2/4, 1/3, 0.1/2. Back: all n-grams match up to 3, and exp(1 − 5/3)."""
    there = (3 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** 0.25
    assert diversity.self_bleu(["a b c d e", "a b c"]) == pytest.approx((there + math.exp(1 - 5 / 3)) / 2)


def test_self_bleu_of_pairs_by_hand():
    # "a b c d x" against "a b c d y": 4/5, 3/4, 2/3, 1/2, equal lengths; both ways alike.
    pair = ["a b c d x", "a b c d y"]
    assert diversity.self_bleu(pair) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    # Clipped by the other's counts: of "a a a a b" one a of four and b; no pair but "a b"; no triple, no four.
    clipped = ["a a a a b", "a b c d e"]
    assert diversity.self_bleu(clipped) == pytest.approx((2 / 5 * 1 / 4 * 0.1 / 3 * 0.1 / 2) ** 0.25)
    # The shorter text has the brevity penalty exp(1 − 6/5), all its n-grams being in the longer one.
    longer = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    both = diversity.self_bleu(["a b c d e", "a b c d e f"])
    assert both == pytest.approx((math.exp(1 - 6 / 5) + longer) / 2)
    nothing_shared = (0.1 / 5 * 0.1 / 4 * 0.1 / 3 * 0.1 / 2) ** 0.25
    assert diversity.self_bleu(["a b c d e", "f g h i j"]) == pytest.approx(nothing_shared)


def test_self_bleu_is_texygen_s():
    """The value is of NLTK 3.10.4's sentence_bleu with SmoothingFunction().method1, as Texygen's SelfBleu calls it."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefghij", k=rng.randint(5, 14))) for _ in range(60)]
    assert diversity.self_bleu(texts) == pytest.approx(0.29694422015354366, rel=1e-12)


def test_words_have_no_case():
    assert diversity.words(" The STRASSE\nthe Straße ") == ["the", "strasse"] * 2
    assert diversity.ngrams("abc", 2) == [("a", "b"), ("b", "c")] and diversity.ngrams("a", 2) == []


def test_the_metrics_of_texts():
    metrics = diversity.diversity_metrics(["a b c d e", "a b c d e f"])
    assert metrics == {
        "distinct_1": 6 / 11, "distinct_2": 5 / 9, "distinct_3": 4 / 7,
        "self_bleu": diversity.self_bleu(["a b c d e", "a b c d e f"]), "words": 5.5,
    }  # fmt: skip
    assert diversity.diversity_metrics([])["words"] == 0


def slow_bleu(texts):
    """The definition, reference by reference."""
    out = []
    for i, text in enumerate(texts):
        others = [other.split() for j, other in enumerate(texts) if j != i]
        own, logs = text.split(), []
        for n in range(1, 5):
            cut = lambda ws, n=n: [tuple(ws[k : k + n]) for k in range(len(ws) - n + 1)]  # noqa: E731
            mine = cut(own)
            if not mine:
                continue
            matched = sum(min(mine.count(g), max(cut(ws).count(g) for ws in others)) for g in set(mine))
            logs.append(math.log((matched or 0.1) / len(mine)))
        r = min((abs(len(ws) - len(own)), len(ws)) for ws in others)[1]
        out.append(math.exp(sum(logs) / len(logs) + min(0, 1 - r / len(own))))
    return sum(out) / len(out)


def test_self_bleu_of_random_texts_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcd"), rng.integers(1, 9))) for _ in range(12)]
    assert diversity.self_bleu(texts) == pytest.approx(slow_bleu(texts), rel=1e-12)


def test_of_many_texts_evenly_spread_ones_count(monkeypatch):
    texts = [f"text number {i % 7} of {i}" for i in range(40)]
    wanted = diversity.self_bleu(texts[::4])
    monkeypatch.setattr(diversity, "MAX_TEXTS", 10)
    assert diversity.self_bleu(texts) == wanted


def test_the_spread_is_one_less_the_mean_cosine():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 4)) + 1
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(vectors, 2)]
    assert diversity.mean_cosine_distance(vectors) == pytest.approx(1 - np.mean(cosines))
    assert diversity.mean_cosine_distance(np.ones((3, 2))) == pytest.approx(0)
    assert diversity.mean_cosine_distance(np.array([[1.0, 0], [-1, 0]])) == 2
    assert diversity.mean_cosine_distance(np.zeros((3, 2))) == 0
