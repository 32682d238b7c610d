"""Gopher's repetition rules: values by hand, and the short cuts against counting everything."""

import numpy as np
import pytest

from jaxtrain.apps.filters import repetition
from jaxtrain.apps.filters.repetition import RepetitionFilter
from tests.apps.filters.pages import GOOD, PAGES

REPEATS = repetition.check(RepetitionFilter(repetition_from=0))


def test_repeated_ngrams_by_hand():
    words = "a b a b c".split()
    assert repetition.top_share(words, 2, 9, np.array([2, 2, 2, 2, 1]) > 1) == pytest.approx(2 * 3 / 9)
    assert repetition.repeated_share(words, 2, 9) == pytest.approx(
        2 / 9
    )  # the second "a b", spaces not counted
    assert repetition.repeated_share("a b c d".split(), 2, 7) is None


def test_the_bounds_change_no_verdict():
    """The short cuts against counting everything."""
    # Pages that repeat five words, but not enough of them, too.
    for text in (
        *PAGES.values(),
        GOOD + " " + GOOD[:60],
        GOOD + " " + GOOD[:160],
        GOOD + GOOD[: len(GOOD) // 5],
    ):
        words, found = text.split(), {one.rule: one.score for one in REPEATS(text)}
        for n, limit in ((2, 0.20), (3, 0.18), (4, 0.16)):
            grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            most = max(map(grams.count, grams))
            size = max(len(" ".join(gram)) for gram in grams if grams.count(gram) == most)
            share = most * size / len(text)
            assert found.get(f"gopher_top_{n}gram") == (pytest.approx(share) if share > limit else None)
        for n, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True):
            share = repetition.repeated_share(words, n, len(text)) or 0.0
            assert found.get(f"gopher_repeated_{n}grams") == (pytest.approx(share) if share > limit else None)
