"""The scorer of --watch_reward: its scores of completions are metrics, and have no part in training."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxtrain.data.chat import Template
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.rewards import models
from jaxtrain.rewards.function_args import TrainerState
from jaxtrain.rl import watched_reward
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.rl.overoptimisation import WATCHED
from jaxtrain.rl.scoring import open_scorer
from jaxtrain.rl.watched_reward import FLAG
from jaxtrain.stages.session import Session
from jaxtrain.types import Batch

Stats = dict[str, np.ndarray]  # f32[R] by name
WatchFn = Callable[[Batch, Sequence[Prompt], Sequence[str], TrainerState], Stats]


class WatchScorer(NamedTuple):
    """Functions that return {WATCHED: f32[R]}: of rollouts, NaN in those that --watch_every leaves out, and of all."""

    rollouts: WatchFn
    always: WatchFn
    table: list[tuple[str, str]]


def check(cfg: WatchedStageConfig, tokenizer: Tokenizer, template: Template) -> None:
    """Raises ConfigError for a watched reward that cannot score this policy's completions."""
    if cfg.watch.watch_reward:
        models.check(watched_reward.scores(cfg), tokenizer, cfg.data.seq_len, template, FLAG)


def open_watch(cfg: WatchedStageConfig, session: Session) -> WatchScorer | None:
    """The scorer that --watch_reward names, None without one."""
    if not cfg.watch.watch_reward:
        return None
    scorer, _ = open_scorer(cfg, watched_reward.scores(cfg), session.plan, session.path, FLAG)
    updates = cfg.samples.epochs * cfg.samples.minibatches

    def always(rows: Batch, prompts: Sequence[Prompt], texts: Sequence[str], state: TrainerState) -> Stats:
        if scorer.evaluate is None:
            return {WATCHED: np.asarray(scorer.scores(rows, prompts, texts), np.float32)}
        return {WATCHED: scorer.evaluate(rows, prompts, texts, state).total}

    def rollouts(rows: Batch, prompts: Sequence[Prompt], texts: Sequence[str], state: TrainerState) -> Stats:
        # An iteration has at most `updates` updates, fewer with --stop_kl: one at least starts in every such window.
        if state.global_step % (cfg.watch.watch_every * updates) < updates:
            return always(rows, prompts, texts, state)
        return {WATCHED: np.full(len(texts), np.nan, np.float32)}

    table = [("watched reward", text) for _, text in scorer.table]
    return WatchScorer(rollouts, always, table)
