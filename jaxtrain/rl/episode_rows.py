"""Rows of a batch from episodes, with their scores."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtrain.config import RolloutStageConfig
from jaxtrain.data.messages import Message
from jaxtrain.data.prompts import Prompt, question
from jaxtrain.rewards.function_args import QUOTED, Logs, TrainerState
from jaxtrain.rewards.functions import RewardScores
from jaxtrain.rewards.models import CompletionScorer
from jaxtrain.rl import gsm8k, sampling_correction, scoring
from jaxtrain.rl.environment_spec import EnvironmentSpec
from jaxtrain.rl.environments import Environment
from jaxtrain.rl.scoring import Columns, ScoredBatch, ScoringConfig
from jaxtrain.stages.sampling import SampledTokens
from jaxtrain.types import Batch

PREFIX = "environment"  # of the metrics


@dataclasses.dataclass
class Episode:
    """An episode as far as it has come."""

    spec: EnvironmentSpec
    prompt: Prompt  # the row of --data that it is from
    seed: int
    environment: Environment | None = None  # on the host that calls it
    template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    messages: list[Message] = dataclasses.field(
        default_factory=list
    )  # where it is over, the last is the policy's
    start: int = 0  # how many of them `reset` returned
    ids: list[int] = dataclasses.field(default_factory=list)
    completions: list[tuple[int, int]] = dataclasses.field(
        default_factory=list
    )  # (first, end) of each in `ids`
    logps: list[np.ndarray | None] = dataclasses.field(default_factory=list)  # of each completion's tokens
    rewards: list[float] = dataclasses.field(default_factory=list)  # of each completion
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    over: bool = False
    cut: bool = False  # by a limit: of a completion, of turns, or of the row
    full: bool = False  # by that of the row: what the environment said had no room
    fault: str = ""  # of its environment: it has no score

    def place(self, row: int) -> str:
        """The episode as messages name it."""
        text = " ".join(question(self.messages).split())
        return f"turn {len(self.completions)} of row {row} ({text[:QUOTED]}{'…' * (len(text) > QUOTED)})"


def scored_episodes(
    cfg: RolloutStageConfig, how: ScoringConfig, episodes: Sequence[Episode], state: TrainerState
) -> ScoredBatch:
    """The rows and scores of episodes that are over.

    A score is the sum of the environment's rewards and the score of the last completion by --reward or --reward_model,
    whose prompt is all that stands before it. An episode with a fault has none. `turn_rewards` f32[R, T] has the
    environment's rewards, each at the last token of its completion.
    """
    prompts = [
        each.prompt._replace(
            messages=tuple(each.messages[:-1]), ids=np.array(each.ids[: each.completions[-1][0]], np.int32)
        )
        for each in episodes
    ]
    last = [SampledTokens(each.ids[slice(*each.completions[-1])], not each.cut) for each in episodes]
    totals = np.array([np.nan if each.fault else sum(each.rewards) for each in episodes], np.float32)
    # The world's judge knows no episodes.
    how = how._replace(scorer=with_environment(how.scorer, totals), gold=None)
    batch = scoring.score_completions(cfg, how, prompts, last, state, np.nan_to_num(totals))
    mask, rewards = np.zeros_like(batch.rows["mask"]), np.zeros_like(batch.rows["mask"])
    for row, each in enumerate(episodes):
        for (first, end), reward in zip(
            each.completions, each.rewards, strict=False
        ):  # a fault has no reward
            mask[row, first - 1 : end - 1] = 1  # targets are shifted by one
            rewards[row, end - 2] = reward
    first = [question(each.messages[: each.start]) or each.messages[0]["content"] for each in episodes]
    logps = [_joined(each.logps[: len(each.rewards)]) for each in episodes]
    return batch._replace(
        rows=batch.rows
        | {"mask": mask, "turn_rewards": rewards}
        | sampling_correction.sampler_logps(mask, logps),
        stats=batch.stats | {"completions/mean_length": mask.sum(1)} | episode_metrics(episodes),
        texts=np.array([first, batch.texts[:, 1]], object).T,
        turns=_turns(episodes),
    )


def _joined(logps: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The log-probabilities of completions one after the other; None where a sampler gives none."""
    return None if any(one is None for one in logps) else np.concatenate([np.zeros(0, np.float32), *logps])


def with_environment(scorer: CompletionScorer, totals: np.ndarray) -> CompletionScorer:
    """A scorer that reports the environment's rewards f32[R] beside its own scores, to which they are added later.

    What it scores not has 0, as the environment's rewards are a score; where these are NaN, there is none.
    """

    def evaluate(
        rows: Batch, prompts: Sequence[Prompt], texts: Sequence[str], state: TrainerState
    ) -> RewardScores:
        if scorer.evaluate is not None:
            result = scorer.evaluate(rows, prompts, texts, state)
        else:
            scores = np.asarray(scorer.scores(rows, prompts, texts), np.float32)
            result = RewardScores(scores, {"model": scores} if scorer.table else {}, Logs({}, {}))
        total = np.where(np.isnan(totals), np.nan, np.nan_to_num(result.total))
        return RewardScores(total.astype(np.float32), {PREFIX: totals, **result.by_function}, result.logs)

    return scorer._replace(evaluate=evaluate)


def episode_metrics(episodes: Sequence[Episode]) -> Columns:
    """Metrics f32[R] of episodes; those that an environment does not report of an episode are NaN."""
    names = dict.fromkeys(name for each in episodes for name in each.metrics)
    specs = dict.fromkeys(each.spec.name for each in episodes)
    columns = {f"{PREFIX}/{name}": [each.metrics.get(name, np.nan) for each in episodes] for name in names}
    if len(specs) > 1:
        columns |= {
            f"{PREFIX}/{_short(name)}/reward": [
                sum(each.rewards) if each.spec.name == name and not each.fault else np.nan
                for each in episodes
            ]
            for name in specs
        }
    columns |= {
        f"{PREFIX}/turns": [len(each.completions) for each in episodes],
        f"{PREFIX}/full": [each.full for each in episodes],
        f"{PREFIX}/faults": [bool(each.fault) for each in episodes],
    }
    return {name: np.array(column, np.float32) for name, column in columns.items()}


def _short(name: str) -> str:
    """The name of an environment in metrics: without its module, and without what a path has beside letters."""
    return re.sub(r"[^\w.-]+", "_", name if name.startswith(gsm8k.PREFIX) else name.rpartition(":")[2])


def _turns(episodes: Sequence[Episode]) -> np.ndarray:
    """object[R]: the messages of each episode, as JSON has them, with the rewards of the policy's."""
    turns = np.empty(len(episodes), object)
    for row, each in enumerate(episodes):
        rewards = iter(each.rewards)
        turns[row] = [
            {"role": one["role"], "content": one["content"]}
            | ({"reward": next(rewards, None)} if one["role"] == "assistant" and i >= each.start else {})
            for i, one in enumerate(each.messages)
        ]
    return turns
