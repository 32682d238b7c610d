"""The process of a program that nobody has read: runs it, then calls its functions for the tests of another process."""

import ast
import sys
import types
from collections.abc import Mapping
from typing import Any

from jaxtrain.rewards.sandbox import wire

FILE = "<completion>"


class Objects:
    """What the other process has handles of."""

    def __init__(self):
        self.by_number: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}  # by id; the objects are in by_number, so that no id is used again

    def handle(self, value: Any) -> dict[str, Any]:
        """The handle of an object."""
        number = self.numbers.setdefault(id(value), len(self.numbers))
        self.by_number[number] = value
        return {"h": number, "type": type(value).__name__[:100]}

    def decode(self, data: Any) -> Any:
        """A value of the other process."""
        return wire.decode(data, lambda handle: self.by_number[handle["h"]])

    def encode(self, value: Any) -> Any:
        """A value for the other process."""
        return wire.encode(value, self.handle)


def program(code: str, prompt: str, entry_point: str) -> list[str]:
    """The sources to run: the code; after the prompt where the prompt's own function is wanted.

    A completion that does not define that function is the rest of its body. Raises SyntaxError where neither is Python.
    """
    if not prompt:
        return [code]
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return [f"{prompt}\n{code}" if not prompt.endswith("\n") else prompt + code]
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = {each.id for node in tree.body if isinstance(node, ast.Assign) for each in node.targets
                if isinstance(each, ast.Name)}  # fmt: skip
    if entry_point in defined | assigned:
        return [prompt, code]
    return [f"{prompt}\n{code}" if not prompt.endswith("\n") else prompt + code]


def serve(sources: Mapping[str, str], requests: int, replies: int) -> None:
    """Runs a program and answers requests until the other process ends."""
    sys.argv = [FILE]
    module = types.ModuleType("completion")  # in sys.modules, where dataclasses and pickle look
    sys.modules[module.__name__] = module
    scope = vars(module)
    scope["__file__"] = FILE
    try:
        for source in program(**sources):
            exec(compile(source, FILE, "exec", dont_inherit=True), scope)
        started = {"names": [name for name in scope if not name.startswith("__")]}
    except BaseException as error:  # SystemExit too: the program is no test, and says nothing of one
        started = _raised(error)
    objects = Objects()
    wire.send(replies, started)
    while True:
        try:
            request = wire.receive(requests)
        except EOFError:
            return
        try:
            reply = _reply(request, objects, scope)
        except BaseException as error:
            reply = _raised(error)
        try:
            wire.send(replies, reply)
        except ValueError as error:
            wire.send(replies, _raised(error))


def _reply(request: Mapping[str, Any], objects: Objects, scope: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request: the value, and of a call the arguments as it left them."""
    if request["do"] == "name":
        return {"value": objects.encode(scope[request["name"]])}
    target = objects.by_number[request["on"]]
    arguments = objects.decode(request.get("arguments", []))
    keywords = {key: objects.decode(value) for key, value in request.get("keywords", {}).items()}
    match request["do"]:
        case "call":
            value = objects.encode(target(*arguments, **keywords))
            return {"value": value, "arguments": objects.encode(arguments)}
        case "get":
            return {"value": objects.encode(getattr(target, request["name"]))}
        case "set":
            setattr(target, request["name"], *arguments)
            return {"value": None}
        case "iter":
            return {"value": objects.handle(iter(target))}
        case "next":
            return {"value": objects.encode(next(target))}
        case "item":
            return {"value": objects.encode(target[arguments[0]])}
        case "len" | "bool" | "str" as name:
            return {"value": objects.encode({"len": len, "bool": bool, "str": str}[name](target))}
    raise ValueError(request["do"])


def _raised(error: BaseException) -> dict[str, Any]:
    """An exception for the other process: the first class of it that Python has, and its text."""
    names = [each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins"]
    try:
        text = str(error)[:1000]
    except BaseException:  # of the program's own class
        text = ""
    return {"raised": names[0] if names else "Exception", "text": text}
