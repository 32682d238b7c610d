"""Commands in forks of one warm process: everything is imported once, and a fork starts a command in milliseconds.

A fork leads a process group of its own, so that what it starts ends with it, and the guardian, a process that does
nothing else, ends all groups when this process is gone, by kill -9 too.
"""

import contextlib
import importlib
import os
import pkgutil
import runpy
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
HEAVY = ("orbax.checkpoint", "grain", "tensorflow_datasets", "tensorboardX", "tensorstore", "rich.progress")
ROOT = Path(__file__).parents[3]
TICK = 0.005  # seconds between two looks at a child
FROZEN = 0.3  # seconds that a stopped process stays so
# What a fresh Python runs in place of `-m experiments.STAGE`, where tiny.py makes the command smaller.
_TINY = """
import runpy, sys
import experiments.constitutional_pipeline, jaxtrain.apps.lifecycle.plan
from jaxtrain.apps.soak import tiny
stage, name = sys.argv[1:3]
sys.argv[:3] = [f"experiments.{stage}"]
tiny.CHANGES[name]()
runpy.run_module(f"experiments.{stage}", run_name="__main__")
"""


class Ended(NamedTuple):
    """How a process ended. `status` is that of the shell: 128 + n for signal n; None where it was hung and killed."""

    status: int | None
    seconds: float
    output: str  # stdout and stderr


class Injected(NamedTuple):
    """What a fork does besides its command. `prepare` runs in the fork, before the command."""

    prepare: Callable[[], None] = lambda: None
    signals: Sequence[tuple[float, int]] = ()  # (seconds after the start, signal), sent from outside
    environment: Mapping[str, str] = {}
    devices: int = 1
    afresh: bool = False  # in a Python that starts anew, in which `prepare` cannot run
    tiny: str = ""  # what is made smaller in it, a name of tiny.py


NOTHING = Injected()


def load() -> None:
    """Imports all of jaxtrain, its commands and what they import late. No jax backend is started, so forks are safe."""
    os.environ.update(ENVIRONMENT)
    for package in ("jaxtrain", "experiments"):
        root = importlib.import_module(package)
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not module.name.startswith(__package__):
                importlib.import_module(module.name)
    for name in HEAVY:
        importlib.import_module(name)


class Processes:
    """Starts commands and ends them. Use as a context manager: no process survives it."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._pipe = -1

    def __enter__(self) -> "Processes":
        read, self._pipe = os.pipe()
        if not (pid := os.fork()):
            os.close(self._pipe)
            _guard(read)
        os.close(read)
        self._guardian = pid
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self._running):
            self.end(pid)
        os.close(self._pipe)
        os.waitpid(self._guardian, 0)

    def start(self, command: Sequence[str], folder: Path, log: Path, injected: Injected) -> int:
        """The process of `experiments.COMMAND[0]` with its flags, in `folder`; its output is appended to `log`."""
        return self.fork(lambda: _run(command, folder, injected), log)

    def fork(self, function: Callable[[], None], log: Path) -> int:
        """The process of a function; its output is appended to `log`."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            os.close(self._pipe)
            _leave(function, log)
        self._add(pid)
        return pid

    def call(self, function: Callable[[], None], log: Path, seconds: float = 600.0) -> int | None:
        """The exit status of a function in a fork, 1 where it raises, None where it was hung."""
        return self._wait(self.fork(function, log), seconds, ())

    def wait(self, pid: int, log: Path, seconds: float, injected: Injected = NOTHING) -> Ended:
        """Waits for a process, sends it what `injected` says, and kills it after `seconds`."""
        begun = time.monotonic()
        status = self._wait(pid, seconds, injected.signals)
        output = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return Ended(status, time.monotonic() - begun, output)

    def end(self, pid: int) -> None:
        """Kills a process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        self._forget(pid)

    def _add(self, pid: int) -> None:
        with contextlib.suppress(OSError):  # the child does the same: whoever comes first
            os.setpgid(pid, pid)
        self._running.add(pid)
        os.write(self._pipe, f"+{pid}\n".encode())

    def _forget(self, pid: int) -> None:
        self._running.discard(pid)
        os.write(self._pipe, f"-{pid}\n".encode())

    def _wait(self, pid: int, seconds: float, signals: Sequence[tuple[float, int]]) -> int | None:
        begun, due = time.monotonic(), sorted(signals)
        while True:
            found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            passed = time.monotonic() - begun
            if found and os.WIFSTOPPED(status):
                time.sleep(FROZEN)
                os.kill(pid, signal.SIGCONT)
            elif found:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # what it left behind
                self._forget(pid)
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            elif passed > seconds:
                self.end(pid)
                return None
            while due and due[0][0] <= passed:
                os.kill(pid, due.pop(0)[1])
            time.sleep(TICK)


def _guard(pipe: int) -> None:
    """Reads which groups run, and ends them when the pipe closes. Does not return."""
    os.setsid()
    groups: set[int] = set()
    with os.fdopen(pipe, encoding="ascii") as lines:
        for line in lines:
            (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    os._exit(0)


def _run(command: Sequence[str], folder: Path, injected: Injected) -> None:
    """Does in this fork what `python -m experiments.COMMAND` does."""
    import jax

    os.chdir(folder)
    os.environ.update(injected.environment)
    jax.config.update("jax_num_cpu_devices", injected.devices)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_disable_most_optimizations", True)
    stage, *flags = command
    if injected.afresh:
        os.environ.update(_afresh(injected.devices))
        start = ["-c", _TINY, stage, injected.tiny] if injected.tiny else ["-m", f"experiments.{stage}"]
        os.execv(sys.executable, [sys.executable, "-P", *start, *flags])
    sys.argv = [f"experiments.{stage}", *flags]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    injected.prepare()
    with warnings.catch_warnings():
        # runpy warns of a module that was imported before: that is the point.
        warnings.filterwarnings("ignore", "'experiments", RuntimeWarning)
        runpy.run_module(f"experiments.{stage}", run_name="__main__", alter_sys=False)


def _afresh(devices: int) -> dict[str, str]:
    """The environment of a Python that computes what a fork does."""
    return ENVIRONMENT | {
        "JAX_NUM_CPU_DEVICES": str(devices), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }  # fmt: skip


def _leave(function: Callable[[], None], log: Path) -> None:
    """Ends this fork with the status that a process of this function would have. Does not return."""
    status = 1
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((null, 0), (out, 1), (out, 2)):
            os.dup2(old, new)
        sys.stdin, sys.stdout, sys.stderr = (
            open(new, mode, encoding="utf-8", buffering=1)  # noqa: SIM115
            for new, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        function()
        for thread in threading.enumerate():  # as the interpreter does at its end
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):  # a full disk, a closed file
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C or SIGTERM came; a second one interrupts at once."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
