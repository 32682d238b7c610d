"""Environments whose completions call tools, and those that come with the library. jax is not imported here."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxtrain import worlds
from jaxtrain.data.messages import Message
from jaxtrain.data.response import split_thought
from jaxtrain.data.tool_calls import KNOWN, ToolCall, Tools, calls_begin, split_calls
from jaxtrain.rl.environments import Environment, Observation

# Those in which a call begins with a mark, so that one that is not whole shows.
_FORMATS = tuple(form for form in KNOWN if form.marks)
_PLAIN = re.compile(
    r"(?P<name>[^\W\d]\w*)\((?P<argument>.*)\)\.?", re.DOTALL
)  # name(argument), of a single text
_PLAIN_START = re.compile(r"([^\W\d]\w*)\(")


class ToolEnvironment:
    """An environment in which a completion either calls tools or answers.

    A subclass has `tools`, `reset` and `answer`. A call is in any format of data/tool_calls.py, or NAME(ARGUMENT) and
    nothing else. One that cannot be read or carried out is counted, as `tool_errors`, and its result says why.
    """

    tools: Mapping[
        str, Callable[..., Any]
    ] = {}  # a ValueError of theirs is told to the model; others are faults

    def reset(self, row: Mapping[str, Any], seed: int) -> Sequence[Message]:
        """The first messages; of --data's prompt, unless a subclass has others."""
        return row["messages"]

    def answer(self, text: str) -> Observation:
        """What follows a completion without a call, `text` without its thought."""
        raise NotImplementedError

    def step(self, completion: str) -> Observation:
        """The results of a completion's calls, or what follows its answer."""
        _, text = split_thought(completion)
        calls, problem = read_calls(text, self.tools)
        if problem:
            return Observation(
                [_result("", f"Error: {problem}")], metrics={"tool_calls": 1, "tool_errors": 1}
            )
        if not calls:
            seen = self.answer(text)
            return seen._replace(metrics={"tool_calls": 0, "tool_errors": 0, **seen.metrics})
        results, errors = [], 0
        for call in calls:
            result, failed = self._called(call)
            results.append(_result(call.name, result))
            errors += failed
        return Observation(results, metrics={"tool_calls": len(calls), "tool_errors": errors})

    def _called(self, call: ToolCall) -> tuple[str, bool]:
        """(the result of a call as text, whether it failed)."""
        tool = self.tools.get(call.name)
        if tool is None:
            return f"Error: there is no tool {call.name}; there are {', '.join(self.tools)}", True
        try:
            inspect.signature(tool).bind(**call.arguments)
        except TypeError as error:
            return f"Error: {call.name}: {error}", True
        try:
            return str(tool(**call.arguments)), False
        except ValueError as error:
            return f"Error: {error}", True


def _result(name: str, text: str) -> Message:
    return {"role": "tool", "content": text, **({"name": name} if name else {})}


def read_calls(text: str, tools: Mapping[str, Callable[..., Any]]) -> tuple[list[ToolCall], str]:
    """(the calls in a text, what is wrong with one that cannot be read or nothing); neither, where it is an answer."""
    _, calls = split_calls(text, KNOWN, Tools({name: {} for name in tools}))
    if calls:
        return calls, ""
    body = text.strip()
    start = _PLAIN_START.match(body)
    if start and start[1] in tools:
        whole = _PLAIN.fullmatch(body)
        if whole is None:
            return [], f"the call has no end, or more behind it: write {start[1]}(...) and nothing else"
        return [ToolCall(start[1], _first_argument(tools[start[1]], whole["argument"].strip()))], ""
    if calls_begin(body, _FORMATS) < len(body):
        return [], "this is not a whole call, a name and a JSON object of arguments"
    return [], ""


def _first_argument(tool: Callable[..., Any], text: str) -> dict[str, Any]:
    """The arguments of NAME(ARGUMENT): the tool's first parameter has it, without quotes; none where it is empty."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    name = next(iter(inspect.signature(tool).parameters), "argument")
    return {name: text} if text else {}


class WorldTask(ToolEnvironment):
    """A task of a world: its question, its tools, 1 for a right answer and 0 for another."""

    def __init__(self, make: Callable[[int], worlds.ToolTask]):
        self._make = make

    def reset(self, row: Mapping[str, Any], seed: int) -> Sequence[Message]:
        self._task = self._make(seed)
        self.tools = self._task.tools
        return [{"role": "user", "content": self._task.question}]

    def step(self, completion: str) -> Observation:
        seen = super().step(completion)
        return seen._replace(metrics={**seen.metrics, "success": seen.reward})

    def answer(self, text: str) -> Observation:
        return Observation(reward=float(self._task.correct(text)), done=True)


class WorldGame:
    """A game of a world: 1 where it is won."""

    def __init__(self, make: Callable[[int], worlds.Game]):
        self._make = make

    def reset(self, row: Mapping[str, Any], seed: int) -> Sequence[Message]:
        self._game = self._make(seed)
        return [{"role": "user", "content": self._game.question}]

    def step(self, completion: str) -> Observation:
        reply = self._game.reply(split_thought(completion)[1])
        metrics = {"not_understood": not reply.understood, "success": reply.won}
        return Observation([{"role": "user", "content": reply.text}], float(reply.won), reply.over, metrics)


def shipped() -> dict[str, Callable[[], Environment]]:
    """The environments of the embedded world, by name."""
    world = worlds.get()
    tasks = {name: partial(WorldTask, make) for name, make in world.tool_tasks.items()}
    return tasks | {name: partial(WorldGame, make) for name, make in world.games.items()}
