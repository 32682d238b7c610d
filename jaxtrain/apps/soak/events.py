"""Faults inside a process, at the n-th event that Python's audit hooks report of files under a folder.

The code under attack is not changed: it opens, renames and deletes files, and the hook counts. What compiled code
writes (tensorstore, SQLite) is not seen here; signals at random times reach it.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

KINDS = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.link",
    "sqlite3.connect",
)
JUMPS = (-40_000_000.0, -4_000.0, 4_000.0, 400_000_000.0)  # seconds, over a year and over an hour
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


Action = Callable[[str], None]  # what happens at an event; it gets the path


class At(NamedTuple):
    """The `count`-th event of a kind, from 1."""

    kind: str
    count: int


def record(folder: Path, out: Path) -> Callable[[], None]:
    """A function that makes its process append the kind of every event under `folder` to the file `out`."""

    def prepare() -> None:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        _watch(folder, lambda kind, _: os.write(handle, f"{kind}\n".encode()))

    return prepare


def read(path: Path) -> Mapping[str, int]:
    """How many events of each kind `record` has written."""
    lines = path.read_text(encoding="ascii").split()
    return {kind: lines.count(kind) for kind in KINDS if kind in lines}


def at(folder: Path, when: At, action: Action, *, onward: bool = False) -> Callable[[], None]:
    """A function that makes its process act at that event, and with `onward` at every later one of any kind."""

    def prepare() -> None:
        seen = 0

        def count(kind: str, path: str) -> None:
            nonlocal seen
            seen += kind == when.kind
            if (kind == when.kind and seen == when.count) or (onward and seen >= when.count):
                action(path)

        _watch(folder, count)

    return prepare


def signalled(number: int) -> Action:
    """An action: the process sends itself a signal."""
    return lambda _: os.kill(os.getpid(), number)


kill = signalled(signal.SIGKILL)


def no_space(path: str) -> None:
    """An action: what the process was about to do fails as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def clock_jump(seconds: float) -> Action:
    """An action: from now on time.time and time.time_ns are off by that much. Compiled code sees the true time."""
    true, true_ns = time.time, time.time_ns

    def jump(_: str) -> None:
        time.time = lambda: true() + seconds
        time.time_ns = lambda: true_ns() + int(seconds * 1e9)

    return jump


def _watch(folder: Path, on_event: Callable[[str, str], Any]) -> None:
    """Calls `on_event` with kind and path of each event in this process that changes a file under `folder`."""
    prefix = str(folder) + os.sep

    def hook(kind: str, arguments: tuple[Any, ...]) -> None:
        if kind in KINDS and _under(arguments[0], prefix) and (kind != "open" or _writes(*arguments)):
            on_event(kind, os.fsdecode(arguments[0]))

    sys.addaudithook(hook)


def _under(path: Any, prefix: str) -> bool:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(prefix)


def _writes(path: Any, mode: str | None, flags: int) -> bool:
    return any(letter in mode for letter in "wax+") if mode else bool(flags & _WRITING)
