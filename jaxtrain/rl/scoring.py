"""Scores of sampled completions, and prompts that leave room for one."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtrain import config
from jaxtrain.config import RolloutStageConfig, Scores
from jaxtrain.data.dialogs import shorten
from jaxtrain.data.preferences import alternatives
from jaxtrain.data.prompts import Prompt, question
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import progress
from jaxtrain.ops import returns
from jaxtrain.rewards import models
from jaxtrain.rewards.function_args import TrainerState
from jaxtrain.rewards.models import CompletionScorer, RewardModel
from jaxtrain.rl import sampling_correction
from jaxtrain.stages import sampling
from jaxtrain.stages.session import pinned_run
from jaxtrain.train import workdir
from jaxtrain.train.parallel import Plan

Columns = dict[str, np.ndarray]


class ScoringConfig(NamedTuple):
    """How completions are scored."""

    scorer: CompletionScorer
    tokenizer: Tokenizer
    ends: tuple[int, ...]  # tokens that end a completion
    truncation_tokens: frozenset[int]  # tokens after which a completion is not scored
    gold: Callable[[str, str], float] | None  # the world's own reward, reported beside the score
    watch: Callable[..., Columns] | None = None  # likewise another reward, of rl/watch_scorer.py


class ScoredBatch(NamedTuple):
    """Completions with their scores, before they are annotated with log-probabilities; all arrays have R rows."""

    rows: Columns
    scores: np.ndarray  # f32[R], NaN where no reward function applies
    ended: np.ndarray  # bool[R]
    stats: Columns
    texts: np.ndarray  # object[R, 2], question and completion
    extra: Mapping[str, np.ndarray] = MappingProxyType({})  # object[R], what reward functions log
    turns: np.ndarray | None = None  # object[R], the messages of an episode with rewards

    @property
    def scored(self) -> np.ndarray:
        """bool[R]: whether there is a score."""
        return ~np.isnan(self.scores)


def score_completions(
    cfg: RolloutStageConfig,
    how: ScoringConfig,
    prompts: list[Prompt],
    completions: list[sampling.SampledTokens],
    state: TrainerState = TrainerState(),  # noqa: B008
    rewards: np.ndarray | float = 0.0,
) -> ScoredBatch:
    """Rows, texts and scores of completions, one a prompt. Functions get `state`; an environment's `rewards` add."""
    s, scoring = cfg.samples, cfg.scores
    ids, ended = [each.ids for each in completions], np.array([each.ended for each in completions])
    if scoring.truncate_at:
        cuts = [_cut(each, how.truncation_tokens, scoring.truncate_from) for each in ids]
        ids = [each[:cut] for each, cut in zip(ids, cuts, strict=True)]
        ended = np.array([cut is not None for cut in cuts])
    texts = [how.tokenizer.decode_completion([i for i in each if i not in how.ends]) for each in ids]
    pairs = [
        (prompt.ids, np.array(each.ids, np.int32)) for prompt, each in zip(prompts, completions, strict=True)
    ]
    rows = alternatives(pairs, len(pairs), cfg.data.seq_len, how.tokenizer.pad)
    rows |= sampling_correction.sampler_logps(rows["mask"], [each.logps for each in completions])
    scored = [len(prompt.ids) + len(each) for prompt, each in zip(prompts, ids, strict=True)]
    lengths = np.array(scored, np.int32)
    scores, stats, extra = _evaluated(how.scorer, {**rows, "length": lengths}, prompts, texts, state)
    if how.watch is not None:
        stats |= how.watch({**rows, "length": lengths}, prompts, texts, state)
    counts = rows["mask"].sum(1)
    stats |= {"completions/mean_length": counts, "completions/clipped_ratio": 1.0 - ended}
    questions = [question(prompt.messages) for prompt in prompts]
    if cap := scoring.cap():
        stats["objective/scores_capped"] = (scores > cap).astype(np.float32)
    if how.gold is not None:
        stats["judge/gold"] = np.array([how.gold(*pair) for pair in zip(questions, texts, strict=True)])
    return ScoredBatch(
        rows=rows,
        scores=_with_penalties(scores, rewards, ended, counts, scoring, s.max_new),
        ended=ended,
        stats=stats,
        texts=np.array([questions, texts], object).T,
        extra=extra,
    )


def _evaluated(
    scorer: CompletionScorer, rows: Columns, prompts: list[Prompt], texts: list[str], state: TrainerState
) -> tuple[np.ndarray, Columns, Columns]:
    """(scores f32[R], what is reported of them f32[R], what reward functions log of each completion object[R])."""
    progress.report(f"scoring {len(texts)} completions")
    if scorer.evaluate is None:
        return np.asarray(scorer.scores(rows, prompts, texts), np.float32), {}, {}
    result = scorer.evaluate(rows, prompts, texts, state)
    R, several = len(texts), len(result.by_function) > 1
    stats = {f"rewards/{name}/mean": x for name, x in result.by_function.items() if several}
    stats |= {name: np.full(R, np.mean(values), np.float32) for name, values in result.logs.metrics.items()}
    if np.isnan(result.total).any():
        stats["completions/unscored"] = np.isnan(result.total).astype(np.float32)
    return result.total, stats, {name: object_column(x) for name, x in result.logs.extra.items()}


def object_column(values: Sequence[Any]) -> np.ndarray:
    """object[R]: values of any type; np.array would make further axes of lists that are of one length."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _with_penalties(
    scores: np.ndarray, rewards: np.ndarray | float, ended: np.ndarray, lengths: np.ndarray, how: config.Scores,
    most: int,
) -> np.ndarray:  # fmt: skip
    """Scores of --score_cap at most, rewards, and the penalties of --truncated and --overlong_buffer."""
    scores = (np.minimum(scores, np.float32(cap)) if (cap := how.cap()) else scores) + rewards
    penalty = np.float32(how.truncated_penalty)
    if how.truncated == "subtract":
        scores = scores - penalty * ~ended
    elif how.truncated == "replace":
        scores = np.where(ended, scores, -penalty)
    if how.overlong_buffer:
        scores = scores + np.asarray(
            returns.overlong_penalty(jnp.asarray(lengths), most=most, buffer=how.overlong_buffer)
        )
    return scores


def _cut(ids: list[int], ends: frozenset[int], start: int) -> int | None:
    """The number of tokens that are scored: through the first of `ends` at `start` or later; None without one."""
    return next((i + 1 for i in range(start, len(ids)) if ids[i] in ends), None)


def truncation_tokens(tokenizer: Tokenizer, how: config.Scores) -> frozenset[int]:
    """The tokens whose text is --truncate_at. Raises ConfigError where there is none."""
    if not how.truncate_at:
        return frozenset()
    tokens = frozenset(
        i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).strip() == how.truncate_at
    )
    if not tokens:
        raise config.ConfigError(
            f"--truncate_at={how.truncate_at}: the tokenizer has no token with this text"
        )
    return tokens


def open_scorer(
    cfg: RolloutStageConfig, scores: Scores, plan: Plan, path: Path, flag: str = ""
) -> tuple[CompletionScorer, RewardModel | None]:
    """(the scorer that `scores` names, its reward model where it is one), recorded in the run's workdir.

    `flag` is the one that names it, where it is neither --reward_model nor --reward.
    """
    if not (scores.reward or scores.reward_model):  # the environment's rewards alone
        return CompletionScorer(lambda rows, prompts, texts: np.zeros(len(texts), np.float32), []), None
    if scores.reward:
        return models.function_scorer(scores.reward, plan, flag or "reward"), None
    name = flag or "reward_model"
    text = pinned_run(path, name, scores.reward_model)
    if not cfg.run.dry_run and plan.primary:
        workdir.record(path, **{name: text})
    reward_model = models.load(scores, text, plan, cfg.model, name)
    return models.model_scorer(reward_model, plan, cfg.data.batch_size), reward_model


def fitting_prompts(
    prompts: list[Prompt], cfg: config.DialogStageConfig, bos: int
) -> tuple[list[Prompt], list[str]]:
    """(prompts that leave room for --max_new in --seq_len, lines about the others)."""
    room, fitting = cfg.data.seq_len - cfg.samples.max_new, []
    if room < 1:
        raise config.ConfigError(
            f"--max_new={cfg.samples.max_new}: --seq_len={cfg.data.seq_len} leaves no room for a prompt"
        )
    long = sum(len(each.ids) > room for each in prompts)
    for each in prompts:
        ids = each.ids if cfg.data.too_long == "drop" else shorten(each.ids, room, bos)
        if ids is not None and len(ids) <= room:
            fitting.append(each._replace(ids=ids))
    if not fitting:
        raise config.ConfigError(
            f"--data={cfg.data.data}: no prompt fits {room} tokens (--seq_len less --max_new); the shortest has "
            f"{min(len(each.ids) for each in prompts)}"
        )
    dropped = len(prompts) - len(fitting)
    lines = []
    if long > dropped:
        lines.append(f"{long - dropped:,} prompts longer than {room} tokens lost their beginning")
    if dropped:
        lines.append(f"{dropped:,} prompts longer than {room} tokens left out")
    return fitting, lines
