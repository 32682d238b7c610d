import math
from collections import Counter

import numpy as np
import pytest

from jaxtrain.worlds.tinytown.draws import BUDGET, DrawWeights, RandomDraws, draws, outcomes, stream


def test_items_are_the_same_alone_and_in_a_block():
    key = stream(3, "a", "b")
    for i, rng in enumerate(draws(key, 250, 520), 250):
        alone = RandomDraws(key, i)
        assert [rng.uniform() for _ in range(3 * BUDGET)] == [alone.uniform() for _ in range(3 * BUDGET)]


def test_items_streams_and_overflow_do_not_repeat_each_other():
    seen = set()
    count = 0
    for key in (stream(0, "a"), stream(1, "a"), stream(0, "b")):
        for rng in draws(key, 0, 40):
            numbers = [rng.uniform() for _ in range(2 * BUDGET)]
            seen.update(numbers)
            count += len(numbers)
    assert len(seen) == count


def test_words_are_those_of_philox_4x64():
    key = stream(7, "golden")
    bits = np.random.Philox(key=np.array(key, np.uint64), counter=5 * BUDGET // 4).random_raw(4)
    rng = RandomDraws(key, 5)
    assert [rng.uniform() for _ in range(4)] == [int(b >> np.uint64(11)) * 2.0**-53 for b in bits]
    assert key == (7, 5434833403847302432)
    assert bits[0] == int(bits[0])


def test_choices_follow_their_probabilities():
    weights = DrawWeights((1, 2, 5))
    counts, flags, picks = Counter(), 0, Counter()
    n = 20_000
    for rng in draws(stream(0, "frequencies"), 0, n):
        i = rng.weighted(weights)
        assert rng.logp == pytest.approx(math.log((1, 2, 5)[i] / 8))
        counts[i] += 1
        flags += rng.flag(0.3)
        picks[rng.choice_except("abcd", "b")] += 1
    for i, share in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert counts[i] / n == pytest.approx(share, abs=0.015)
    assert flags / n == pytest.approx(0.3, abs=0.015)
    assert set(picks) == set("acd")
    assert picks["a"] / n == pytest.approx(1 / 3, abs=0.015)


def test_outcomes_visits_every_derivation_once():
    def generate(rng):
        if rng.flag(0.25):
            return "x" * rng.pick(3)
        return rng.choice("ab") + rng.choice("ab") if rng.flag(0.5) else "c"

    found = dict(outcomes(generate))
    assert len(found) == 8
    assert math.fsum(map(math.exp, found.values())) == pytest.approx(1.0, abs=1e-12)
    assert math.exp(found["ab"]) == pytest.approx(0.75 * 0.5 / 4)


def test_certain_flags_cost_nothing():
    rng = RandomDraws(stream(0, "certain"), 0)
    assert rng.flag(1.0)
    assert not rng.flag(0.0)
    assert rng.logp == 0.0


@pytest.mark.parametrize("bad", [(), (1, 0), (-1, 2)])
def test_weights_must_be_positive(bad):
    with pytest.raises(ValueError, match="positive"):
        DrawWeights(bad)
