"""Process rewards (--process_reward): scores of a completion's steps, each at the last token of its step.

A function scores steps, as a process reward model does (arXiv:2211.14275, arXiv:2312.08935). PPO has the scores as
rewards of those tokens, beside the score of the completion at its end.
"""

import bisect
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.chat import Template
from jaxtrain.data.prompts import Prompt
from jaxtrain.files import progress
from jaxtrain.rewards import function_args, functions
from jaxtrain.rewards.function_args import Logs, Scored
from jaxtrain.rewards.functions import RewardFunction, WeightedReward
from jaxtrain.rl import rollouts
from jaxtrain.rl.config import SteppedStageConfig, iteration_size
from jaxtrain.rl.flat_groups import Sample
from jaxtrain.rl.samplers import Wrapper
from jaxtrain.rl.scoring import ScoredBatch, object_column
from jaxtrain.train import multihost
from jaxtrain.types import TrainState

FLAG = "process_reward"
STEPS = "steps"  # the argument that a function gets beside those of --reward: the steps' texts, a list a completion


class Step(NamedTuple):
    """A step of a completion."""

    text: str
    end: int  # tokens of the completion up to the end of its separator


def wrapper_of(cfg: SteppedStageConfig, template: Template) -> Wrapper | None:
    """What adds the scores of --process_reward to rollouts; None without it. Raises ConfigError where it cannot act."""
    text = cfg.steps.process_reward
    if not text:
        return None
    others = {"env": cfg.episodes.env, "truncate_at": cfg.scores.truncate_at}
    if conflict := next((name for name, value in others.items() if value), None):
        why = (
            "gives rewards of its own by turn"
            if conflict == "env"
            else "ends a completion before its last token"
        )
        raise ConfigError(f"--{FLAG}={text}: --{conflict} {why}; leave out one of them")
    reward = functions.resolve(text, FLAG)

    def wrapped(setup: rollouts.RolloutConfig, sample: Sample) -> Sample:
        names = {STEPS, *(name for prompt in setup.prompts for name in prompt.record)}
        functions.check_arguments(
            reward, function_args.available(names, False, None), f"--data={cfg.data.data}"
        )
        groups = iteration_size(cfg) // cfg.samples.group
        ends = frozenset(setup.scoring.ends)

        def text_of(ids: Sequence[int]) -> str:
            return template.tokenizer.decode_completion([i for i in ids if i not in ends])

        def run(state: TrainState, taken: int, count: int = groups) -> ScoredBatch:
            batch = sample(state, taken, count)
            order = rollouts.prompt_order(len(setup.prompts), cfg.run.seed, taken, count)
            prompts = [setup.prompts[i] for i in order for _ in range(cfg.samples.group)]
            return with_step_scores(batch, prompts, reward, text_of, cfg.steps.separator())

        return run

    return wrapped


def with_step_scores(
    batch: ScoredBatch, prompts: Sequence[Prompt], reward: WeightedReward, text_of: Callable[[Sequence[int]], str],
    separator: str,
) -> ScoredBatch:  # fmt: skip
    """The batch with the scores of its completions' steps in `turn_rewards` f32[R, T], and added to `scores`."""
    mask = batch.rows["mask"] > 0
    ids = [targets[here].tolist() for targets, here in zip(batch.rows["targets"], mask, strict=True)]
    steps = [split(each, text_of, separator) for each in ids]
    progress.report(f"scoring the steps of {len(ids)} completions")
    share = multihost.share(len(ids))
    own = [(prompts[i], text_of(ids[i]), steps[i]) for i in range(len(ids))[share]]
    parts = multihost.gather_results(lambda: _scores(reward, own))
    by_step = [scores for part in parts for scores in part]
    rewards = np.zeros(mask.shape, np.float32)
    for row, (scores, places) in enumerate(zip(by_step, steps, strict=True)):
        at = np.flatnonzero(mask[row])
        for score, step in zip(scores, places, strict=True):
            rewards[row, at[step.end - 1]] += score
    total = rewards.sum(1)
    counts = np.array([len(each) for each in steps], np.float32)
    column = object_column([", ".join(f"{score:.4g}" for score in scores) for scores in by_step])
    return batch._replace(
        rows=batch.rows | {"turn_rewards": rewards},
        scores=batch.scores + total,
        stats=batch.stats | {"rewards/process/mean": total, "process/steps": counts},
        extra={**batch.extra, "step_scores": column},
    )


def split(ids: Sequence[int], text_of: Callable[[Sequence[int]], str], separator: str) -> list[Step]:
    """The steps of a completion that have any text, and where they end: with their separator, or the completion."""
    counts = range(1, len(ids) + 1)
    pieces = text_of(ids).split(separator)
    steps = []
    for number, piece in enumerate(pieces):
        if not piece.strip():
            continue
        if number + 1 == len(pieces):
            end = len(ids)
        else:
            wanted = number + 1
            end = 1 + bisect.bisect_left(counts, wanted, key=lambda n: text_of(ids[:n]).count(separator))
        steps.append(Step(piece, end))
    return steps


def _scores(reward: WeightedReward, rows: Sequence[tuple[Prompt, str, Sequence[Step]]]) -> list[list[float]]:
    """The weighted sum of the functions' scores of each step of each row. Raises Failure, naming function and row."""
    if not rows:
        return []
    scored = Scored(
        [row[0].messages for row in rows], [row[1] for row in rows], [row[0].record for row in rows]
    )
    steps = [[step.text for step in row[2]] for row in rows]
    totals = [[0.0] * len(each) for each in steps]
    for function in reward.functions:
        for row, values in enumerate(_called(function, scored, steps)):
            numbers_of = (
                [0.0] * len(steps[row]) if values is None else _checked(function, scored, row, steps, values)
            )
            totals[row] = [a + function.weight * b for a, b in zip(totals[row], numbers_of, strict=True)]
    return totals


def _called(function: RewardFunction, scored: Scored, steps: list[list[str]]) -> list[Any]:
    """What a function returns: a value for each completion."""
    form = "text" if function.format == "auto" else function.format
    arguments: Mapping[str, Any] = function_args.arguments(
        function.call, form, scored, slice(None), Logs({}, {})
    )
    parameters = inspect.signature(function.call).parameters.values()
    if any(one.name == STEPS or one.kind is one.VAR_KEYWORD for one in parameters):
        arguments = {**arguments, STEPS: [list(each) for each in steps]}
    try:
        result = list(functions.awaited(function.call(**arguments)))
    except Exception as error:
        raise Failure(f"{function.label} raised {type(error).__name__}: {error}") from error
    if len(result) != len(steps):
        raise Failure(f"{function.label} returned {len(result)} values for {len(steps)} completions")
    return result


def _checked(
    function: RewardFunction, scored: Scored, row: int, steps: list[list[str]], values: Any
) -> list[float]:
    """The scores of a completion's steps as numbers. Raises Failure where they are none."""
    where, count = scored.row_label(row), len(steps[row])
    try:
        result = [one.item() if hasattr(one, "item") else one for one in values]
    except TypeError as error:
        kind = type(values).__name__
        raise Failure(
            f"{function.label} returned a {kind} at {where}, not a list of a score a step"
        ) from error
    if len(result) != count:
        raise Failure(f"{function.label} returned {len(result)} scores for {count} steps at {where}")
    for one in result:
        if not isinstance(one, numbers.Real) or not math.isfinite(one) or abs(one) > functions.LARGEST:
            raise Failure(f"{function.label} returned {one!r} at {where}, which is not a finite number")
    return [float(one) for one in result]
