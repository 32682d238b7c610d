"""Record formats of conversations, comparisons and prompts, and the types that they are read into.

A source has one format, detected from its first records in the order of CHAT, COMPARED or PROMPT, or named by
`?format=NAME` after it. A record that does not fit its source's format is a bad record.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from jaxtrain.config import ConfigError
from jaxtrain.data import completions_db
from jaxtrain.data.bad_records import Skips, is_unicode
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records

T = TypeVar("T")
Record = Mapping[str, Any]
# role (system, user, assistant, tool), content (str) and whatever else the record's message has; one whose
# "train" is false or "weight" 0 is not in the loss.
Message = dict[str, Any]

_FIRST = 16  # records that a format is detected from
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
}
_ROLES |= {"function_call": "assistant", "function": "tool", "observation": "tool", "ipython": "tool"}
ROLES = ("system", "user", "assistant", "tool")
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class BadRecord(ValueError):
    """A record that cannot be used. The message is the reason; up to its first colon it names the kind."""


class Dialog(NamedTuple):
    """A conversation with the loss on its assistant turns."""

    messages: tuple[Message, ...]


class Text(NamedTuple):
    """A text with the loss on every token."""

    text: str


class Comparison(NamedTuple):
    """Completions of one prompt, best first by `rank`: 0 is the best, equal ranks are ties."""

    prompt: tuple[Message, ...]
    completions: tuple[str, ...]
    rank: tuple[int, ...]
    p_win: float | None  # probability that the first of two completions is the better one, where known
    margin: float  # by how much the first should win, in units of reward


class JudgedCompletion(NamedTuple):
    """A completion with the label desirable or not."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool


class RecordFormat(NamedTuple):
    """A format: `fits` says whether a record has the fields that `shape` describes; `read` raises BadRecord."""

    name: str
    shape: str
    fits: Callable[[Record], bool]
    read: Callable[[Record], Any]
    unless: str = ""  # a field with which the format must be named


def text_of(value: Any, what: str) -> str:
    """`value`, where it is text that UTF-8 can write; else raises BadRecord."""
    if not isinstance(value, str):
        raise BadRecord(f"no text: {what} is not a string but {type(value).__name__}")
    if not is_unicode(value):
        raise BadRecord(f"no text: {what} holds half a surrogate pair")
    return value


def completion_of(value: Any, what: str) -> str:
    """The completion's text: a string, or a list of one assistant message. Raises BadRecord where it is empty."""
    if isinstance(value, list | dict):
        messages = messages_of(value, what)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise BadRecord(f"wrong roles: {what} is not one assistant message")
        value = messages[0]["content"]
    if not text_of(value, what).strip():
        raise BadRecord(f"empty completion: {what} holds nothing but white space")
    return value


def messages_of(value: Any, what: str) -> tuple[Message, ...]:
    """The messages of a list with role and content, or from and value; raises BadRecord."""
    if isinstance(value, dict):  # TFDS and older HF data sets keep a list of objects as an object of lists
        if not all(isinstance(column, list) for column in value.values()):
            raise BadRecord(f"no messages: {what} is not a list of messages")
        value = [dict(zip(value, one, strict=True)) for one in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not value:
        raise BadRecord(f"no messages: {what} is not a list of messages, or an empty one")
    return tuple(_message(one, f"{what}[{i}]") for i, one in enumerate(value))


def _message(value: Any, what: str) -> Message:
    if not isinstance(value, dict):
        raise BadRecord(f"no messages: {what} is not an object with role and content")
    role = value.get("role", value.get("from"))
    known = _ROLES.get(role, role) if isinstance(role, str) else None
    if known not in ROLES:
        raise BadRecord(f"unknown role: {what} has {role!r}; known are {', '.join((*ROLES, *_ROLES))}")
    content = value.get("content", value.get("value"))
    if isinstance(content, list):
        content = _joined(content, what)
    others = {k: v for k, v in value.items() if k not in ("role", "from", "content", "value")}
    if content is None and others.get("tool_calls"):
        content = ""
    content = text_of(content, f"content of {what}")
    if known == "assistant" and not content.strip() and not others.get("tool_calls") and in_loss(others):
        raise BadRecord(f"empty completion: {what} holds nothing but white space")
    return {"role": known, "content": content, **others}


def _joined(parts: list[Any], what: str) -> str:
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise BadRecord(f"no text: content of {what} has a part that is not of type text")
    return "".join(text_of(part.get("text"), f"content of {what}") for part in parts)


def in_loss(message: Message) -> bool:
    """Whether an assistant's message is in the loss. Raises BadRecord for a weight between 0 and 1."""
    weight = message.get("weight", 1)
    weight = 1 if weight is None else weight
    if weight not in (0, 1):
        raise BadRecord(f"unknown weight: {weight!r}; a message is in the loss (1) or not (0)")
    return bool(weight) and message.get("train", True) is not False


def user(text: Any, what: str = "prompt") -> tuple[Message, ...]:
    """The messages of a prompt that is a text or messages."""
    if isinstance(text, list | dict):
        return messages_of(text, what)
    return ({"role": "user", "content": text_of(text, what)},)


def _dialog(messages: tuple[Message, ...]) -> Dialog:
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRecord("no assistant turn: there is nothing to train on")
    return Dialog(messages)


def _prompt_completion(record: Record) -> Dialog:
    prompt = tuple({**m, "train": False} for m in user(record["prompt"]))
    value = record["completion"]
    messages = messages_of(value, "completion") if isinstance(value, list | dict) else ()
    return _dialog(
        prompt + (messages or ({"role": "assistant", "content": completion_of(value, "completion")},))
    )


def _instruction(record: Record) -> Dialog:
    answer = "response" if "response" in record else "output"
    prompt = text_of(record["instruction"], "instruction")
    if context := text_of(record.get("input") or "", "input").strip():
        prompt = f"{prompt}\n\n{context}"
    completion = {"role": "assistant", "content": completion_of(record[answer], answer)}
    return Dialog((*user(prompt), completion))


def _stored(record: Record) -> Dialog:
    prompt, answer, wrong = completions_db.prompt_and_answer(record)
    if wrong:
        raise BadRecord(wrong)
    messages = tuple({**message, "train": False} for message in user(prompt, "input"))
    return Dialog((*messages, *messages_of([answer], "message")))


def _chosen(record: Record) -> Comparison:
    pair = [record["chosen"], record["rejected"]]
    if all(isinstance(one, str) for one in pair) and "prompt" not in record:
        prompt, pair = _hh(*(text_of(one, "chosen or rejected") for one in pair))
    elif "prompt" not in record:
        whole = [messages_of(one, name) for one, name in zip(pair, ("chosen", "rejected"), strict=True)]
        prompt = whole[0][:-1]
        if not prompt or whole[1][:-1] != prompt:
            raise BadRecord("no common prompt: chosen and rejected differ before their last turn")
        pair = [list(one[-1:]) for one in whole]
    else:
        prompt = user(record["prompt"])
        pair = [_last(one, prompt) for one in pair]
    completions = (completion_of(pair[0], "chosen"), completion_of(pair[1], "rejected"))
    return Comparison(prompt, completions, (0, 1), _probability(record), _margin(record))


def _preferred(pair: Comparison) -> Dialog:
    return Dialog((*pair.prompt, {"role": "assistant", "content": pair.completions[0]}))


def _last(value: Any, prompt: tuple[Message, ...]) -> Any:
    """The completion of what may be the whole conversation."""
    if not isinstance(value, list | dict):
        return value
    messages = messages_of(value, "chosen or rejected")
    if len(messages) > 1 and messages[:-1] != prompt:
        raise BadRecord("no common prompt: chosen or rejected does not start with prompt")
    return list(messages[-1:])


def _hh(*pair: str) -> tuple[tuple[Message, ...], list[str]]:
    """(prompt, completions) of two texts whose turns start with Human: and Assistant:."""
    same = next((i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), min(map(len, pair)))
    end = pair[0].rfind(_ASSISTANT, 0, same)
    if end < 0 or not pair[0].startswith(_HUMAN):
        raise BadRecord(
            f"no common prompt: there is no prompt, and the texts are not {_HUMAN!r} … {_ASSISTANT!r} …"
        )
    end += len(_ASSISTANT)
    rest = [one[end:].removeprefix(" ") for one in pair]
    if any(mark in one for mark in (_HUMAN, _ASSISTANT) for one in rest):
        raise BadRecord("no common prompt: chosen and rejected differ before their last turn")
    messages = []
    for turn in pair[0][: end - len(_ASSISTANT)].split(_HUMAN)[1:]:
        content, *answers = turn.split(_ASSISTANT)
        messages.append({"role": "user", "content": content.removeprefix(" ")})
        messages += [{"role": "assistant", "content": answer.removeprefix(" ")} for answer in answers]
    return tuple(messages), rest


def _responses(record: Record) -> Comparison:
    """The better response first; the record's `p_win` is that of response_a."""
    prompt = user(record["prompt"])
    a, b = (completion_of(record[name], name) for name in ("response_a", "response_b"))
    p = _probability(record)
    preferred = record.get("preferred", "a" if p is None or p > 0.5 else "tie" if p == 0.5 else "b")
    better = preferred.strip().lower() if isinstance(preferred, str) else preferred
    if better not in ("a", "b", "tie"):
        raise BadRecord(f"unknown preference: preferred is {preferred!r}, not a, b or tie")
    if better == "b":
        a, b, p = b, a, None if p is None else 1 - p
    return Comparison(prompt, (a, b), (0, 0) if better == "tie" else (0, 1), p, _margin(record))


def _ranked(record: Record) -> Comparison:
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
    order = sorted(range(len(texts)), key=lambda i: ranking[i])
    steps = sorted(set(ranking))
    ranks = tuple(steps.index(ranking[i]) for i in order)
    return Comparison(user(record["prompt"]), tuple(texts[i] for i in order), ranks, None, _margin(record))


def _judged(record: Record) -> JudgedCompletion:
    label = record["label"]
    if label not in (0, 1):
        raise BadRecord(f"unknown label: {label!r}, not true or false")
    return JudgedCompletion(
        user(record["prompt"]), completion_of(record["completion"], "completion"), bool(label)
    )


def _probability(record: Record) -> float | None:
    p = record.get("p_win")
    if p is not None and not (isinstance(p, int | float) and 0 <= p <= 1):
        raise BadRecord(f"unknown preference: p_win is {p!r}, not a probability")
    return p


def _margin(record: Record) -> float:
    margin = record.get("margin")
    if margin is not None and not (isinstance(margin, int | float) and math.isfinite(margin)):
        raise BadRecord(f"unknown margin: {margin!r} is not a finite number")
    return float(margin or 0)


def _has(*names: str, one_of: Sequence[str] = ()) -> Callable[[Record], bool]:
    return lambda record: (
        all(name in record for name in names) and (not one_of or any(name in record for name in one_of))
    )


def _text_format(field: str = "text") -> RecordFormat:
    return RecordFormat("text", field, _has(field), lambda record: Text(text_of(record.get(field), field)))


# A stored completion may have the messages of its prompt: they are not in the loss.
_MESSAGES = RecordFormat(
    "messages",
    "messages",
    _has("messages"),
    lambda r: _dialog(messages_of(r["messages"], "messages")),
    unless="choices",
)
_SHAREGPT = RecordFormat(
    "conversations",
    "conversations",
    _has("conversations"),
    lambda r: _dialog(messages_of(r["conversations"], "conversations")),
)
_STORED = RecordFormat("stored", "choices, and input, messages or request", _has("choices"), _stored)
# A labelled completion may be a bad one: no demonstration unless the format is named.
_COMPLETION = RecordFormat(
    "completion", "prompt, completion", _has("prompt", "completion"), _prompt_completion, unless="label"
)
_INSTRUCTION = RecordFormat(
    "instruction",
    "instruction, response or output (and input)",
    _has("instruction", one_of=["response", "output"]),
    _instruction,
)
# The better of two completions may be a bad one too.
_PREFERRED = RecordFormat(
    "preferred",
    "chosen, rejected (and prompt), of which chosen is trained on",
    _has("chosen", "rejected"),
    lambda r: _preferred(_chosen(r)),
    unless="rejected",
)
CHAT = (_MESSAGES, _SHAREGPT, _COMPLETION, _INSTRUCTION, _PREFERRED, _STORED)  # then text
COMPARED = (
    RecordFormat("chosen", "chosen, rejected (and prompt)", _has("chosen", "rejected"), _chosen),
    RecordFormat(
        "responses",
        "prompt, response_a, response_b, preferred or p_win",
        _has("prompt", "response_a", "response_b", one_of=["preferred", "p_win"]),
        _responses,
    ),
    RecordFormat("ranked", "prompt, completions, ranking", _has("prompt", "completions", "ranking"), _ranked),
    RecordFormat("judged", "prompt, completion, label", _has("prompt", "completion", "label"), _judged),
)
PROMPT = (
    *CHAT,
    *COMPARED,
    RecordFormat("prompt", "prompt", _has("prompt"), lambda r: Dialog(user(r["prompt"]))),
)


def chat(field: str) -> tuple[RecordFormat, ...]:
    """CHAT, with `field` as the one that holds plain text."""
    return (*CHAT, _text_format(field))


def detect(
    records: Records, source: DataSource, known: Sequence[RecordFormat], flag: str = "data"
) -> RecordFormat:
    """The first of `known` that the first record fits that fits any, or the one that ?format= names.

    Raises ConfigError, with the fields and the formats, where there is none.
    """
    shapes = "; ".join(f"{one.name} ({one.shape})" for one in known)
    if name := source.option("format"):
        if named := [one for one in known if one.name == name]:
            return named[0]
        raise ConfigError(f"--{flag}={source.label}?format={name}: not read here; choose one of {shapes}")
    first = records.many(range(min(_FIRST, len(records))))
    for record in first:
        for one in known:
            if one.fits(record) and not (one.unless and one.unless in record):
                return one
    fields = ", ".join(sorted(set().union(*first)))
    raise ConfigError(
        f"--{flag}={source.label}: its records have the fields {fields}; known formats: {shapes}"
    )


def each(
    records: Records,
    form: RecordFormat,
    skips: Skips,
    make: Callable[[Any], T],
    advance: Callable[[int], None],
) -> Iterator[tuple[int, T]]:
    """(number, result of `make`) of each record; where reading or `make` raises BadRecord, it goes to `skips`."""
    for start, block in records.blocks():
        for i, record in enumerate(block, start):
            where = f"{records.label} record {records.source_number(i)}"
            try:
                result = make(read(record, form))
            except BadRecord as error:
                skips.bad(where, str(error))
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
            else:
                yield i, result
        advance(len(block))


def read(record: Record, form: RecordFormat) -> Any:
    """The record read by its format; raises BadRecord."""
    if not form.fits(record):
        there = ", ".join(map(str, record)) or "none"
        raise BadRecord(
            f"other fields: the source's format is {form.name} ({form.shape}), the record has {there}"
        )
    return form.read(record)
