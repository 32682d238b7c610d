"""Comparisons of continuations of reviews, and policies trained on them."""

import numpy as np
import pytest

from experiments.dpo import DpoLoss
from experiments.papers import review_models, review_preferences
from experiments.papers.review_models import END, LENGTH, WORDS, LmSize
from experiments.papers.review_preferences import PpoSettings

TINY = LmSize(1, 16, 2, 16, steps=2, batch=4)
LOVELY = WORDS.index("lovely")


@pytest.fixture(scope="module")
def policy():
    return review_models.trained(TINY, 0)


def lovely(tokens):
    return (tokens == LOVELY).sum(1).astype(float)


def test_prompts_are_shorter_than_their_reviews():
    (tokens, lengths), whole = review_preferences.prompts(0, "x", 300)
    assert lengths.min() >= 1 and lengths.max() == 8 and len(np.unique(lengths)) >= 7
    assert (lengths < review_models.lengths_of(whole)).all()
    for row, length, review in zip(tokens, lengths, whole, strict=True):
        assert (row[:length] == review[:length]).all() and (row[length:] == 0).all()
    twice = review_preferences.repeated((tokens, lengths), 2)
    assert twice[1][:4].tolist() == [lengths[0], lengths[0], lengths[1], lengths[1]] and len(twice[0]) == 600


def test_all_pairs_of_a_prompt_are_compared_and_labels_are_flipped():
    rows = review_models.padded([[5, i, END] for i in (10, 11, 12)] + [[6, 7, i, END] for i in (20, 21, 21)])
    some = (np.zeros((2, 8), np.int32), np.array([1, 2], np.int32))
    reward = np.array([1.0, 3, 2, 0, 5, 5])
    pairs = review_preferences.compare(some, rows.reshape(2, 3, LENGTH), lambda i, j: reward[i] > reward[j])
    assert pairs.tokens[:3, :, 1].tolist() == [[11, 10], [12, 10], [11, 12]]
    assert pairs.tokens[3:, :, 2].tolist() == [[21, 20], [21, 20]], "equal completions are no pair"
    assert pairs.prompt.tolist() == [1, 1, 1, 2, 2]
    assert (review_preferences.flipped(pairs, 1.0, 0).tokens == pairs.tokens[:, ::-1]).all()
    assert (review_preferences.flipped(pairs, 0.0, 0).tokens == pairs.tokens).all()
    crossed = review_preferences.mismatched(pairs)
    assert crossed[2, :4].tolist() == [5, 21, END, 0] and crossed[4, :5].tolist() == [6, 7, 11, END, 0]


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_preferred_words_become_likelier(policy, loss):
    sample = review_models.sampler(policy.model)
    some, _ = review_preferences.prompts(0, "x", 32)
    four = sample(policy.params, review_preferences.repeated(some, 4), 0)
    reward = lovely(four)
    pairs = review_preferences.compare(some, four.reshape(32, 4, LENGTH), lambda i, j: reward[i] > reward[j])
    rows = review_preferences.columns(policy, pairs)
    objective = review_preferences.preference_objective(policy, DpoLoss(loss=loss))
    first = objective(policy.params, (), {name: x[:16] for name, x in rows.items()}, None)
    # log 2 a pair at the reference; KTO's 1 - σ(0), a half for each completion
    wanted = np.log(2) if loss == "sigmoid" else 0.5
    assert float(first.total / first.weight) == pytest.approx(wanted, abs=1e-5)
    params = review_preferences.fit_preferences(policy, rows, objective, lr=1e-2, batch=16, steps=25, seed=0)
    evaluate = review_preferences.evaluation(policy, sample, some, lovely, 5)
    before, after = evaluate(policy.params), evaluate(params)
    assert before["kl"] == 0 and after["kl"] > 0.1 and after["reward"] > before["reward"] + 0.2


def test_labels_are_by_the_reward_and_noise_is_bradley_terry(policy):
    sample = review_models.sampler(policy.model)
    some, _ = review_preferences.prompts(0, "x", 128)
    exact, seen = review_preferences.labelled(policy, sample, some, lovely, 0)
    gap = lovely(exact.tokens[:, 0]) - lovely(exact.tokens[:, 1])
    assert seen.shape == (512, LENGTH) and gap.min() == 0 and gap.max() >= 1
    noisy, _ = review_preferences.labelled(policy, sample, some, lovely, 0, sharpness=1.0)
    gap = lovely(noisy.tokens[:, 0]) - lovely(noisy.tokens[:, 1])
    one = 1 / lovely(seen).std()  # log-odds of a word more
    assert (gap[abs(gap) == 1] > 0).mean() == pytest.approx(1 / (1 + np.exp(-one)), abs=0.08)


def test_a_reward_model_of_the_policys_shape_learns_the_reward(policy):
    sample = review_models.sampler(policy.model)
    some, _ = review_preferences.prompts(0, "x", 128)
    pairs, seen = review_preferences.labelled(policy, sample, some, lovely, 0)
    settings = review_preferences.RewardModelSettings(lr=1e-2, epochs=6)
    reward = review_preferences.reward_model(policy, pairs, seen, settings, 0)
    scores = reward(seen)
    assert (scores.mean(), scores.std()) == pytest.approx((0, 1), abs=1e-4)
    assert scores[lovely(seen) > 0].mean() > scores[lovely(seen) == 0].mean() + 0.5
    batch = review_preferences.whole_batch(review_models.padded([[5, 7, END]]))
    assert batch["tokens"][0, :5].tolist() == [0, 5, 7, END, 0] and batch["length"].tolist() == [4]


def test_the_price_of_kl_moves_within_a_run():
    # A fifth more a step at most, over 60 iterations: 2 % an iteration at the horizon of a run of 1M episodes.
    settings = PpoSettings(iterations=60, batch=128)
    assert settings.horizon() == pytest.approx(153.6)
    assert 0.2 * settings.batch / settings.horizon() > 0.15


def test_ppo_raises_the_reward_and_keeps_to_its_kl(policy):
    sample = review_models.sampler(policy.model)
    some, _ = review_preferences.prompts(0, "x", 32)
    seen = []
    settings = PpoSettings(target_kl=0.5, iterations=12, batch=32, lr=3e-3, first_coef=0.01)
    params = review_preferences.ppo(
        policy, sample, some, lovely, settings, 0, lambda i, params: seen.append(i)
    )
    evaluate = review_preferences.evaluation(policy, sample, some, lovely, 5)
    before, after = evaluate(policy.params), evaluate(params)
    assert seen == [*range(1, 13)] and after["reward"] > before["reward"] + 0.1 and 0.02 < after["kl"] < 20


def test_a_tie_is_half_a_win():
    assert review_preferences.win_rate([1, 2, 3, 0], [0, 2, 4, 0]) == 0.5
    assert review_preferences.win_rate([1, 1], [0, 1]) == 0.75
