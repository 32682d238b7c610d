"""Worker processes: fresh interpreters that call functions and send what these return back through pipes.

They are no forks, whose copies of jax's locks may be held for ever, and they do not import the parent's main module, as
the workers of `multiprocessing` do: a script without a guard around its main part has them too.
"""

import contextlib
import os
import pickle
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from jaxtrain.config import ConfigError, Failure

_START = (
    "import sys; sys.path[:] = {path!r}; from jaxtrain.files import workers; workers.answer(sys.stdin.buffer)"
)


class Worker:
    """A process that calls functions of modules, one at a time. It ends with its parent, also with one that is killed:
    then its pipe ends.

    env: variables of its environment beside those of this process. niceness: what is added to that of this process.
    """

    def __init__(self, env: Mapping[str, str] | None = None, niceness: int = 0):
        self._niceness = niceness
        self.fresh = True  # nothing was called yet
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # the terminal's Ctrl-C is the parent's
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns there, or raises. Raises Failure where the process ended."""
        self.fresh = False
        try:
            pickle.dump((function, args, self._niceness), self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._niceness = 0
            self._process.stdin.flush()
            result, error = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as broken:
            status = self._process.wait()
            raise Failure(
                f"a worker process was killed or could not start (status {status}), perhaps as memory ran out"
            ) from broken
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        """Ends it, in the middle of a call too, which then raises."""
        self._process.kill()

    def close(self) -> None:
        """Ends it, and closes its pipes; no thread is in `call`."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a request that it will not read
                pipe.close()
        self._process.wait()


def answer(requests: Any) -> None:
    """Answers requests until the parent ends. What functions print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(requests,), daemon=True).start()
    while True:
        try:
            function, args, niceness = pickle.load(requests)
        except EOFError:
            return
        os.nice(niceness)
        try:
            reply = (function(*args), None)
        except Exception as error:  # it is raised by `call`
            reply = (None, _sendable(error))
        sys.stdout.flush()
        try:
            pickle.dump(reply, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:  # the parent has ended
            return


def _end_with_parent(requests: Any) -> None:
    """Ends this process when nobody can send requests any more, in the middle of a call too."""
    poll = select.poll()
    poll.register(requests, 0)  # POLLHUP is always reported
    poll.poll()
    os._exit(1)


def _sendable(error: Exception) -> Exception:
    """The error, with its traceback as a note where its words do not suffice; another one where it cannot be sent."""
    note = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        copy = Failure(f"{type(error).__name__}: {error}")
    if not isinstance(error, ConfigError | Failure):
        copy.add_note(f"In a worker process:\n{note}")
    return copy
