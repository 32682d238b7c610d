"""Reward models on the words of reviews."""

import pytest

from experiments.papers import review_models, reward_proxies
from experiments.papers.review_models import END, WORDS


def ids(*words):
    return [*(WORDS.index(word) for word in words), END]


def test_features_are_counts_of_words_and_of_sentences():
    tokens = review_models.padded([ids("soup", "very", "lovely", "soup", "lovely"), ids("room", "dull")])
    tokens[1, 5:] = 7  # after END nothing counts
    seen = reward_proxies.features(tokens)
    assert seen.shape == (2, reward_proxies.FEATURES)
    assert {WORDS[i + 2]: n for i, n in enumerate(seen[0, :-1]) if n} == {"soup": 2, "very": 1, "lovely": 2}
    assert seen[:, -1].tolist() == [2, 1] and seen[1].sum() == 3


def test_the_annotator_prefers_the_better_and_labels_are_flipped():
    tokens = review_models.corpus(0, "x", 8_000)
    gold = review_models.scores(tokens)
    better = gold[::2] > gold[1::2]
    clean = reward_proxies.compare(tokens, gold, 4_000, 0)
    flipped = reward_proxies.compare(tokens, gold, 4_000, 0, 1.0)
    assert 0.75 < (clean.won == better).mean() < 0.95 and (flipped.won == ~clean.won).all()
    quarter = reward_proxies.compare(tokens, gold, 4_000, 0, 0.25)
    assert (quarter.won != clean.won).mean() == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match="5000 pairs need 10000 reviews"):
        reward_proxies.compare(tokens, gold, 5_000, 0)


@pytest.mark.parametrize("hidden", [reward_proxies.LINEAR, 8])
def test_proxies_learn_what_is_preferred(hidden, monkeypatch):
    monkeypatch.setattr(reward_proxies, "STEPS", 300)
    tokens = review_models.corpus(1, "x", 4_000)
    gold = review_models.scores(tokens)
    data = [reward_proxies.compare(tokens, gold, pairs, 0) for pairs in (2_000, 500)]
    scores = reward_proxies.train([*data, data[0]], hidden, [0, 0, 0])(reward_proxies.features(tokens))
    assert scores.shape == (3, 4_000) and (scores[0] == scores[2]).all() and (scores[0] != scores[1]).any()
    right = [reward_proxies.accuracy(one, gold, 0) for one in scores]
    assert min(right) > 0.68 and right[0] >= right[1] - 0.01
    assert reward_proxies.accuracy(gold, gold, 0) == 1 and reward_proxies.accuracy(0 * gold, gold, 0) == 0.5


def test_the_reward_of_what_is_no_review_is_the_least():
    tokens = review_models.corpus(1, "x", 200)

    def proxy(x):
        return x[None, :, -1] * 1.0  # the number of sentences

    seen = reward_proxies.features(tokens)
    reward = reward_proxies.as_reward(proxy, seen)
    each = reward(tokens)
    assert (each.mean(), each.std()) == pytest.approx((0, 1), abs=1e-6)
    assert reward(review_models.padded([ids("soup"), ids(*["soup", "dull"] * 12)]))[0] == each.min()
