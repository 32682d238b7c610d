"""Calls of environments, which are other people's code: many at once, each within a time, their results checked."""

import ctypes
import queue
import re
import reprlib
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.data.messages import BadRecord, Message, is_number, messages_of
from jaxtrain.files import progress
from jaxtrain.rl.environments import Observation

REPORT_SECONDS = 30.0  # between two reports to the watchdog, as a call may take longer than a step
OWN_METRICS = ("turns", "full", "faults")  # of rl/episode_rows.py
MOST_CHARACTERS = 1 << 20  # of the messages that an environment returns at once
_NAME = re.compile(r"[\w.-]+")
LARGEST = float(np.finfo(np.float32).max)


class EnvironmentFault(NamedTuple):
    """What is wrong with a call of an environment, as the predicate of a sentence: "raised ValueError: ..."."""

    text: str


class _Stopped(BaseException):
    """Raised inside a call that has had its time."""


def run_calls(calls: Sequence[Callable[[], Any]], seconds: float, threads: int) -> list[Any]:
    """The result of each call, `threads` of them at the same time; an EnvironmentFault where one raises or is late.

    A call's time begins when it starts. One that is late is told to stop, which it does where it runs Python code; its
    thread is left behind, and does not keep the process from ending.
    """
    results: list[Any] = [None] * len(calls)
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    waiting, running = list(reversed(range(len(calls)))), dict[int, tuple[threading.Thread, float]]()
    while waiting or running:
        while waiting and len(running) < threads:
            i = waiting.pop()
            thread = threading.Thread(target=_call, args=(calls[i], i, done), name="environment", daemon=True)
            running[i] = (thread, time.monotonic() + seconds)
            thread.start()
        left = min(end for _, end in running.values()) - time.monotonic()
        try:
            i, result = done.get(timeout=min(max(0.0, left), REPORT_SECONDS))
        except queue.Empty:
            progress.report(f"environments, {len(waiting) + len(running)} calls left")
            for i in [i for i, (_, end) in running.items() if end <= time.monotonic()]:
                thread, _ = running.pop(i)
                _stop(thread)
                results[i] = EnvironmentFault(f"took longer than {seconds:g} s (--env_timeout)")
            continue
        if running.pop(i, None):  # else it came late
            results[i] = result
            progress.report(f"environments, {len(waiting) + len(running)} calls left")
    return results


def _call(call: Callable[[], Any], i: int, done: queue.SimpleQueue[tuple[int, Any]]) -> None:
    try:
        result = call()
    except _Stopped:
        return
    except BaseException as error:  # SystemExit too, which would end the thread without a word
        result = _raised(error)
    done.put((i, result))


def _raised(error: BaseException) -> EnvironmentFault:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return EnvironmentFault(f"raised {type(error).__name__}: {error} ({place.filename}:{place.lineno})")


def _stop(thread: threading.Thread) -> None:
    """Raises _Stopped in a thread, at its next instruction of Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped))


def first_messages(value: Any) -> tuple[Message, ...] | EnvironmentFault:
    """The messages that `reset` returned, checked."""
    if isinstance(value, EnvironmentFault):
        return value
    if isinstance(value, Observation):
        over = " that is done: there is no turn to train on" if value.done else ""
        return EnvironmentFault(f"returned an Observation{over}; reset returns the first messages")
    return _messages(value)


def observation(value: Any) -> Observation | EnvironmentFault:
    """The Observation that `step` returned, checked: its messages in one form, its numbers as Python's."""
    if isinstance(value, EnvironmentFault):
        return value
    if not isinstance(value, Observation):
        return EnvironmentFault(
            f"returned a {type(value).__name__}, not an Observation(messages, reward, done)"
        )
    if (reward := _number(value.reward)) is None:
        return EnvironmentFault(
            f"returned the reward {reprlib.repr(value.reward)}, which is not a finite number"
        )
    if not isinstance(value.done, bool | np.bool_):
        return EnvironmentFault(f"returned done={reprlib.repr(value.done)}, which is neither True nor False")
    metrics = value.metrics
    if not isinstance(metrics, Mapping) or not all(
        isinstance(name, str) and _NAME.fullmatch(name) and name not in OWN_METRICS for name in metrics
    ):
        return EnvironmentFault(
            f"returned metrics that are not a dict of names (letters, but not {', '.join(OWN_METRICS)}) and numbers: "
            f"{reprlib.repr(metrics)}"
        )
    numbers = {name: _number(number) for name, number in metrics.items()}
    if wrong := next((name for name, number in numbers.items() if number is None), None):
        return EnvironmentFault(
            f"returned the metric {wrong}={reprlib.repr(metrics[wrong])}, which is not a finite number"
        )
    if value.done:
        return Observation((), reward, True, numbers)
    messages = _messages(value.messages)
    if isinstance(messages, EnvironmentFault):
        return messages
    return Observation(messages, reward, False, numbers)


def _number(value: Any) -> float | None:
    """A finite number that a float32 can hold, of NumPy, jax or torch too; None for anything else."""
    if getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return float(value)
    return float(value) if is_number(value) and abs(value) <= LARGEST else None


def _messages(value: Any) -> tuple[Message, ...] | EnvironmentFault:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return EnvironmentFault(f"returned a {type(value).__name__}, not a list of messages")
    if not value:
        return EnvironmentFault("returned no message, so that there is nothing to answer, and is not done")
    try:
        messages = messages_of(value, "messages")
    except BadRecord as error:
        return EnvironmentFault(f"returned messages that are none: {error}")
    size = sum(len(message["content"]) for message in messages)
    if size > MOST_CHARACTERS:
        return EnvironmentFault(f"returned messages of {size:,} characters, more than {MOST_CHARACTERS:,}")
    if messages[-1]["role"] == "assistant":
        return EnvironmentFault("returned an assistant's message last, which the policy is to write")
    return messages
