"""What a run's metrics suggest: a made-up run that is healthy, and the same with one thing wrong."""

import numpy as np
import pytest

from jaxtrain.rl.diagnosis import diagnose, trend
from tests.rl.test_overoptimisation import PEAK, RISING, N, noisy

CONFIG = {"loss": {"kl_target": 0.0}, "samples": {"epochs": 2, "minibatches": 2}}
UPDATES = 4
T = np.arange(N) / N


def rows(**changes):
    """The lines of a healthy run of N iterations; `changes` are columns with __ in place of /, None for none."""
    columns = {
        "objective/scores": noisy(RISING, 1), "objective/kl": 3 * T + 0.2, "objective/entropy": 20 - 5 * T,
        "completions/mean_length": noisy(np.full(N, 12.0), 2, 0.3), "completions/clipped_ratio": np.full(N, 0.02),
        "objective/scores_capped": 0.1 * T, "policy/clipfrac_avg": np.full(N, 0.1), "skipped": np.zeros(N),
        "policy/approxkl_avg": np.full(N, 0.01), "val/explained_var": 0.5 * T, "judge/gold": noisy(RISING, 3),
    }  # fmt: skip
    columns |= {name.replace("__", "/"): x for name, x in changes.items()}
    lines = [
        {"step": UPDATES * (i + 1), **{name: float(x[i]) for name, x in columns.items() if x is not None}}
        for i in range(N)
    ]
    return [{"step": 1, "eval/scores": 1.0}, *lines]


def test_a_healthy_run_has_no_sentence():
    assert diagnose(rows(), CONFIG) == []
    assert diagnose(rows(judge__gold=None), CONFIG) == []
    assert diagnose([], CONFIG) == [] and diagnose([{"step": 1, "loss": 2.0}]) == []


CASES = [
    ({"judge__gold": noisy(PEAK, 4)}, "The score rises while gold falls, from 1.8"),
    ({"judge__gold": None, "objective__watch_reward": noisy(PEAK, 4)}, "The score rises while the watched reward"),
    ({"judge__gold": noisy(np.ones(N), 4)}, "and gold does not"),
    ({"objective__scores": np.full(N, 1.5), "judge__gold": None}, "The reward is constant (1.5)"),
    ({"objective__scores": noisy(np.ones(N), 4), "judge__gold": None}, "The score does not clearly rise"),
    ({"objective__scores": noisy(RISING[::-1], 4), "judge__gold": None}, "The score falls: "),
    ({"frac_reward_zero_std": np.full(N, 0.9)}, "In 90 % of the groups all scores are equal"),
    ({"objective__scores_capped": 0.4 * T}, "36 % of the completions score above the cap (4 % at the start)"),
    ({"objective__kl": 20 * T}, "nats a completion: the policy is far from where the reward was learnt"),
    ({"objective__kl": np.full(N, 0.01)}, "the policy has hardly moved"),
    ({"objective__entropy": 20 * np.exp(-4 * T)}, "The entropy has collapsed, from"),
    ({"completions__mean_length": noisy(12 + 20 * T, 4)}, "The length runs away, from 13.8 to 29.8 tokens"),
    ({"completions__mean_length": noisy(12 - 10 * T, 4)}, "Completions have become short"),
    ({"completions__clipped_ratio": T}, "are cut off at --max_new"),
    (
        {"policy__clipfrac_avg": np.full(N, 0.001), "policy__approxkl_avg": np.full(N, 2e-5)},
        "Updates are far smaller than the trust region allows (clip fraction 0.001, approximate KL 2e-05): try a "
        "higher --lr",
    ),
    ({"policy__clipfrac_avg": np.full(N, 0.6)}, "Updates go beyond the trust region"),
    ({"val__explained_var": np.full(N, -0.3)}, "The values explain nothing of the returns"),
    ({"skipped": np.arange(N) // 20}, "2 of 240 updates were not applied"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), CASES, ids=[text[:40] for _, text in CASES])
def test_one_thing_that_is_wrong_is_what_is_said(changes, sentence):
    (only,) = diagnose(rows(**changes), CONFIG)
    assert sentence in only


@pytest.mark.parametrize("kl, words", [(3 * T + 0.1, "far below"), (40 * T, "far above"), (10 * T, "")])
def test_the_kl_is_compared_with_its_target(kl, words):
    found = diagnose(rows(objective__kl=kl), {**CONFIG, "loss": {"kl_target": 9.0}})
    assert [words in sentence and "its target 9" in sentence for sentence in found] == [True] * bool(words)


def test_the_turn_is_named_with_its_steps():
    (sentence,) = diagnose(rows(judge__gold=noisy(PEAK, 4)), CONFIG)
    step = int(sentence.split("from step ")[1].split()[0])
    assert abs(step - UPDATES * 31) <= 4 * UPDATES and "standard errors" in sentence


def test_gold_and_a_watched_reward_are_both_looked_at():
    both = diagnose(rows(judge__gold=noisy(PEAK, 4), objective__watch_reward=noisy(PEAK, 5)), CONFIG)
    assert len(both) == 2 and "the watched reward falls" in both[0] and "gold falls" in both[1]


def test_one_update_an_iteration_has_no_trust_region():
    still = {"policy__clipfrac_avg": np.zeros(N), "policy__approxkl_avg": np.zeros(N)}
    assert diagnose(rows(**still), {**CONFIG, "samples": {"epochs": 1, "minibatches": 1}}) == []
    assert "trust region" in diagnose(rows(**still))[0], "without a config it may have several"


def test_numbers_that_are_missing_or_null_are_no_numbers():
    lines = rows()
    for row in lines[::3]:
        row.update({name: None for name in row if name not in ("step",)})
    assert diagnose(lines, CONFIG) == []
    assert trend(lines[:9], "objective/scores") is None, "few lines are not judged"


def test_a_score_that_rises_at_once_rises():
    """The first fifth of a short run holds the rise itself, which is no noise."""
    scores = [-0.1, 0.45, 0.7, 0.68, 0.73, 0.7, 0.75, 0.72, 0.76, 0.71, 0.74, 0.75, 0.73, 0.74]
    lines = [{"step": 4 * i, "objective/scores": score} for i, score in enumerate(scores)]
    assert trend(lines, "objective/scores").rises()
    assert not any("does not clearly rise" in sentence for sentence in diagnose(lines))
