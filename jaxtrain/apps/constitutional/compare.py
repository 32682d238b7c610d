"""AI preference labels: a critic chooses (A) or (B) of two answers under a principle (arXiv:2212.08073, section 4.1).

The label is the softmax over the log-probabilities of the two letters, averaged over both orders of the answers:
p = ½ [p(A | first, second) + p(B | second, first)], the probability that the first is the better one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.apps.constitutional.revise import Critic, draw_principle, fault_of
from jaxtrain.data.messages import Message
from jaxtrain.inference.llm import (
    CUT_OFF,
    FILTERED,
    REFUSED,
    Completion,
    Request,
    TokenLogprob,
    derive_seed,
    user_messages,
)
from jaxtrain.inference.llm_judge import both_orders

LETTERS = ("A", "B")
TOP = 20  # likeliest tokens among which the letters are searched
CHAT_MAX_NEW = 8  # tokens of a chat's reply in which its letter may stand
BIASED = 0.9  # share of the verdicts on one letter
SURE = 1e-3  # a probability below it is as good as 0
PLACE = 2  # the place decides where it has this many times the answers' effect: of 0 and 1, at BIASED
_PRINCIPLE, _REASONING = 10, 11  # what a seed is for
_CHOOSE = "Reply with one letter, A or B, and nothing else."
_THINK = (
    "Think step by step about which of the two is the better one, in a few sentences. Do not conclude yet."
)


class AnswerPair(NamedTuple):
    """Two completions of a prompt, and the number that seeds their principle."""

    messages: tuple[Message, ...]
    first: str
    second: str
    number: int


class PreferenceLabel(NamedTuple):
    """P(the first answer is better), None where no letter could be read in one order; `orders` are P(A) in each."""

    p_first: float | None
    principle: str
    orders: tuple[float | None, float | None]
    reasoning: tuple[str, ...] = ()
    fault: str = ""


class ComparisonConfig(NamedTuple):
    """The critic that labels, and how."""

    critic: Critic
    seed: int = 0
    reasons: bool = False  # chain of thought before the letter
    clamp: float = 0.4  # with it labels are clamped to clamp..1 - clamp


def labels(cfg: ComparisonConfig, pairs: Sequence[AnswerPair]) -> list[PreferenceLabel]:
    """The label of each pair, each under a sampled principle."""
    principles = cfg.critic.constitution.comparing()
    sampled = [draw_principle(principles, cfg.seed, pair.number, 0, _PRINCIPLE) for pair in pairs]
    parts = [
        {
            "conversation": cfg.critic.constitution.format.conversation(pair.messages),
            "question": principle.comparison,
            "first": first,
            "second": second,
        }
        for pair, principle in zip(pairs, sampled, strict=True)
        for first, second in ((pair.first, pair.second), (pair.second, pair.first))
    ]
    reasoning, faults = [""] * len(parts), [""] * len(parts)
    if cfg.reasons:
        reasoning, faults = _reasoning(cfg, pairs, parts)
    good = [i for i, fault in enumerate(faults) if not fault]
    p_a: list[float | None] = [None] * len(parts)
    for i, reply in zip(
        good, _letters(cfg, [parts[i] for i in good], [reasoning[i] for i in good]), strict=True
    ):
        p_a[i] = letter_probability(reply)
        faults[i] = "" if p_a[i] is not None else f"label {_letter_fault(reply)}"
    values, _ = both_orders(list(zip(p_a[::2], p_a[1::2], strict=True)), soft=True)
    result = []
    for i, (value, principle) in enumerate(zip(values, sampled, strict=True)):
        fault = faults[2 * i] or faults[2 * i + 1]
        if value is not None and cfg.reasons:
            value = min(max(value, cfg.clamp), 1 - cfg.clamp)
        texts = tuple(reasoning[2 * i : 2 * i + 2]) if cfg.reasons else ()
        result.append(PreferenceLabel(value, principle.id, (p_a[2 * i], p_a[2 * i + 1]), texts, fault))
    return result


def _reasoning(
    cfg: ComparisonConfig, pairs: Sequence[AnswerPair], parts: Sequence[Mapping[str, str]]
) -> tuple[list[str], list[str]]:
    """(the reasoning about each pair in each order, its fault or an empty text)."""
    critic = cfg.critic
    form, shots = critic.constitution.format, critic.constitution.reasoning_shots
    requests = []
    for i, part in enumerate(parts):
        page = "".join(shot.replace("{}", part["question"]) for shot in shots) + form.reasoning.format(**part)
        text = page if critic.pages else f"{_chat_question(critic, part)}\n\n{_THINK}"
        requests.append(
            Request(
                user_messages(text), seed=derive_seed(cfg.seed, pairs[i // 2].number, i % 2, _REASONING),
                temperature=critic.temperature, max_new=critic.max_new, stop=form.stop if critic.pages else (),
                raw=critic.pages,
            )
        )  # fmt: skip
    replies = [completions[0] for completions in critic.model.generate(requests)]
    faults = [fault and f"reasoning {fault}" for fault in map(fault_of, replies)]
    return [reply.text.strip() for reply in replies], faults


def _letters(
    cfg: ComparisonConfig, parts: Sequence[Mapping[str, str]], reasoning: Sequence[str]
) -> list[Completion]:
    """The completion with the letter of each part. A critic that thinks before it has --critic_max_new tokens."""
    requests = [_letter_request(cfg, *pair) for pair in zip(parts, reasoning, strict=True)]
    replies = [reply for (reply,) in cfg.critic.model.generate(requests)]
    longer = [
        i
        for i, one in enumerate(replies)
        if one.thought and one.finish_reason == CUT_OFF and not one.text.strip()
    ]
    again = [requests[i]._replace(max_new=cfg.critic.max_new) for i in longer]
    for i, (reply,) in zip(longer, cfg.critic.model.generate(again) if again else (), strict=True):
        replies[i] = reply
    return replies


def _letter_fault(reply: Completion) -> str:
    """Why a completion has no letter."""
    if reply.thought and reply.finish_reason == CUT_OFF:
        return "truncated in the critic's thought: raise --critic_max_new"
    return fault_of(reply) if reply.finish_reason in (REFUSED, FILTERED) else "unparsable"


def _letter_request(cfg: ComparisonConfig, part: Mapping[str, str], reasoning: str) -> Request:
    critic = cfg.critic
    if not critic.pages:
        after = f"\n\n{reasoning}" if reasoning else ""
        text = f"{_chat_question(critic, part)}{after}\n\n{_CHOOSE}"
        return Request(user_messages(text), temperature=0.0, max_new=CHAT_MAX_NEW, top_logprobs=TOP)
    form = critic.constitution.format
    page = form.verdict.format(**part, reasoning=reasoning) if reasoning else form.comparison.format(**part)
    before = "" if reasoning else _page_shots(critic, part["question"])
    return Request(user_messages(before + page), temperature=0.0, max_new=1, top_logprobs=TOP, raw=True)


def _shots(critic: Critic) -> Iterator[tuple[str, str, str, str]]:
    """(conversation, first answer, second answer, letter of the better one) of the few-shot examples.

    The letters alternate, so that neither is the likelier one.
    """
    for i, (conversation, better, worse) in enumerate(critic.constitution.comparison_shots):
        yield conversation, *((better, worse) if i % 2 == 0 else (worse, better)), LETTERS[i % 2]


def _page_shots(critic: Critic, question: str) -> str:
    """The few-shot examples as pages, each with its letter."""
    page = critic.constitution.format.comparison
    return "".join(
        f"{page.format(conversation=conversation, question=question, first=first, second=second)}{letter})"
        for conversation, first, second, letter in _shots(critic)
    )


def _chat_question(critic: Critic, part: Mapping[str, str]) -> str:
    """The question for a chat model, after the few-shot examples."""
    form = "Consider this conversation:\n\n{conversation}\n\n{question}\n(A) {first}\n(B) {second}"
    shots = []
    for conversation, first, second, letter in _shots(critic):
        shot = form.format(
            conversation=conversation.strip(), question=part["question"], first=first, second=second
        )
        shots.append(f"{shot}\nThe better one is {letter}.\n\n")
    return "".join(shots) + form.format(**part | {"conversation": part["conversation"].strip()})


def letter_probability(reply: Completion) -> float | None:
    """P(A) / [P(A) + P(B)] at the first token that is one of the letters; None where none is.

    A letter that is not among the likeliest tokens is taken to be as likely as the least of them, an upper bound.
    """
    for token in reply.logprobs or ():
        if _stripped(token.token) in LETTERS:
            return _share_of_a(token)
        if _stripped(token.token):
            break
    first = reply.logprobs[0] if reply.logprobs else None
    return _share_of_a(first) if first is not None and first.top else None


def _stripped(text: str) -> str:
    return text.strip(" \n(")


def _share_of_a(token: TokenLogprob) -> float | None:
    p = dict.fromkeys(LETTERS, 0.0)
    for text, logprob in token.top:
        if (name := _stripped(text).removesuffix(")")) in p:
            p[name] += math.exp(logprob)
    if not any(p.values()):
        return None
    least = math.exp(min(logprob for _, logprob in token.top))
    a, b = (value or least for value in p.values())
    return a / (a + b)


def training_row(pair: AnswerPair, label: PreferenceLabel, prompt: Any, **more: Any) -> dict[str, Any]:
    """A preference record for `reward` and `dpo`: the likelier answer is chosen, p_win is its probability."""
    won = label.p_first >= 0.5
    chosen, rejected = (pair.first, pair.second) if won else (pair.second, pair.first)
    p = label.p_first if won else 1 - label.p_first
    record = {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "p_win": round(p, 6),
        "principle": label.principle,
    }
    record |= {"p_orders": [round(one, 6) for one in label.orders], "first_won": won, "pair": pair.number}
    return record | ({"thoughts": list(label.reasoning)} if label.reasoning else {}) | more


def position_bias(orders: Sequence[Sequence[float]]) -> dict[str, float]:
    """The influence of an answer's place, of P(A) in both orders of each pair; empty of no pair.

    flip_rate and position_bias are those of both_orders; letter_a is the share of the verdicts that name (A), ½
    where the answers alone decide.
    """
    if not orders:
        return {}
    _, measures = both_orders([tuple(pair) for pair in orders], soft=True)
    verdicts = [1.0 if p > 0.5 else 0.5 * (p == 0.5) for pair in orders for p in pair]
    return measures | {"letter_a": sum(verdicts) / len(verdicts)}


def place_decides(orders: Sequence[Sequence[float]]) -> bool:
    """Whether a model names (nearly) always the same letter, and its log-odds hardly depend on the answers.

    The effect of the answers is a root mean square, as those of many pairs differ in nothing that matters.
    """
    bias = position_bias(orders)
    if not bias or max(bias["letter_a"], 1 - bias["letter_a"]) < BIASED:
        return False
    p = np.clip(np.array(orders), SURE, 1 - SURE)
    odds = np.log(p / (1 - p))
    of_answers = np.sqrt(np.mean((odds[:, 0] - odds[:, 1]) ** 2)) / 2
    return bool(abs(odds.mean()) >= PLACE * of_answers)
