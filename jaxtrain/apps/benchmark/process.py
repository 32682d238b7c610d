"""A part of a check in a process of its own: its memory is its own, it may crash, and its time can be ended."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError

Report = Callable[[str, Any], None]  # (name, a record): passed on at once
LAST_LINES = 12  # of what a process wrote to stderr before it ended by itself
GRACE = 3.0  # seconds that a part may go on beyond its time


class PartEnd(NamedTuple):
    """How a part ended: complete, shortened, left out, failed, or stopped at the end of its time."""

    status: str
    note: str = ""


class LeftOut(Exception):
    """A part cannot be measured on this machine; the text says why."""


class PartProcess:
    """A fresh interpreter with `env` in its environment. It imports the part's module at once, and then waits.

    So the imports of a part run while the one before it is measured.
    """

    def __init__(self, module: str, function: str, env: Mapping[str, str]):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "stderr"
        self._process = context.Process(
            target=_child, args=(module, function, other, str(self._errors), dict(env)), daemon=True
        )
        self._process.start()
        other.close()

    def run(self, args: tuple, seconds: float) -> Iterator[tuple[str, Any] | PartEnd]:
        """What function(*args, seconds, report) reports, (name, record) one by one, and at last its PartEnd.

        The function returns what it left out for lack of time.
        """
        self._pipe.send((args, seconds))
        stop = time.monotonic() + seconds + GRACE
        end = None
        while end is None:
            if not self._pipe.poll(max(0.0, stop - time.monotonic())):
                end = PartEnd("stopped", f"it was not done after {seconds:.0f} s")
                break
            try:
                message = self._pipe.recv()
            except (EOFError, ConnectionResetError):
                self._process.join(5)
                end = PartEnd(
                    "failed", f"its process ended with status {self._process.exitcode}: {self._tail()}"
                )
                break
            if isinstance(message, PartEnd):
                end = message
            else:
                yield message
        if end.status in ("failed", "stopped") and self._errors.exists():
            print(self._errors.read_text(errors="replace"), end="", file=sys.stderr, flush=True)
        yield end

    def close(self) -> None:
        """Ends the process and those that it started, whatever they do."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # where it has not come to its own group yet
        self._process.join()
        self._pipe.close()
        self._folder.cleanup()

    def _tail(self) -> str:
        text = self._errors.read_text(errors="replace") if self._errors.exists() else ""
        return " | ".join(line for line in text.splitlines()[-LAST_LINES:] if line.strip())


def _child(module: str, function: str, pipe: Connection, errors: str, env: dict[str, str]) -> None:
    """The other side. All that this process and its libraries write to stderr goes to a file."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    os.environ.update(env)
    try:
        work = getattr(importlib.import_module(module), function)
        args, seconds = pipe.recv()
        missing = work(*args, seconds, lambda name, record: pipe.send((name, record)))
        end = PartEnd("shortened", "; ".join(missing)) if missing else PartEnd("complete")
    except EOFError:  # the check ended before this part
        return
    except LeftOut as error:
        end = PartEnd("left out", str(error))
    except ConfigError as error:
        end = PartEnd("failed", str(error))
    except BaseException as error:  # the parent has to hear of what ends a process, too
        traceback.print_exc()
        end = PartEnd("failed", first_lines(error))
    pipe.send(end)
    pipe.close()


def _end_with_parent() -> None:
    """Ends this process and those that it started as soon as the parent is gone, however it ended."""
    multiprocessing.parent_process().join()
    os.killpg(0, signal.SIGKILL)


def first_lines(error: BaseException) -> str:
    """An error as one line of at most 400 characters."""
    return " | ".join(f"{type(error).__name__}: {error}".splitlines()[:3])[:400]
