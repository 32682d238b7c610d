"""Rewards of completions from Python functions, the user's own, TRL's, or those of Tinytown's judge."""

import asyncio
import dataclasses
import functools
import inspect
import math
import numbers
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain import worlds
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.messages import Message
from jaxtrain.rewards import (
    classifier,
    function_args,
    function_import,
    ifeval,
    math_answers,
    reward_spec,
    text_patterns,
    unit_tests,
    verifier,
)
from jaxtrain.rewards.function_args import Logs, Scored
from jaxtrain.rewards.reward_spec import RewardPart
from jaxtrain.rewards.verifier import VerifiedReward, Verifier

LARGEST = float(np.finfo(np.float32).max)
FORMATS = ("auto", "text", "messages")
# What a function that takes messages raises where it gets a text.
_NO_MESSAGES = (TypeError, AttributeError, KeyError)


@dataclasses.dataclass
class RewardFunction:
    """A function of lists, called by keyword, (prompts, completions, **columns) -> a number or None a completion.

    It may be a coroutine function. `format` is what it gets prompts and completions as: texts, messages, or with auto
    texts with a message's keys (function_args) until it turns out that it takes messages.
    """

    name: str
    call: Callable[..., Any]
    format: str = "auto"
    weight: float = 1.0
    flag: str = "reward"  # that named it

    def __post_init__(self):
        if self.format == "auto":
            self.format = function_args.annotated_format(self.call)

    @property
    def label(self) -> str:
        """The function as messages name it."""
        return f"--{self.flag}={self.name}"


class WeightedReward(NamedTuple):
    """The weighted sum of functions, as --reward names them."""

    name: str
    functions: tuple[RewardFunction, ...]


class RewardScores(NamedTuple):
    """Rewards f32[B], NaN where no function applies; those of each function; what the functions log."""

    total: np.ndarray
    by_function: dict[str, np.ndarray]
    logs: Logs


def _gold(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    return [worlds.get().gold(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]


def _correct(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    pairs = zip(prompts, completions, strict=True)
    return [float(worlds.get().judge(prompt, text).correct) for prompt, text in pairs]


NAMED: Mapping[str, Callable[..., list[float]]] = {
    "gold": _gold,  # Tinytown's true reward
    "correct": _correct,  # 1 where Tinytown's judge finds right steps or the right value, else 0
}
VERIFIERS: Mapping[str, Verifier] = {
    "math": math_answers.REWARD,
    "format": text_patterns.FORMAT,
    "regex": text_patterns.REGEX,
    "ifeval": ifeval.REWARD,
    "code": unit_tests.REWARD,
}
SHIPPED = (*NAMED, *VERIFIERS, classifier.NAME)


def resolve(text: str, flag: str = "reward") -> WeightedReward:
    """The reward that --`flag` names: REWARD[,REWARD ...], each NAME[?key=value][*WEIGHT].

    A NAME is one of SHIPPED, MODULE:FUNCTION, or PATH/TO/FILE.py:FUNCTION (reward_spec has the grammar); a module is
    looked for in the current folder first. Raises ConfigError where there is no such function, its module fails, it
    cannot be called by keyword, an option is none, or a package is missing.
    """
    label = f"--{flag}={text}"
    parts = reward_spec.parts(text, SHIPPED, label)
    if not parts:
        quoted = "; a value with , * or & stands between double quotes" if "?" in text else ""
        raise ConfigError(f"{label}: write {', '.join(SHIPPED)}, MODULE:FUNCTION or FILE.py:FUNCTION{quoted}")
    return WeightedReward(text, tuple(_resolved(flag, label, part) for part in parts))


def names_functions(text: str) -> bool:
    """Whether a text has the form of what `resolve` takes, which a path of a run can have too."""
    return bool(reward_spec.parts(text, SHIPPED, text))


def _resolved(flag: str, label: str, part: RewardPart) -> RewardFunction:
    name, options = part.name, part.options
    if name in VERIFIERS:
        call = verifier.configured(name, VERIFIERS[name], options, label)
        return RewardFunction(call.name, call, "text", part.weight, flag)
    if name == classifier.NAME:
        scorer = classifier.configured(options, label)
        return RewardFunction(scorer.name, scorer, "text", part.weight, flag)
    if other := [key for key, _ in options if key != "format"]:
        raise ConfigError(f"{label}: {name} has no option {other[0]}; it has format")
    form = dict(options).get("format", "")
    if form and form not in FORMATS:
        raise ConfigError(f"{label}: ?format={form} is none of {', '.join(FORMATS)}")
    if name in NAMED:
        return RewardFunction(name, NAMED[name], "text", part.weight, flag)
    module, _, function = name.rpartition(":")
    result = function_import.module_of(label, module)
    for attribute in function.split("."):
        if not hasattr(result, attribute):
            raise ConfigError(f"{label}: {_described(result)} has no {attribute}")
        result = getattr(result, attribute)
    if inspect.isclass(result) or not callable(result):
        instance = f": name an instance, such as {attribute.lower()} = {attribute}()"
        hint = instance if inspect.isclass(result) else ""
        raise ConfigError(f"{label}: it is {_type(result)}, not a function{hint}")
    try:
        inspect.signature(result).bind_partial(completions=[])
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{label}: it does not take completions by keyword ({error}): "
            "write def reward(prompts, completions, **columns)"
        ) from error
    return RewardFunction(name, result, form or "auto", part.weight, flag)


def check_arguments(reward: WeightedReward, names: set[str], source: str) -> None:
    """Raises ConfigError for a function that needs an argument which it cannot be given; `source` has the records."""
    for function in reward.functions:
        lacks = ", ".join(function_args.missing(function.call, names))
        if isinstance(function.call, VerifiedReward):
            lacks = lacks or function.call.lacks(names)
        if lacks:
            raise ConfigError(
                f"{function.label}: it needs {lacks}, which {source} does not have; there are "
                f"{', '.join(sorted(names))}{getattr(function.call, 'column_hint', '')}"
            )


def reward_scores(
    reward: WeightedReward | RewardFunction,
    conversations: Sequence[Sequence[Message]],
    completions: Sequence[str],
    records: Sequence[Mapping[str, Any]],
) -> np.ndarray:
    """f32[B]: the total of `scores` without token ids or a state of training."""
    return scores(reward, Scored(conversations, completions, records)).total


def scores(reward: WeightedReward | RewardFunction, scored: Scored) -> RewardScores:
    """The rewards of completions: the weighted sum of the functions' numbers, each left out where it returned None.

    A function gets prompts, the text of each last user turn, completions, messages, the conversations, and each field
    of the records as a column, None where a record lacks it; fields called like one of those give way. Raises Failure,
    with the function and the row, where one raises, or does not return a finite number or None a completion.
    """
    sizes = {len(scored.conversations), len(scored.completions), len(scored.records)}
    if len(sizes) > 1:
        raise ValueError(
            f"{len(scored.conversations)} prompts, {len(scored.completions)} completions, {len(scored.records)} records"
        )
    parts = reward.functions if isinstance(reward, WeightedReward) else (reward,)
    logs = Logs({}, {})
    started = {i: _start(one, scored) for i, one in enumerate(parts) if is_async(one.call)}
    columns = [_finished(one, scored, logs, started.get(i)) for i, one in enumerate(parts)]
    values = np.stack(columns, -1) * np.array([one.weight for one in parts], np.float32)
    applies = ~np.isnan(values)
    total = np.where(applies.any(-1), np.where(applies, values, 0.0).sum(-1), np.nan).astype(np.float32)
    names = metric_names(parts)
    return RewardScores(total, dict(zip(names, columns, strict=True)), logs.checked(len(scored.completions)))


def metric_names(parts: Sequence[RewardFunction]) -> list[str]:
    """A name in the metrics for each function: its own, with its module where two are called alike, and a number."""
    names = [one.name.rpartition(":")[2] for one in parts]
    names = [name if names.count(name) == 1 else one.name for name, one in zip(names, parts, strict=True)]
    return [
        f"{name}_{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)
    ]


class _Call(NamedTuple):
    """A call that is under way: its result, and what it logs."""

    result: Callable[[], Any]
    logs: Logs


def _start(function: RewardFunction, scored: Scored, rows: slice = slice(None)) -> _Call:
    """A call for some rows. One of a coroutine function runs while others do."""
    logs = Logs({}, {})
    call = functools.partial(
        function.call, **function_args.arguments(function.call, function.format, scored, rows, logs)
    )
    if not is_async(function.call):
        return _Call(lambda: awaited(call()), logs)
    future = asyncio.run_coroutine_threadsafe(_coroutine(call), _event_loop())
    return _Call(future.result, logs)


def _finished(function: RewardFunction, scored: Scored, logs: Logs, started: _Call | None) -> np.ndarray:
    """f32[B]: the numbers of a function; NaN for None."""
    try:
        result, own = _listed(function, started or _start(function, scored))
    except _NO_MESSAGES as error:
        result, own = _with_messages(function, scored, error)
    except (Failure, ConfigError):  # a verifier's or a classifier's own, which says what is wrong
        raise
    except Exception as error:
        raise _raised(function, scored, error) from error
    if len(result) != len(scored.completions):
        raise Failure(
            f"{function.label} returned {len(result)} numbers for {len(scored.completions)} completions"
        )
    for i, value in enumerate(result):
        if fault := _fault(value):
            raise Failure(f"{function.label} returned {fault} at {scored.row_label(i)}")
    for column, values in own.extra.items():
        logs.log_extra(column, values)
    for name, values in own.metrics.items():
        logs.metrics.setdefault(name, []).extend(values)
    return np.array([math.nan if value is None else float(_scalar(value)) for value in result], np.float32)


def _with_messages(function: RewardFunction, scored: Scored, error: Exception) -> tuple[list[Any], Logs]:
    """The result of a call with messages, for a function that raised with texts and had not said what it takes."""
    if function.format == "auto":
        other = dataclasses.replace(function, format="messages")
        try:
            result, logs = _listed(other, _start(other, scored))
        except Exception:
            raise _raised(function, scored, error) from error  # what it raised with messages is not the cause
        function.format = "messages"
        print(
            f"{function.label}: it raised with texts ({type(error).__name__}: {error}) and takes messages: "
            "?format=messages says so at once",
            file=sys.stderr,
        )
        return result, logs
    raise _raised(function, scored, error) from error


def _listed(function: RewardFunction, call: _Call) -> tuple[list[Any], Logs]:
    result = call.result()
    if isinstance(result, str | bytes | Mapping) or not isinstance(result, Iterable):
        raise Failure(f"{function.label} returned {_type(result)}, not a list of numbers")
    return list(result), call.logs


def _raised(function: RewardFunction, scored: Scored, error: Exception) -> Failure:
    row = None
    for i in range(len(scored.completions)):
        try:
            _listed(function, _start(function, scored, slice(i, i + 1)))
        except Exception:
            row = i
            break
    where = "all rows at once, though none alone" if row is None else scored.row_label(row)
    place = traceback.extract_tb(error.__traceback__)[-1]
    hint = (
        "; if it takes messages, write ?format=messages after its name" if function.format == "auto" else ""
    )
    return Failure(
        f"{function.label} raised at {where}: {type(error).__name__}: {error} "
        f"({place.filename}:{place.lineno}){hint}"
    )


def is_async(function: Any) -> bool:
    """Whether a call of it is a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


async def _coroutine(call: Callable[[], Any]) -> Any:
    return await call()


def awaited(value: Any) -> Any:
    """The value; what can be awaited, awaited."""
    if not inspect.isawaitable(value):
        return value
    return asyncio.run_coroutine_threadsafe(_coroutine(lambda: value), _event_loop()).result()


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One loop for all calls, as the clients that a module opens belong to the loop that they were first used in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward functions", daemon=True).start()
    return loop


def _scalar(value: Any) -> Any:
    """The number in a scalar of NumPy, jax or torch; another value as it is."""
    return value.item() if getattr(value, "ndim", 0) == 0 and hasattr(value, "item") else value


def _fault(value: Any) -> str:
    """What is wrong with a value as a reward, or nothing."""
    if value is None:
        return ""
    value = _scalar(value)
    if not isinstance(value, numbers.Real):
        return f"{_type(value)}, no number,"
    if abs(value) <= LARGEST:
        return ""
    if value != value:
        return "nan (None says that it does not apply)"
    return str(float(value)) if abs(value) == math.inf else "a number beyond f32"


def _type(value: Any) -> str:
    if inspect.isclass(value):
        return "a class"
    return "None" if value is None else f"a {type(value).__name__}"


def _described(value: Any) -> str:
    path = getattr(value, "__file__", None)
    return f"{getattr(value, '__name__', type(value).__name__)}{f' ({path})' if path else ''}"
