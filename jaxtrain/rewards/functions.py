"""Rewards of completions from Python functions, the user's own or those of Tinytown's judge."""

import contextlib
import importlib
import importlib.util
import inspect
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain import worlds
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.prompts import question

LARGEST = float(np.finfo(np.float32).max)
QUOTED = 40  # characters of a prompt in a message
_OURS = ("prompts", "completions", "messages")  # what a function gets beside the records' fields


class RewardFunction(NamedTuple):
    """A function of lists, called by keyword, (prompts, completions, **columns) -> a number for each completion."""

    name: str
    call: Callable[..., Iterable[float]]


def _gold(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    return [worlds.get().gold(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]


def _correct(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    pairs = zip(prompts, completions, strict=True)
    return [float(worlds.get().judge(prompt, text).correct) for prompt, text in pairs]


NAMED: Mapping[str, Callable[..., list[float]]] = {
    "gold": _gold,  # Tinytown's true reward
    "correct": _correct,  # 1 where Tinytown's judge finds right steps or the right value, else 0
}


def resolve(text: str) -> RewardFunction:
    """The reward that --reward names: one of NAMED, MODULE:FUNCTION, or PATH/TO/FILE.py:FUNCTION.

    A module is looked for in the current folder first. Raises ConfigError where there is no such function, its module
    fails, or it does not take completions by keyword.
    """
    if text in NAMED:
        return RewardFunction(text, NAMED[text])
    module, _, function = text.rpartition(":")
    if not module or not function:
        raise ConfigError(f"--reward={text}: write {', '.join(NAMED)}, MODULE:FUNCTION or FILE.py:FUNCTION")
    result = _module(text, module)
    for name in function.split("."):
        if not hasattr(result, name):
            raise ConfigError(f"--reward={text}: {_described(result)} has no {name}")
        result = getattr(result, name)
    if not callable(result) or inspect.iscoroutinefunction(result):
        kind = "a coroutine" if callable(result) else _type(result)
        raise ConfigError(f"--reward={text}: it is {kind}, not a plain function")
    try:
        inspect.signature(result).bind_partial(completions=[])
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"--reward={text}: it does not take completions by keyword ({error}): "
            "write def reward(prompts, completions, **columns)"
        ) from error
    return RewardFunction(text, result)


def reward_scores(
    reward: RewardFunction,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    completions: Sequence[str],
    records: Sequence[Mapping[str, Any]],
) -> np.ndarray:
    """f32[B]: the reward of each completion of a conversation, with the record that this is from.

    The function gets prompts, the text of each last user turn, completions, messages, the conversations, and each
    field of the records as a column, None where a record lacks it; fields called like one of those three give way, and
    a function without **columns gets what it names. Raises Failure, with the row, where it raises, or does not return
    one finite number a completion.
    """
    columns = _columns(conversations, completions, records)
    accepted = _accepted(reward.call, columns)

    def call(rows: slice) -> list[Any]:
        result = reward.call(**{name: column[rows] for name, column in accepted.items()})
        if isinstance(result, str | bytes | Mapping) or not isinstance(result, Iterable):
            raise Failure(f"--reward={reward.name} returned {_type(result)}, not a list of numbers")
        return list(result)

    try:
        result = call(slice(None))
    except Failure:
        raise
    except Exception as error:
        row = _culprit(call, len(completions))
        where = "all rows at once, though none alone" if row is None else _row(columns, row)
        cause = f"{type(error).__name__}: {error}"
        raise Failure(f"--reward={reward.name} raised at {where}: {cause}") from error
    if len(result) != len(completions):
        raise Failure(
            f"--reward={reward.name} returned {len(result)} numbers for {len(completions)} completions"
        )
    for i, value in enumerate(result):
        if fault := _fault(value):
            raise Failure(f"--reward={reward.name} returned {fault} at {_row(columns, i)}")
    return np.array([float(value) for value in result], np.float32)


def _columns(
    conversations: Sequence[Any], completions: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> dict[str, list[Any]]:
    if not len(conversations) == len(completions) == len(records):
        raise ValueError(
            f"{len(conversations)} prompts, {len(completions)} completions, {len(records)} records"
        )
    fields = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in fields}
    ours = (
        [question(each) for each in conversations],
        list(completions),
        [list(each) for each in conversations],
    )
    return {**columns, **dict(zip(_OURS, ours, strict=True))}


def _accepted(function: Callable, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    parameters = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return columns
    return {name: column for name, column in columns.items() if name in parameters}


def _culprit(call: Callable[[slice], Any], rows: int) -> int | None:
    """The first row for which the function raises by itself."""
    for i in range(rows):
        try:
            call(slice(i, i + 1))
        except Exception:
            return i
    return None


def _fault(value: Any) -> str:
    """What is wrong with a value as a reward, or nothing."""
    if getattr(value, "ndim", 0) == 0 and hasattr(value, "item"):
        value = value.item()  # a scalar of NumPy, jax or torch
    if not isinstance(value, numbers.Real):
        return "None" if value is None else f"{_type(value)}, no number,"
    if abs(value) <= LARGEST:
        return ""
    return str(float(value)) if value != value or abs(value) == math.inf else "a number beyond f32"


def _row(columns: Mapping[str, list[Any]], i: int) -> str:
    prompt = " ".join(columns["prompts"][i].split())
    return f"row {i} ({prompt[:QUOTED]}{'…' if len(prompt) > QUOTED else ''})"


def _type(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _described(value: Any) -> str:
    path = getattr(value, "__file__", None)
    return f"{getattr(value, '__name__', type(value).__name__)}{f' ({path})' if path else ''}"


def _module(text: str, name: str) -> Any:
    """The module, imported. Whatever it raises is the user's: a ConfigError with the cause."""
    file = Path(name).expanduser() if name.endswith(".py") else None
    if file and not file.is_file():
        raise ConfigError(f"--reward={text}: no such file: {file}")
    with _visible(file.absolute().parent if file else Path.cwd()):
        try:
            return _of_file(file) if file else importlib.import_module(name)
        except ModuleNotFoundError as error:
            if file or not (name == error.name or name.startswith(f"{error.name}.")):
                raise ConfigError(f"--reward={text}: {name} needs a module {error.name}") from error
            raise ConfigError(
                f"--reward={text}: no module {error.name}, neither in {Path.cwd()} nor installed"
            ) from error
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise ConfigError(f"--reward={text}: {name} cannot be imported: {cause}") from error


def _of_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"reward_file_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up by its name
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _visible(folder: Path) -> Iterator[None]:
    """The folder comes first on sys.path for the while, and last from then on, so that it hides nothing of ours."""
    path, known = str(folder), str(folder) in sys.path
    sys.path.insert(0, path)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(path)
        if not known:
            sys.path.append(path)
