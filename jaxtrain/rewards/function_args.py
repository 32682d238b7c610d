"""What a reward function is called with: prompts and completions as texts or messages, the records' columns, and more.

The arguments are TRL's: prompts, completions, completion_ids, a column for each field of the records, trainer_state,
log_extra and log_metric. TRL gives texts where a data set has texts, and lists of messages where it has conversations.
A function here says which it wants; where it does not, it gets texts whose items by number also have a message's keys,
so that `len(completion)` and `completion[0]["content"]` are both what their authors meant.
"""

import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtrain.config import Failure
from jaxtrain.data.messages import Message
from jaxtrain.data.prompts import question

QUOTED = 40  # characters of a prompt in a message
OURS = ("prompts", "completions", "messages")  # what every function gets beside the records' fields
LOGS = ("log_extra", "log_metric")
STATE = "trainer_state"
IDS = "completion_ids"
_PREFIXES = (
    "objective/",
    "completions/",
    "judge/",
    "rewards/",
    "policy/",
    "val/",
)  # of the run's own metrics
_MESSAGES = re.compile(r"dict|Mapping|Message|list\[list", re.IGNORECASE)


class TrainerState(NamedTuple):
    """How far training is, by TRL's names."""

    global_step: int = 0
    max_steps: int = 0
    epoch: float = 0.0  # over the prompts
    is_world_process_zero: bool = True


class TextItem(str):
    """A character of a text, or none, which has the keys of a message too."""

    def __new__(cls, text: str, message: Message):
        item = super().__new__(cls, text)
        item._message = message
        return item

    def __getnewargs__(self):
        return str(self), self._message

    def __getitem__(self, key: Any) -> Any:
        return self._message[key] if isinstance(key, str) else super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The message's field, as of a dict."""
        return self._message.get(key, default)


class MessageText(str):
    """A text, whose items by number also have the keys of its messages: text[0]["content"]."""

    def __new__(cls, text: str, messages: Sequence[Message]):
        whole = super().__new__(cls, text)
        whole._messages = tuple(messages)
        return whole

    def __getnewargs__(self):
        return str(self), self._messages

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int) or not -len(self._messages) <= key < len(self._messages):
            return super().__getitem__(key)
        inside = -len(self) <= key < len(self)
        return TextItem(super().__getitem__(key) if inside else "", self._messages[key])


class Scored(NamedTuple):
    """What is scored: conversations, the completions of them, and the records that they are from, all of B items."""

    conversations: Sequence[Sequence[Message]]
    completions: Sequence[str]
    records: Sequence[Mapping[str, Any]]
    ids: Sequence[Sequence[int]] | None = None  # of the completions' tokens
    state: TrainerState | None = None  # in training alone

    def names(self) -> set[str]:
        """The arguments that a function can be given."""
        return available(
            {name for record in self.records for name in record}, self.ids is not None, self.state
        )

    def row_label(self, row: int) -> str:
        """A row as messages name it."""
        prompt = " ".join(question(self.conversations[row]).split())
        return f"row {row} ({prompt[:QUOTED]}{'…' if len(prompt) > QUOTED else ''})"


def available(fields: set[str], has_ids: bool, state: object | None) -> set[str]:
    """The arguments that a function can be given, with records of these fields."""
    return {*fields, *OURS, *LOGS} | ({IDS} if has_ids else set()) | ({STATE} if state is not None else set())


class Logs(NamedTuple):
    """What functions log: columns of the table of completions, and numbers."""

    extra: dict[str, list[Any]]
    metrics: dict[str, list[float]]

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Adds a column of the table of completions, a value a completion."""
        self.extra.setdefault(str(column), []).extend(values)

    def log_metric(self, name: str, value: Any) -> None:
        """Adds a number, which is reported as the metric `name`."""
        value = value.item() if hasattr(value, "item") else value
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise TypeError(f"log_metric({name!r}, ...): {value!r} is not a finite number")
        if str(name).startswith(_PREFIXES):
            raise ValueError(f"log_metric({name!r}, ...): the run has metrics of its own with this prefix")
        self.metrics.setdefault(str(name), []).append(float(value))

    def checked(self, rows: int) -> "Logs":
        """The logs. Raises Failure for a column that has not one value a completion."""
        for column, values in self.extra.items():
            if len(values) != rows:
                raise Failure(f"log_extra({column!r}, ...) had {len(values)} values for {rows} completions")
        return self


def annotated_format(function: Callable) -> str:
    """The format that a function's annotation of `completions` asks for, text or messages; auto where it has none."""
    parameter = inspect.signature(function).parameters.get("completions")
    if parameter is None or parameter.annotation is parameter.empty:
        return "auto"
    text = parameter.annotation if isinstance(parameter.annotation, str) else str(parameter.annotation)
    if _MESSAGES.search(text):
        return "messages"
    return "text" if "str" in text else "auto"


def arguments(function: Callable, form: str, scored: Scored, rows: slice, logs: Logs) -> dict[str, Any]:
    """The arguments of a call for some rows: all of them for a function with **columns, else what it names."""
    fields = dict.fromkeys(name for record in scored.records for name in record)
    columns: dict[str, Any] = {name: [record.get(name) for record in scored.records[rows]] for name in fields}
    conversations, completions = scored.conversations[rows], scored.completions[rows]
    replies = [[{"role": "assistant", "content": text}] for text in completions]
    questions = [question(each) for each in conversations]
    prompts, answers = {
        "text": (questions, list(completions)),
        "messages": ([list(each) for each in conversations], replies),
        "auto": (
            [MessageText(*pair) for pair in zip(questions, conversations, strict=True)],
            [MessageText(*pair) for pair in zip(completions, replies, strict=True)],
        ),
    }[form]
    columns |= dict(zip(OURS, (prompts, answers, [list(each) for each in conversations]), strict=True))
    columns |= {"log_extra": logs.log_extra, "log_metric": logs.log_metric}
    if scored.ids is not None:
        columns[IDS] = [list(map(int, each)) for each in scored.ids[rows]]
    if scored.state is not None:
        columns[STATE] = scored.state
    parameters = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return columns
    return {name: column for name, column in columns.items() if name in parameters}


def missing(function: Callable, names: set[str]) -> list[str]:
    """The parameters that a function needs and is not given."""
    return [
        name
        for name, each in inspect.signature(function).parameters.items()
        if each.default is each.empty
        and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and name not in names
    ]
