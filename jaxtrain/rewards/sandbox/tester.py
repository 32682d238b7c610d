"""The process of the tests: runs them against the functions of a program that runs in another process.

The program sees the arguments of its calls, and never the tests, what they expect, or what decides. What it returns
arrives as plain data, or as a Remote, which is equal to itself alone.
"""

import ast
import builtins
import importlib
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtrain.rewards.sandbox import wire

FILE = "<test>"
_NOT_IMPORTED = {"antigravity", "this", "idlelib", "turtledemo"}  # which do something where they are imported


class ProgramEnded(Exception):
    """The program's process ended, or sent no message."""


class Program:
    """The program's process, as the tests call it."""

    def __init__(self, requests: int, replies: int):
        self.requests, self.replies = requests, replies
        self.ended = ""  # why there is no answer any more
        self.unsupported = ""  # what a test passed that cannot be sent

    def receive(self) -> Any:
        """The next message of the program."""
        try:
            message = wire.receive(self.replies)
            if not isinstance(message, dict):
                raise ValueError("no message")
            return message
        except (EOFError, ValueError, OSError) as error:
            self.ended = str(error) or "its process ended"
            raise ProgramEnded(self.ended) from None

    def do(self, what: str, on: "Remote | None" = None, arguments: Sequence = (), **fields: Any) -> Any:
        """The value of a request. Raises what the program raised."""
        if self.ended:
            raise ProgramEnded(self.ended)
        request = {"do": what, "arguments": self.encode(list(arguments)), **fields}
        if on is not None:
            request["on"] = object.__getattribute__(on, "_number")
        try:
            wire.send(self.requests, request)
        except OSError:
            self.ended = "its process ended"
            raise ProgramEnded(self.ended) from None
        reply = self.receive()
        if "raised" in reply:
            raise _exception(reply)
        try:
            for mine, theirs in zip(arguments, self.decode(reply.get("arguments", [])), strict=False):
                _update(mine, theirs)
            return self.decode(reply.get("value"))
        except (ValueError, RecursionError, TypeError) as error:
            self.ended = f"it sent no value: {error}"
            raise ProgramEnded(self.ended) from None

    def encode(self, value: Any) -> Any:
        """A value for the program."""
        return wire.encode(value, self._handle)

    def decode(self, data: Any) -> Any:
        """A value of the program."""
        return wire.decode(data, lambda handle: Remote(self, int(handle["h"]), str(handle.get("type"))))

    def _handle(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Remote):
            return {"h": object.__getattribute__(value, "_number")}
        self.unsupported = f"a test passes {type(value).__name__!r} objects, which cannot be sent"
        raise wire.Unsupported(self.unsupported)


class Remote:
    """An object of the program. Equal to itself alone, whatever its class says."""

    __slots__ = ("_number", "_program", "_type")

    def __init__(self, program: Program, number: int, kind: str):
        for name, value in (("_program", program), ("_number", number), ("_type", kind)):
            object.__setattr__(self, name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        program = self._program
        sent = {name: program.encode(value) for name, value in keywords.items()}
        return program.do("call", self, arguments, keywords=sent)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.do("get", self, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.do("set", self, [value], name=name)

    def __iter__(self) -> Iterator:
        iterator = self._program.do("iter", self)
        while True:
            try:
                yield self._program.do("next", iterator)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._program.do("next", self)

    def __getitem__(self, key: Any) -> Any:
        return self._program.do("item", self, [key])

    def __len__(self) -> int:
        return self._program.do("len", self)

    def __bool__(self) -> bool:
        return self._program.do("bool", self) is True

    def __str__(self) -> str:
        return str(self._program.do("str", self))

    def __repr__(self) -> str:
        return f"<{self._type} of the program>"

    def __eq__(self, other: object) -> bool:
        return type(other) is Remote and self._number == other._number

    def __hash__(self) -> int:
        return hash(self._number)


def _exception(reply: Mapping[str, Any]) -> Exception:
    """What the program raised, as one of Python's own exceptions."""
    kind = getattr(builtins, str(reply["raised"]), None)
    text = str(reply.get("text", ""))
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        return RuntimeError(f"{reply['raised']}: {text}")
    try:
        return kind(text)
    except TypeError:  # of UnicodeDecodeError, which takes five arguments
        return RuntimeError(f"{reply['raised']}: {text}")


def _update(mine: Any, theirs: Any) -> None:
    """Gives an argument the contents that the program left in it."""
    if type(mine) is type(theirs) and type(mine) in (list, dict, set, bytearray) and mine != theirs:
        mine.clear()
        mine.extend(theirs) if isinstance(mine, list | bytearray) else mine.update(theirs)


def run(
    tests: Sequence[str], setup: Sequence[str], entry_points: Sequence[str], program: Program
) -> dict[str, Any]:
    """How many tests pass. `setup` runs first, here: it is the record's, as the tests are."""
    count = {"passed": 0, "total": len(tests), "crashed": False, "unsupported": "", "detail": ""}
    try:
        started = program.receive()
    except ProgramEnded as error:
        return {**count, "crashed": True, "detail": f"the program ended: {error}"[:300]}
    if "raised" in started:
        return {**count, "detail": f"the program raised {_exception(started)!r}"[:300]}
    module = types.ModuleType("completion_tests")  # in sys.modules, where dataclasses and pickle look
    sys.modules[module.__name__] = module
    scope = vars(module)
    for source in setup:
        exec(compile(source, FILE, "exec", dont_inherit=True), scope)
    offered = {name for name in started.get("names", []) if isinstance(name, str)}
    for name in _wanted(tests):
        if name in entry_points and name in offered:
            scope[name] = program.do("name", name=name)
        elif name not in scope:
            _provide(name, scope, offered, program)
    for source in tests:
        detail = _fails(source, scope, program)
        count["passed"] += not detail
        count["detail"] = count["detail"] or detail[:300]
    return {**count, "crashed": bool(program.ended), "unsupported": program.unsupported}


def _wanted(tests: Sequence[str]) -> list[str]:
    """The names that the tests read, in order."""
    loads: list[str] = []
    for source in tests:
        nodes = ast.walk(ast.parse(source))
        loads += [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return list(dict.fromkeys(loads))


def _provide(name: str, scope: dict[str, Any], offered: set[str], program: Program) -> None:
    """Defines a name of the tests: Python's own where it has one, which no program replaces, else the program's."""
    if hasattr(builtins, name):
        return
    if name in sys.stdlib_module_names - _NOT_IMPORTED and not name.startswith("_"):
        scope[name] = importlib.import_module(name)
    elif name in offered:
        scope[name] = program.do("name", name=name)


def _fails(source: str, scope: dict[str, Any], program: Program) -> str:
    """Why a test does not pass, or nothing."""
    try:
        exec(compile(source, FILE, "exec", dont_inherit=True), scope)
    except BaseException as error:  # SystemExit too
        texts = [
            str(each) for each in error.args if isinstance(each, str | int)
        ]  # others may be the program's
        return f"{type(error).__name__}: {' '.join(texts)}"
    return f"the program ended: {program.ended}" if program.ended else ""
