"""Programs and their unit tests in sandboxes, side by side: outcomes, and what this machine could not set."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.files import progress
from jaxtrain.rewards.sandbox import wire
from jaxtrain.rewards.sandbox.confine import LAYERS, Limits
from jaxtrain.rewards.verifier import FAILED

DEFAULT = Limits()
LONGEST = 1 << 20  # characters of a program
MOST = 16  # sandboxes at a time
GRACE = 10.0  # seconds beyond the sandbox's own limit: the start of Python, and the end of every process
_MAIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); from jaxtrain.rewards.sandbox import process; sys.path.pop(0); "
    "sys.dont_write_bytecode = True; process.main()"
)
# The seed of hashes: a program that walks through a set does the same each time.
_ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Job(NamedTuple):
    """A program with its tests.

    `code` is run after `prompt` where it defines an entry point, else as the rest of it. `setup` runs before the tests,
    in their process. Names of the tests are those of setup, of Python, or of the program; `entry_points` are the
    program's whatever they are called.
    """

    code: str
    tests: tuple[str, ...]
    setup: tuple[str, ...] = ()
    entry_points: tuple[str, ...] = ()
    prompt: str = ""


class SandboxResult(NamedTuple):
    """The outcome of a job."""

    passed: int = 0
    total: int = 0
    crashed: bool = False  # the program's process ended before the tests did
    unsupported: str = ""  # what a test passes that cannot be sent to another process
    detail: str = ""  # of the first test that does not pass
    fault: str = ""  # "timed_out", "failed"
    not_set: tuple[str, ...] = ()  # what this machine could not set


def run_all(
    jobs: Sequence[Job], limits: Limits = DEFAULT, layers: Iterable[str] = LAYERS
) -> list[SandboxResult]:
    """The outcomes of jobs, in order, each in a sandbox of its own; as many at a time as there are CPUs."""
    if not jobs:
        return []
    size = max(1, min(MOST, os.cpu_count() or 1, len(jobs)))
    results = []
    with ThreadPoolExecutor(size) as threads:
        for result in threads.map(lambda job: run(job, limits, layers), jobs):
            results.append(result)
            progress.report(f"programs in sandboxes, {len(results)} of {len(jobs)}")
    return results


def run(job: Job, limits: Limits = DEFAULT, layers: Iterable[str] = LAYERS) -> SandboxResult:
    """The outcome of one job, whose folder and processes are gone afterwards; FAILED where no process can start."""
    folder = tempfile.mkdtemp(prefix="jaxtrain-code-")
    try:
        return _outcome(_run(_messages(job, limits, layers, folder), limits, folder), len(job.tests))
    except OSError as error:
        return SandboxResult(total=len(job.tests), fault=FAILED, detail=f"no sandbox can start: {error}")
    finally:
        _remove(folder)


def _messages(job: Job, limits: Limits, layers: Iterable[str], folder: str) -> bytes:
    """What the sandbox reads: the program first, then the tests."""
    installed = sysconfig.get_paths()
    names = ("stdlib", "platstdlib")
    entry = job.entry_points[0] if job.entry_points else ""
    program = {
        "program": {"code": job.code, "prompt": job.prompt, "entry_point": entry},
        "limits": limits._asdict(),
        "layers": list(layers),
        "folder": folder,
        "packages": sorted({installed["purelib"], installed["platlib"]}),
        "readable": sorted({*(installed[name] for name in names), str(Path(sys.base_prefix) / "lib")}),
    }
    tests = {"tests": job.tests, "setup": job.setup, "entry_points": job.entry_points}
    return b"".join(wire.packed(message) for message in (program, tests))


def _run(messages: bytes, limits: Limits, folder: str) -> bytes:
    """What the sandbox wrote, with every process of it gone."""
    with tempfile.TemporaryFile() as results:
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-c", _MAIN, str(Path(__file__).parents[3])],
            stdin=subprocess.PIPE,
            stdout=results,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd=folder,
            start_new_session=True,
        )
        try:
            process.communicate(messages, timeout=limits.seconds + GRACE)
        except subprocess.TimeoutExpired:
            _kill(process)  # what it wrote says why, or that there is nothing
        except BaseException:
            _kill(process)
            raise
        results.seek(0)
        return results.read()


def _kill(process: subprocess.Popen) -> None:
    """Ends a sandbox that has not ended itself. Its process is not waited for yet, so that its group is its own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _outcome(written: bytes, total: int) -> SandboxResult:
    line = written.partition(b"\n")[0]
    if not line:
        return SandboxResult(total=total, fault=FAILED, detail="the sandbox ended without an outcome")
    fields: dict[str, Any] = json.loads(line)
    return SandboxResult(**{"total": total, **fields, "not_set": tuple(fields["not_set"])})


def _remove(folder: str) -> None:
    """Removes the folder, and says where that fails."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError) as error:
        print(f"the folder of a sandbox is left behind: {folder}: {error}", file=sys.stderr)


def not_set(results: Iterable[SandboxResult]) -> list[str]:
    """What this machine could not set, each once."""
    return list(dict.fromkeys(line for result in results for line in result.not_set))
