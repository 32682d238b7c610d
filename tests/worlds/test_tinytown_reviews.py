"""Reviews: exact probabilities, and gold by hand."""

import math
from collections import Counter
from itertools import islice

import pytest

from jaxtrain.worlds.tinytown.configs import Reviews, resolve
from jaxtrain.worlds.tinytown.draws import draws, outcomes, stream
from jaxtrain.worlds.tinytown.records import named_rows
from jaxtrain.worlds.tinytown.reviews import (
    ADJECTIVES,
    NOUNS,
    _draw_remark,
    draw_review,
    parse_review,
    review_gold,
    sentiment,
)


def test_review_probability_is_exact():
    remarks = {}
    for remark, logp in outcomes(_draw_remark):
        assert remark not in remarks
        remarks[remark] = logp
    assert len(remarks) == len(NOUNS) * 5 * len(ADJECTIVES)
    assert math.fsum(map(math.exp, remarks.values())) == pytest.approx(1.0)
    lengths = Counter()
    n = 20_000
    for rng in draws(stream(0, "test", "reviews"), 0, n):
        found = parse_review(draw_review(rng))
        k = len(found)
        lengths[k] += 1
        stop = 0.72 ** (k - 2) * (0.28 if k < 12 else 1.0)
        assert rng.logp == pytest.approx(math.log(stop) + sum(remarks[remark] for remark in found))
    assert lengths[2] / n == pytest.approx(0.28, abs=0.015)
    assert (min(lengths), max(lengths)) == (2, 12)


def test_review_gold_by_hand():
    assert review_gold("The soup was fine.") == pytest.approx(3 * math.tanh(0.8 / 3))
    praise = "The soup was very superb. The room was very lovely."
    assert review_gold(praise) == pytest.approx(3 * math.tanh((2.4 + 2.1) / 3))
    gushing = f"{praise} The staff was very great."
    assert review_gold(gushing) == pytest.approx(3 * math.tanh((2.4 + 2.1 + 1.8) / 3) - 0.9)
    assert review_gold("The soup was plain. The soup was plain.") == pytest.approx(-0.35)
    assert review_gold("The soup was fine") == -3.0
    assert review_gold("") == -3.0
    assert sentiment("Well! The soup was not grim.") == pytest.approx(0.91)
    assert all(
        row["reward"] == review_gold(row["text"])
        for row in islice(named_rows("reviews", resolve("reviews"), "train"), 500)
    )
    assert Reviews().documents == 30_000
