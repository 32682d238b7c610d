"""Rewards of answers to held-out prompts: means over the prompts that fit, each counted once."""

import dataclasses
import types

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.rewards.models import CompletionScorer
from jaxtrain.rl import held_out
from jaxtrain.rl.config import Watch
from jaxtrain.rl.overoptimisation import WATCHED
from jaxtrain.rl.scoring import ScoringConfig
from jaxtrain.rl.watch_scorer import WatchScorer
from jaxtrain.stages.eval_prompts import EvalAnswers, EvalSource
from tests.rl.test_scoring import COMPLETIONS, END, PROMPTS, TOKENS, prompt, settings

LONG = prompt("a question that leaves no room at all")
STATE = types.SimpleNamespace(step=7)
SESSION = types.SimpleNamespace(plan=types.SimpleNamespace(get=lambda x: x))


def evaluated(cfg, scores, watch=None, prompts=(*PROMPTS, LONG)):
    """(the values, the table, the prompts and texts that were scored)."""
    seen = []

    def score(rows, prompts, texts):
        seen.append((prompts, texts, rows["tokens"].shape))
        return [scores[text] for text in texts]

    how = ScoringConfig(CompletionScorer(score, []), TOKENS, (END,), frozenset(), gold=lambda *pair: 1.0)
    source = EvalSource("jsonl:held", "prompts", None)
    answers = EvalAnswers(source, list(prompts), lambda state: [*COMPLETIONS, COMPLETIONS[0]])
    evaluate, table = held_out.evaluator(cfg, SESSION, how, watch, answers)
    return evaluate and evaluate(STATE), table, seen


def keeping(metric="eval/scores"):
    cfg = settings()
    cfg.run = dataclasses.replace(cfg.run, keep_best=metric)
    return cfg


def test_means_are_over_the_prompts_that_fit_each_once():
    """Three of four prompts leave room; a fourth row fills the batch of 4 and is not counted."""
    values, table, seen = evaluated(keeping(), {"Yes. No.": 1.0, "It is": 2.0, "So be it": 6.0})
    assert values == {"scores": 3.0}
    ((prompts, texts, shape),) = seen
    assert prompts == [*PROMPTS, PROMPTS[0]] and texts[3] == texts[0] and shape == (4, 32)
    assert table == [("held-out prompts", "3 of jsonl:held; 1 longer than 22 tokens left out")]


def test_the_watched_reward_is_beside_it_and_what_has_no_number_is_left_out():
    def watched(rows, prompts, texts, state):
        assert state.global_step == 7
        return {WATCHED: np.array([4.0, np.nan, 1.0, 100.0], np.float32)}

    cfg = settings()
    cfg.watch = Watch(watch_reward="correct")
    watch = WatchScorer(None, watched, [("watched reward", "correct")])
    values, table, _ = evaluated(cfg, {"Yes. No.": np.nan, "It is": np.nan, "So be it": np.nan}, watch)
    assert values["watch_reward"] == 2.5 and np.isnan(values["scores"])
    assert table[0] == ("watched reward", "correct")


@pytest.mark.parametrize("metric", ["", "judge/gold", "completions/mean_length:max"])
def test_nothing_is_sampled_where_nothing_depends_on_it(metric):
    assert evaluated(keeping(metric), {}) == (None, [], [])


def test_prompts_that_cannot_be_scored_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--prompts=jsonl:held: no prompt fits 22 tokens"):
        evaluated(keeping(), {}, prompts=[LONG])
    (tmp_path / "needs.py").write_text("def f(completions, answer): return answer\n")
    cfg = keeping()
    cfg.scores = config.Scores(reward=f"{tmp_path}/needs.py:f")
    with pytest.raises(ConfigError, match="it needs answer, which --prompts=jsonl:held does not have"):
        evaluated(cfg, {})
