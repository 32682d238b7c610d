"""Scores of the watched reward: which rollouts have them, and what a watched reward cannot score."""

import dataclasses
import types

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import chat
from jaxtrain.rewards.function_args import TrainerState
from jaxtrain.rl import watch_scorer
from jaxtrain.rl.config import Watch
from jaxtrain.rl.overoptimisation import WATCHED
from tests.rewards.test_models import OnePlan
from tests.rl.test_scoring import PROMPTS, TOKENS, settings

TEXTS = ["Yes.", "No, never", ""]


def opened(tmp_path, epochs=2, **watch):
    (tmp_path / "size.py").write_text(
        "def size(completions, trainer_state, **columns):\n"
        "    return [len(text) + trainer_state.global_step if text else None for text in completions]\n"
    )
    cfg = settings()
    cfg.samples = dataclasses.replace(cfg.samples, epochs=epochs)
    cfg.watch = Watch(watch_reward=f"{tmp_path}/size.py:size", **watch)
    return watch_scorer.open_watch(cfg, types.SimpleNamespace(plan=OnePlan(), path=tmp_path))


def at(fn, step):
    return fn({}, PROMPTS, TEXTS, TrainerState(step))[WATCHED]


def test_without_the_flag_there_is_none():
    assert watch_scorer.open_watch(settings(), None) is None
    assert watch_scorer.check(settings(), TOKENS, chat.load_template("plain", TOKENS)) is None


def test_every_rollout_is_scored_with_the_state_of_training(tmp_path):
    watch = opened(tmp_path)
    assert at(watch.rollouts, 12)[:2].tolist() == [16.0, 21.0] and np.isnan(at(watch.rollouts, 12)[2])
    assert watch.table == [("watched reward", f"{tmp_path}/size.py:size")]


def test_of_every_third_iteration_the_others_have_no_number(tmp_path):
    """An iteration has 2 x 3 updates at most; with --stop_kl it may have fewer, and one in three still starts there."""
    watch = opened(tmp_path, watch_every=3)
    there = [not np.isnan(at(watch.rollouts, step)).all() for step in range(0, 48, 6)]
    assert there == [True, False, False, True, False, False, True, False]
    starts = np.cumsum([0, 4, 6, 5, 6, 1, 6, 6, 3, 6, 6, 2, 5, 6, 6, 6])
    scored = [int(step) // 18 for step in starts if not np.isnan(at(watch.rollouts, int(step))).all()]
    assert {*scored} == {*range(starts[-1] // 18 + 1)}
    assert not np.isnan(at(watch.always, 7)[:2]).any(), "an evaluation is scored at any step"


def test_a_watched_reward_that_cannot_score_is_refused_by_its_flag(tmp_path):
    cfg = settings()
    cfg.watch = Watch(watch_reward=str(tmp_path))
    with pytest.raises(ConfigError, match=r"--watch_reward=.* is not a run: it has no config\.json"):
        watch_scorer.check(cfg, TOKENS, chat.load_template("plain", TOKENS))
    cfg.watch = Watch(watch_reward="nowhere:f")
    with pytest.raises(ConfigError, match="--watch_reward=nowhere:f: no module nowhere"):
        watch_scorer.check(cfg, TOKENS, chat.load_template("plain", TOKENS))
