"""Programs and their unit tests in sandboxes, side by side: outcomes, and what this machine could not set."""

import json
import os
import shutil
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
from jaxtrain.rewards.sandbox.launcher import Launchers
from jaxtrain.rewards.verifier import FAILED

DEFAULT = Limits()
LONGEST = 1 << 20  # characters of a program
MOST = 16  # sandboxes at a time
GRACE = 10.0  # seconds beyond the sandbox's own limit: the start of Python, and the end of every process


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


def run(job: Job, limits: Limits = DEFAULT, layers: Iterable[str] = LAYERS) -> SandboxResult:
    """The outcome of one job."""
    return run_all([job], limits, layers)[0]


def run_all(
    jobs: Sequence[Job], limits: Limits = DEFAULT, layers: Iterable[str] = LAYERS, at_once: int = 0
) -> list[SandboxResult]:
    """The outcomes of jobs, in order, each in a sandbox of its own, which is gone afterwards.

    `at_once` run side by side; 0 is as many as there are CPUs, MOST at most.
    """
    size = min(at_once or min(MOST, os.cpu_count() or 1), len(jobs))
    launchers, results = Launchers(), list[SandboxResult]()
    if not jobs:
        return results
    try:
        with ThreadPoolExecutor(size) as threads:
            for result in threads.map(lambda job: _run(job, limits, layers, launchers), jobs):
                results.append(result)
                progress.report(f"programs in sandboxes, {len(results)} of {len(jobs)}")
    finally:
        launchers.close()
    return results


def _run(job: Job, limits: Limits, layers: Iterable[str], launchers: Launchers) -> SandboxResult:
    """The outcome of one job; FAILED where no sandbox can start."""
    place = tempfile.mkdtemp(prefix="jaxtrain-code-")
    outcome = Path(place, "outcome")
    try:
        os.mkdir(Path(place, "work"))
        tests = {"tests": job.tests, "setup": job.setup, "entry_points": job.entry_points}
        Path(place, "tests").write_bytes(wire.packed(tests))
        launchers.launch(wire.packed(_program(job, limits, layers, place)), limits.seconds + GRACE)
        written = outcome.read_bytes() if outcome.exists() else b""
        if not written:
            launchers.restart()
        return _outcome(written, len(job.tests))
    except (OSError, ValueError) as error:
        return SandboxResult(total=len(job.tests), fault=FAILED, detail=f"no sandbox can start: {error}")
    finally:
        _remove(place)


def _program(job: Job, limits: Limits, layers: Iterable[str], place: str) -> dict[str, Any]:
    """What the sandbox reads first: all but the tests."""
    installed = sysconfig.get_paths()
    names = ("stdlib", "platstdlib")
    entry = job.entry_points[0] if job.entry_points else ""
    return {
        "program": {"code": job.code, "prompt": job.prompt, "entry_point": entry},
        "limits": limits._asdict(),
        "layers": list(layers),
        "place": place,
        "packages": sorted({installed["purelib"], installed["platlib"]}),
        "readable": sorted({*(installed[name] for name in names), str(Path(sys.base_prefix) / "lib")}),
    }


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
