"""Comparisons from records: the completions of one prompt with their ranks, or one with a label."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.data.conversations import ANSWERS, PROMPTS, TURNS, Dialog, hh_pair, prompt_of, with_own_system
from jaxtrain.data.messages import (
    BadRecord,
    Message,
    answer_message,
    check_calls,
    completion_of,
    is_number,
    messages_of,
    text_of,
)
from jaxtrain.data.record_fields import RecordFields, template_kwargs

CHOSEN = ("chosen", "chosen_response", "response_j", "preferred_output")
REJECTED = ("rejected", "rejected_response", "response_k", "non_preferred_output")
_SCORES = ("overall_score", "score", "rating")  # of a completion, the highest is the best
FIRST, SECOND = ("response_a", "conversation_a"), ("response_b", "conversation_b")
VERDICTS = ("preferred", "winner")
LABELS = ("label", "kto_tag")
_SAME = {"model_a": "a", "model_b": "b", "tie (bothbad)": "tie"}
_GOLD = ("family", "reward_chosen", "reward_rejected")  # read by the evaluation of a reward model
_TEXTS = ("response", "answer", "text", "content", "completion")  # a completion's text beside them


class Comparison(NamedTuple):
    """Completions of one prompt, best first by `rank`: 0 is the best, equal ranks are ties."""

    prompt: tuple[Message, ...]
    completions: tuple[str | Message, ...]
    rank: tuple[int, ...]
    p_win: float | None  # probability that the first of two completions is the better one, where known
    margin: float | None  # by how much the first should win, in units of reward, where the record says
    template_kwargs: Mapping[str, Any] = {}


class JudgedCompletion(NamedTuple):
    """A completion with the label desirable or not."""

    prompt: tuple[Message, ...]
    completion: str | Message
    label: bool
    template_kwargs: Mapping[str, Any] = {}


def chosen(record: RecordFields) -> Comparison:
    """A chosen and a rejected completion; each may be the whole conversation."""
    names = (record.first(CHOSEN), record.first(REJECTED))
    pair: Sequence[Any] = [record[name] for name in names]
    variables: dict[str, Any] = {}
    if _has_request(record):
        request = RecordFields(record.peek("input"))
        prompt = messages_of(request["messages"], "input.messages")
        variables = template_kwargs(request)
        for used in ("messages", *(("tools",) if "tools" in variables else ())):
            record.use("input", used)
        pair = [_last(one, prompt) for one in pair]
    elif record.first(PROMPTS):
        prompt, pair = _whole(pair, names, prompt_of(record), record)
    elif (name := record.first((*TURNS, "messages"))) and all(map(_is_one, pair)):
        prompt = with_own_system(messages_of(record[name], name), record)
    elif all(isinstance(one, str) for one in pair):
        prompt, pair = hh_pair(*(text_of(one, "chosen or rejected") for one in pair))
        prompt = with_own_system(prompt, record)
    else:
        prompt, pair = _shared(pair, names, record)
    completions = (completion_of(pair[0], names[0]), completion_of(pair[1], names[1]))
    check_calls([answer_message(completions[0])])  # a rejected completion may have what is no call
    variables = variables or template_kwargs(record)
    for name in _GOLD:
        record.use(name)
    return Comparison(prompt, completions, (0, 1), _probability(record), _margin(record), variables)


def preferred(record: RecordFields) -> Dialog:
    """The chosen completion of a pair as a demonstration."""
    pair = chosen(record)
    return Dialog((*pair.prompt, answer_message(pair.completions[0])), pair.template_kwargs)


def _is_one(value: Any) -> bool:
    """Whether a completion is by itself, without its prompt."""
    return isinstance(value, Mapping) or (isinstance(value, list) and len(value) == 1)


def _has_request(record: RecordFields) -> bool:
    """Whether a record's input is a request's object, with messages."""
    request = record.peek("input")
    return isinstance(request, Mapping) and "messages" in request


def _whole(
    pair: Sequence[Any], names: tuple[str, str], prompt: tuple[Message, ...], record: RecordFields
) -> tuple[tuple[Message, ...], list[Any]]:
    """(prompt, completions) where chosen and rejected may be whole conversations that start with the prompt.

    They may have more of it than the field that holds the prompt: a system message, or turns before or after it.
    """
    read = [
        messages_of(one, name) if isinstance(one, list | Mapping) else None
        for one, name in zip(pair, names, strict=True)
    ]
    before = [one[:-1] for one in read if one is not None and len(one) > 1]
    if before:
        questions = [one["content"] for one in before[0] if one["role"] == "user"]
        asked = prompt[-1]["content"] if prompt else None
        if any(_bare(one) != _bare(prompt) for one in before):
            alone = [one for one in _bare(prompt) if one[0] == "user"] == _bare(prompt)
            if before[0] != before[-1] or len(before) < 2 or not alone or asked not in questions:
                raise BadRecord(
                    "no common prompt: chosen or rejected does not start with prompt, or they differ before their "
                    "last turn"
                )
            prompt = with_own_system(before[0], record)
        elif len(before[0]) > len(_bare(before[0])):  # they have the system message
            prompt = before[0]
    return prompt, [
        one if messages is None else list(messages[-1:]) for one, messages in zip(pair, read, strict=True)
    ]


def _shared(
    pair: Sequence[Any], names: tuple[str, str], record: RecordFields
) -> tuple[tuple[Message, ...], list[Any]]:
    """(prompt, completions) of two whole conversations that differ in their last turn."""
    whole = [messages_of(one, name) for one, name in zip(pair, names, strict=True)]
    prompt = whole[0][:-1]
    if not prompt or whole[1][:-1] != prompt:
        raise BadRecord(f"no common prompt: {names[0]} and {names[1]} differ before their last turn")
    return with_own_system(prompt, record), [list(one[-1:]) for one in whole]


def _bare(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """(role, content) of each message that is no system message."""
    return [(m["role"], m["content"]) for m in messages if m["role"] not in ("system", "developer")]


def _last(value: Any, prompt: tuple[Message, ...]) -> Any:
    """The completion of what may be the whole conversation."""
    if not isinstance(value, list | Mapping):
        return value
    messages = messages_of(value, "chosen or rejected")
    if len(messages) > 1 and messages[:-1] != prompt:
        raise BadRecord("no common prompt: chosen or rejected does not start with prompt")
    return list(messages[-1:])


def responses(record: RecordFields) -> Comparison:
    """The better of two responses first; the record's `p_win` is that of response_a.

    Each may be a whole conversation, without a prompt beside them.
    """
    names = (record.first(FIRST), record.first(SECOND))
    pair: Sequence[Any] = [record[name] for name in names]
    prompt, pair = _whole(pair, names, prompt_of(record), record) if record.first(PROMPTS) else _shared(
        pair, names, record
    )  # fmt: skip
    a, b = (completion_of(one, name) for one, name in zip(pair, names, strict=True))
    p = _probability(record)
    name = record.first(VERDICTS)
    given = record.get(name)
    if given is None and p is not None:
        given = "a" if p > 0.5 else "tie" if p == 0.5 else "b"
    better = _SAME.get(given.strip().lower(), given.strip().lower()) if isinstance(given, str) else given
    if better not in ("a", "b", "tie"):
        raise BadRecord(f"unknown preference: {name or 'preferred'} is {given!r}, not a, b or tie")
    if better == "b":
        a, b, p = b, a, None if p is None else 1 - p
    rank = (0, 0) if better == "tie" else (0, 1)
    return Comparison(prompt, (a, b), rank, p, _margin(record), template_kwargs(record))


def ranked(record: RecordFields) -> Comparison:
    """Completions with the rank of each, 1 the best."""
    completions, ranking = record["completions"], record["ranking"]
    if not isinstance(completions, list) or not isinstance(ranking, list):
        raise BadRecord("no ranking: completions and ranking must be lists")
    legal = all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranking)
    if len(ranking) != len(completions) or len(ranking) < 2 or not legal or min(ranking) != 1:
        raise BadRecord(
            f"no ranking: {ranking!r} for {len(completions)} completions; ranking[i] is the rank of "
            "completions[i], 1 the best, equal ones are ties"
        )
    texts = [completion_of(one, f"completions[{i}]") for i, one in enumerate(completions)]
    return comparison(record, prompt_of(record), texts, ranking)


def comparison(
    record: RecordFields,
    prompt: tuple[Message, ...],
    texts: Sequence[str | Message],
    ranking: Sequence[float],
) -> Comparison:
    """The comparison of completions by their ranks, the lowest the best."""
    order = sorted(range(len(texts)), key=lambda i: ranking[i])
    steps = sorted(set(ranking))
    ranks = tuple(steps.index(ranking[i]) for i in order)
    completions = tuple(texts[i] for i in order)
    return Comparison(prompt, completions, ranks, None, _margin(record), template_kwargs(record))


def has_marks(record: RecordFields) -> bool:
    """Whether a record's answers or completions are objects that have a rank or score each."""
    return bool(record.first(PROMPTS)) and bool(_marks(record)[0])


def _marks(record: RecordFields) -> tuple[str, str]:
    """(the field with the completions, the name of the rank or score of each), empty where there are none."""
    for field in ("answers", "completions", "responses"):
        several = record.peek(field)
        first = several[0] if isinstance(several, list) and several else None
        marks = [name for name in ("rank", *_SCORES) if name in first] if isinstance(first, Mapping) else []
        if marks:
            return field, marks[0]
    return "", ""


def marked(record: RecordFields) -> Comparison:
    """Completions that are objects with a text and a rank (1 the best) or a score (the highest the best)."""
    field, mark = _marks(record)
    several = record[field]
    if len(several) < 2 or not all(isinstance(one, Mapping) for one in several):
        raise BadRecord(f"no ranking: {field} is not a list of two objects or more")
    texts, values = [], []
    for i, one in enumerate(several):
        name = next((name for name in _TEXTS if name in one), _TEXTS[0])
        texts.append(completion_of(one.get(name), f"{name} of {field}[{i}]"))
        values.append(_finite(one.get(mark), f"{mark} of {field}[{i}]"))
    return comparison(record, prompt_of(record), texts, values if mark == "rank" else [-v for v in values])


def _finite(value: Any, what: str) -> float:
    if not is_number(value):
        raise BadRecord(f"no ranking: {what} is {repr(value)[:40]}, not a number")
    return value


def judged(record: RecordFields) -> JudgedCompletion:
    """A completion with the label true or false; it may be the last message of a conversation."""
    label, name = record[record.first(LABELS)], record.first(ANSWERS)
    if label not in (0, 1):
        raise BadRecord(f"unknown label: {label!r}, not true or false")
    if record.first(PROMPTS):
        prompt, completion = prompt_of(record), record[name]
    else:
        name = record.first(("messages", *TURNS))
        *before, completion = messages_of(record[name], name)
        if not before:
            raise BadRecord(f"no prompt: {name} has one message alone")
        prompt = with_own_system(tuple(before), record)
    return JudgedCompletion(prompt, completion_of(completion, name), bool(label), template_kwargs(record))


def is_judged(record: RecordFields) -> bool:
    """Whether a record has a completion and a label; that of a conversation must be true or false."""
    label = record.peek(record.first(LABELS))
    has_completion = record.first(PROMPTS) and record.first(ANSWERS[:3])
    return label is not None and bool(
        has_completion or (record.first(("messages", *TURNS)) and isinstance(label, bool))
    )


def _probability(record: RecordFields) -> float | None:
    p = record.get("p_win")
    if p is not None and not (is_number(p) and 0 <= p <= 1):
        raise BadRecord(f"unknown preference: p_win is {repr(p)[:40]}, not a probability")
    return p


def _margin(record: RecordFields) -> float | None:
    margin = record.get("margin")
    if margin is not None and not is_number(margin):
        raise BadRecord(f"unknown margin: {repr(margin)[:40]} is not a finite number")
    return None if margin is None else float(margin)
