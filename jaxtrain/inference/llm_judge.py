"""Judges: values that score an answer, or compare two, with a model, a function or a world's truth behind them.

An LLM judge must end its completion with a line in a fixed format, which is parsed strictly: a completion without one
is malformed, counted, and requested again with another seed.
"""

import collections
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain import worlds
from jaxtrain.data.messages import Message
from jaxtrain.data.prompts import question
from jaxtrain.inference.config import VERDICT_TOKENS
from jaxtrain.inference.llm import (
    CUT_OFF,
    FILTERED,
    LLM,
    REFUSED,
    Completion,
    Request,
    derive_seed,
    user_messages,
)
from jaxtrain.rewards import functions

LOW, HIGH = 1, 10  # of a rubric
TRIES = 3  # requests for a completion that is not malformed
SHOWN = 60  # characters of a malformed verdict in a message
RUBRIC = (
    "Is the answer correct and complete? Does it do what was asked, clearly and without padding? Does it refuse what "
    "would do harm, and say why? An answer that is wrong is 3 at most."
)
_POINTWISE = """Score an assistant's answer by this rubric.

Rubric: {rubric}

Conversation:
{conversation}

Answer:
{answer}

Say in a few words what is good and bad in it. Then end with one line, Score: N, where N is a whole number from {low}
to {high}."""
_PAIRWISE = """Compare two answers of an assistant by this rubric. Their order means nothing, nor does their length.

Rubric: {rubric}

Conversation:
{conversation}

Answer A:
{a}

Answer B:
{b}

Say in a few words how they differ. Then end with one line: Verdict: A, Verdict: B, or Verdict: tie."""
_SCORE = re.compile(r"Score:\s*(\d+)")
_VERDICT = re.compile(r"Verdict:\s*(A|B|tie)")
_WINS = {"A": 1.0, "tie": 0.5, "B": 0.0}  # of the answer that is shown first


class JudgeCase(NamedTuple):
    """An answer to judge, with the conversation before it and the record that they are from."""

    messages: tuple[Message, ...]
    answer: str
    record: Mapping[str, Any] = {}


class JudgePair(NamedTuple):
    """Two answers to compare."""

    messages: tuple[Message, ...]
    first: str
    second: str
    record: Mapping[str, Any] = {}


class Judgements(NamedTuple):
    """A score of each case, or P(first is better) of each pair, None where there is none; counts; why there is none."""

    values: list[float | None]
    counts: dict[str, float]
    faults: list[str]  # by value; empty where there is one


class Judge(NamedTuple):
    """A judge by name: (cases or pairs, seed) -> judgements."""

    name: str
    score: Callable[[Sequence[JudgeCase], int], Judgements]
    compare: Callable[[Sequence[JudgePair], int], Judgements]


class JudgeConfig(NamedTuple):
    """How an LLM judge is prompted."""

    rubric: str = RUBRIC
    votes: int = 1  # completions of a prompt; the median score, or the majority's verdict, counts
    temperature: float = 0.0  # with several votes it must be above 0
    # Above 0 a verdict is a probability, a score an expectation, over the likeliest tokens in its place.
    top_logprobs: int = 0
    max_new: int = VERDICT_TOKENS  # most tokens of a completion, a thought included


def score_judge(name: str, scores: Callable[[Sequence[JudgeCase]], list[float | None]]) -> Judge:
    """A judge from a score: of two answers the one with the higher score is better, equal ones tie."""

    def compare(pairs: Sequence[JudgePair], seed: int) -> Judgements:
        first = scores([JudgeCase(one.messages, one.first, one.record) for one in pairs])
        second = scores([JudgeCase(one.messages, one.second, one.record) for one in pairs])
        return _counted(
            [
                None if a is None or b is None else float(np.sign(a - b)) / 2 + 0.5
                for a, b in zip(first, second, strict=True)
            ]
        )

    return Judge(name, lambda cases, seed: _counted(scores(cases)), compare)


def reward_judge(reward: functions.WeightedReward | functions.RewardFunction) -> Judge:
    """A judge by a reward function. A world's own reward has no score for prompts that are not of the world."""
    parts = reward.functions if isinstance(reward, functions.WeightedReward) else (reward,)
    world = any(one.name in functions.NAMED for one in parts)

    def scores(cases: Sequence[JudgeCase]) -> list[float | None]:
        known = [not world or worlds.world_of_prompt(question(one.messages)) for one in cases]
        scored = [one for one, is_known in zip(cases, known, strict=True) if is_known]
        if not scored:
            return [None] * len(cases)
        rewards = iter(
            functions.reward_scores(
                reward,
                [one.messages for one in scored],
                [one.answer for one in scored],
                [one.record for one in scored],
            )
        )
        values = [float(next(rewards)) if is_known else None for is_known in known]
        return [None if value is None or math.isnan(value) else value for value in values]

    return score_judge(reward.name, scores)


def _counted(values: list[float | None]) -> Judgements:
    faults = ["" if value is not None else "the judge has no score for it" for value in values]
    return Judgements(values, {"questions": len(values), "unanswered": values.count(None)}, faults)


def llm_judge(model: LLM, how: JudgeConfig = JudgeConfig()) -> Judge:  # noqa: B008
    """An LLM judge with a rubric (MT-bench, arXiv:2306.05685; with log-probabilities G-Eval, arXiv:2303.16634)."""
    if how.votes > 1 and not how.temperature:
        raise ValueError(f"{how.votes} votes at temperature 0 are one vote")

    def score(cases: Sequence[JudgeCase], seed: int) -> Judgements:
        prompts = [
            _POINTWISE.format(
                rubric=how.rubric,
                conversation=conversation_text(one.messages),
                answer=one.answer,
                low=LOW,
                high=HIGH,
            )
            for one in cases
        ]
        votes, counts, faults = _votes(model, how, prompts, seed, _score)
        return Judgements([statistics.median(each) if each else None for each in votes], counts, faults)

    def compare(pairs: Sequence[JudgePair], seed: int) -> Judgements:
        prompts = [
            _PAIRWISE.format(rubric=how.rubric, conversation=conversation_text(one.messages), a=a, b=b)
            for one in pairs
            for a, b in ((one.first, one.second), (one.second, one.first))
        ]
        votes, counts, faults = _votes(model, how, prompts, seed, _verdict)
        wins = [_majority(each, soft=how.top_logprobs > 0) for each in votes]
        values, orders = both_orders(list(zip(wins[::2], wins[1::2], strict=True)), soft=how.top_logprobs > 0)
        either = [one or other for one, other in zip(faults[::2], faults[1::2], strict=True)]
        return Judgements(values, counts | orders, either)

    return Judge(model.name, score, compare)


def both_orders(
    wins: Sequence[tuple[float | None, float | None]], *, soft: bool = False
) -> tuple[list[float | None], dict[str, float]]:
    """(P(first is better) of each pair, measures of the order's influence).

    `wins` are those of the answer shown first, when it is the pair's first, then when it is the second. A hard verdict
    that turns with the order is a tie, as in MT-bench; soft ones are averaged. position_bias: the mean win of what is
    shown first less ½. flip_rate: the share of pairs whose two verdicts name different answers.
    """
    values: list[float | None] = []
    flips, shown_first = [], []
    for one, other in wins:
        if one is None or other is None:
            values.append(None)
            continue
        swapped = 1.0 - other
        flipped = (one - 0.5) * (swapped - 0.5) < 0
        flips.append(flipped)
        shown_first += [one, other]
        values.append((one + swapped) / 2 if soft or not flipped else 0.5)
    if not flips:
        return values, {}
    return values, {
        "flip_rate": statistics.fmean(flips),
        "position_bias": statistics.fmean(shown_first) - 0.5,
    }


def _votes(
    model: LLM,
    how: JudgeConfig,
    prompts: Sequence[str],
    seed: int,
    parse: Callable[[Completion], float | None],
) -> tuple[list[list[float]], dict[str, float], list[str]]:
    """(the parsed votes on each prompt, counts, why a prompt has none).

    Malformed ones are requested again, TRIES times in all.
    """
    votes: list[list[float]] = [[] for _ in prompts]
    faults = [""] * len(prompts)
    malformed = 0
    for attempt in range(TRIES):
        missing = [i for i, each in enumerate(votes) if len(each) < how.votes]
        if not missing:
            break
        # Above 0, or the next attempt would be the same.
        temperature = max(how.temperature, 0.5) if attempt else how.temperature
        requests = [
            Request(
                user_messages(prompts[i]), samples=how.votes - len(votes[i]), seed=derive_seed(seed, i, attempt),
                temperature=temperature, max_new=how.max_new, top_logprobs=how.top_logprobs,
            )
            for i in missing
        ]  # fmt: skip
        for i, completions in zip(missing, model.generate(requests), strict=True):
            values = [parse(completion) for completion in completions]
            malformed += values.count(None)
            votes[i] += [value for value in values if value is not None]
            faults[i] = "" if votes[i] else _fault(completions[-1], how)
    unanswered = sum(not each for each in votes)
    return votes, {"questions": len(prompts), "malformed": malformed, "unanswered": unanswered}, faults


def _fault(completion: Completion, how: JudgeConfig) -> str:
    """Why a judge's completion has no verdict."""
    if completion.finish_reason == REFUSED:
        return completion.detail or "the judge's context has no room for the prompt"
    if completion.finish_reason == CUT_OFF:
        thinks = " of thought and answer" if completion.thought else ""
        return f"the judge's answer did not end in {how.max_new} tokens{thinks}: raise --judge_max_new"
    if completion.finish_reason == FILTERED:
        return "the endpoint's content filter ended the judge's answer"
    line = last_line(completion.text)
    return (
        f"the judge's last line is not a verdict: {line[:SHOWN]}" if line else "the judge's answer is empty"
    )


def last_line(text: str) -> str:
    """The last line that is not empty, without Markdown around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].strip("*_` ").removesuffix(".") if lines else ""


def _score(completion: Completion) -> float | None:
    match = _SCORE.fullmatch(last_line(completion.text))
    if match is None or not LOW <= int(match[1]) <= HIGH:
        return None
    soft = _soft(completion, "Score:", {str(n): float(n) for n in range(LOW, HIGH + 1)})
    return float(match[1]) if soft is None else soft


def _verdict(completion: Completion) -> float | None:
    match = _VERDICT.fullmatch(last_line(completion.text))
    if match is None:
        return None
    soft = _soft(completion, "Verdict:", _WINS)
    return _WINS[match[1]] if soft is None else soft


def _soft(completion: Completion, mark: str, worth: Mapping[str, float]) -> float | None:
    """The expected worth over the likeliest tokens after the last `mark`; None where none of them has any."""
    if completion.logprobs is None:
        return None
    text, start = "", "".join(one.token for one in completion.logprobs).rfind(mark) + len(mark)
    for token in completion.logprobs:
        if f"{text}{token.token}"[start:].strip():
            p: dict[str, float] = collections.defaultdict(float)
            for one, logprob in token.top:
                if (name := one.strip()) in worth:
                    p[name] += math.exp(logprob)
            total = sum(p.values())
            return sum(worth[name] * each for name, each in p.items()) / total if total else None
        text += token.token
    return None


def _majority(votes: Sequence[float], *, soft: bool) -> float | None:
    """The mean of soft votes; of hard ones the most frequent, a tie where two are."""
    if not votes or soft:
        return statistics.fmean(votes) if votes else None
    (best, count), *rest = collections.Counter(votes).most_common()
    return 0.5 if rest and rest[0][1] == count else best


def conversation_text(messages: Sequence[Message]) -> str:
    """A conversation as the text that a judge reads."""
    return "\n".join(f"{one['role'].capitalize()}: {one['content']}" for one in messages)
