"""Labels of pairs of answers by a model that chooses (A) or (B) under a principle (arXiv:2212.08073, section 4.1).

The label is the softmax over the log-probabilities of the two letters, averaged over both orders of the answers:
p = ½ [p(A | first, second) + p(B | second, first)], the probability that the first is the better one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.apps.constitutional.revise import Critic, draw_principle, fault_of
from jaxtrain.data.record_formats import Message
from jaxtrain.inference.llm import Completion, Request, TokenLogprob, seed_of, user
from jaxtrain.inference.llm_judge import both_orders

LETTERS = ("A", "B")
TOP = 20  # likeliest tokens that the letters are looked for among
TOLD = 8  # tokens of a chat's reply in which its letter may stand
SURE = 0.9  # share of the verdicts on one letter from which on it is the place that is chosen, not the answer
_PRINCIPLE, _THOUGHT = 10, 11  # what a seed is for
_CHOOSE = "Reply with one letter, A or B, and nothing else."
_THINK = (
    "Think step by step about which of the two is the better one, in a few sentences. Do not conclude yet."
)


class AnswerPair(NamedTuple):
    """Two answers to a prompt, and the number that decides their principle."""

    messages: tuple[Message, ...]
    first: str
    second: str
    number: int


class PreferenceLabel(NamedTuple):
    """`p_first` is None where no letter could be read in one of the orders; `orders` are P(A) in each."""

    p_first: float | None
    principle: str
    orders: tuple[float | None, float | None]
    thoughts: tuple[str, ...] = ()
    fault: str = ""


class ComparisonConfig(NamedTuple):
    critic: Critic
    seed: int = 0
    thinks: bool = False  # chain of thought before the letter
    clamp: float = 0.4  # with it labels are held to clamp..1 - clamp


def labels(how: ComparisonConfig, pairs: Sequence[AnswerPair]) -> list[PreferenceLabel]:
    """The label of each pair, under a principle of its own."""
    principles = how.critic.constitution.comparing()
    chosen = [draw_principle(principles, how.seed, pair.number, 0, _PRINCIPLE) for pair in pairs]
    parts = [
        {
            "conversation": how.critic.constitution.format.conversation(pair.messages),
            "question": principle.comparison,
            "first": one,
            "second": other,
        }
        for pair, principle in zip(pairs, chosen, strict=True)
        for one, other in ((pair.first, pair.second), (pair.second, pair.first))
    ]
    thoughts, faults = _thoughts(how, pairs, parts) if how.thinks else ([""] * len(parts), [""] * len(parts))
    good = [i for i, fault in enumerate(faults) if not fault]
    read: list[float | None] = [None] * len(parts)
    replies = how.critic.model.generate([_letter_ask(how, parts[i], thoughts[i]) for i in good])
    for i, (reply,) in zip(good, replies, strict=True):
        read[i] = letter_probability(reply)
    values, _ = both_orders(list(zip(read[::2], read[1::2], strict=True)), soft=True)
    found = []
    for i, (value, principle) in enumerate(zip(values, chosen, strict=True)):
        fault = faults[2 * i] or faults[2 * i + 1] or ("label unparsable" if value is None else "")
        if value is not None and how.thinks:
            value = min(max(value, how.clamp), 1 - how.clamp)
        told = tuple(thoughts[2 * i : 2 * i + 2]) if how.thinks else ()
        found.append(PreferenceLabel(value, principle.id, (read[2 * i], read[2 * i + 1]), told, fault))
    return found


def _thoughts(
    how: ComparisonConfig, pairs: Sequence[AnswerPair], parts: Sequence[Mapping[str, str]]
) -> tuple[list[str], list[str]]:
    """(the reasoning about each pair in each order, what is wrong with it)."""
    critic = how.critic
    form, shots = critic.constitution.format, critic.constitution.reasoning_shots
    asks = []
    for i, part in enumerate(parts):
        page = "".join(one.replace("{}", part["question"]) for one in shots) + form.reasoning.format(**part)
        said = page if critic.pages else f"{_plain(critic, part)}\n\n{_THINK}"
        seed = seed_of(how.seed, pairs[i // 2].number, i % 2, _THOUGHT)
        stop = form.stop if critic.pages else ()
        asks.append(
            Request(
                user(said),
                seed=seed,
                temperature=critic.temperature,
                max_new=critic.max_new,
                stop=stop,
                raw=critic.pages,
            )
        )
    replies = [each[0] for each in critic.model.generate(asks)]
    faults = [fault and f"reasoning {fault}" for fault in map(fault_of, replies)]
    return [reply.text.strip() for reply in replies], faults


def _letter_ask(how: ComparisonConfig, part: Mapping[str, str], thought: str) -> Request:
    critic = how.critic
    if not critic.pages:
        after = f"\n\n{thought}" if thought else ""
        said = f"{_plain(critic, part)}{after}\n\n{_CHOOSE}"
        return Request(user(said), temperature=0.0, max_new=TOLD, top_logprobs=TOP)
    form = critic.constitution.format
    page = form.verdict.format(**part, reasoning=thought) if thought else form.comparison.format(**part)
    before = "" if thought else _shots(how, part["question"])
    return Request(user(before + page), temperature=0.0, max_new=1, top_logprobs=TOP, raw=True)


def _shots(how: ComparisonConfig, question: str) -> str:
    """Examples with their letters, A and B in turn, so that none of the two is the likelier one."""
    page = how.critic.constitution.format.comparison
    return "".join(
        f"{page.format(conversation=said, question=question, first=first, second=second)}{letter})"
        for said, first, second, letter in _in_turn(how.critic)
    )


def _in_turn(critic: Critic) -> Iterator[tuple[str, str, str, str]]:
    """(conversation, first answer, second answer, letter of the better one) of the examples."""
    for i, (conversation, better, worse) in enumerate(critic.constitution.comparison_shots):
        yield conversation, *((better, worse) if i % 2 == 0 else (worse, better)), LETTERS[i % 2]


def _plain(critic: Critic, part: Mapping[str, str]) -> str:
    """The question for a chat, its examples before it."""
    form = "Consider this conversation:\n\n{conversation}\n\n{question}\n(A) {first}\n(B) {second}"
    told = []
    for conversation, first, second, letter in _in_turn(critic):
        shown = form.format(
            conversation=conversation.strip(), question=part["question"], first=first, second=second
        )
        told.append(f"{shown}\nThe better one is {letter}.\n\n")
    return "".join(told) + form.format(**part | {"conversation": part["conversation"].strip()})


def letter_probability(reply: Completion) -> float | None:
    """P(A) of P(A) + P(B), at the first token that is one of the letters; None where none is.

    A letter that is not among the likeliest tokens counts as likely as the least of them: a bound on what it is.
    """
    for token in reply.logprobs or ():
        if _bare(token.token) in LETTERS:
            return _share(token)
        if _bare(token.token):
            break
    first = reply.logprobs[0] if reply.logprobs else None
    return _share(first) if first is not None and first.top else None


def _bare(text: str) -> str:
    return text.strip(" \n(")


def _share(token: TokenLogprob) -> float | None:
    p = dict.fromkeys(LETTERS, 0.0)
    for text, logprob in token.top:
        if (name := _bare(text).removesuffix(")")) in p:
            p[name] += math.exp(logprob)
    if not any(p.values()):
        return None
    least = math.exp(min(logprob for _, logprob in token.top))
    a, b = (value or least for value in p.values())
    return a / (a + b)


def training_row(pair: AnswerPair, label: PreferenceLabel, prompt: Any, **more: Any) -> dict[str, Any]:
    """A comparison as `reward` and `dpo` read it: the likelier answer is chosen, p_win is its probability."""
    won = label.p_first >= 0.5
    chosen, rejected = (pair.first, pair.second) if won else (pair.second, pair.first)
    p = label.p_first if won else 1 - label.p_first
    kept = {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "p_win": round(p, 6),
        "principle": label.principle,
    }
    kept |= {"p_orders": [round(one, 6) for one in label.orders], "first_won": won, "pair": pair.number}
    return kept | ({"thoughts": list(label.thoughts)} if label.thoughts else {}) | more


def position_bias(found: Sequence[Sequence[float]]) -> dict[str, float]:
    """What the place of an answer decides, of P(A) in both orders of each pair.

    flip_rate and position_bias are those of judge.both_orders; letter_a is the share of the verdicts that name (A), ½
    where the answers alone decide.
    """
    if not found:
        return {}
    _, told = both_orders([tuple(one) for one in found], soft=True)
    verdicts = [1.0 if p > 0.5 else 0.5 * (p == 0.5) for one in found for p in one]
    return told | {"letter_a": sum(verdicts) / len(verdicts)}


def always_same_letter(told: Mapping[str, float]) -> bool:
    """Whether a model names one letter whatever stands there."""
    return bool(told) and max(told["letter_a"], 1 - told["letter_a"]) >= SURE
