"""Runs the training commands of a sweep, some at once, and remembers which are finished."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from jaxtrain.apps.sweep.config import SweepFlags
from jaxtrain.apps.sweep.trials import SweepTrial, arguments
from jaxtrain.config import ConfigError, listed
from jaxtrain.files import accelerators, atomic, processes

DONE, LOG = "done.json", "log.txt"  # in the folder of a run
VISIBLE = "CUDA_VISIBLE_DEVICES"


class SweepRun(NamedTuple):
    """A run of a trial."""

    trial: SweepTrial
    seed: int
    path: Path
    command: list[str]

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{LOG}")

    @property
    def record(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{DONE}")


def runs(sweep: SweepFlags, found: Sequence[SweepTrial], out: Path) -> list[SweepRun]:
    """The runs of a sweep: all trials with the first seed, then with the second one, ..."""
    made = []
    for seed in range(sweep.repeats):
        for trial in found:
            path = out / trial.name / f"seed{seed}"
            flags = arguments(sweep, trial, seed, str(path))
            made.append(
                SweepRun(
                    trial, seed, path, [sys.executable, "-P", "-m", f"experiments.{sweep.command}", *flags]
                )
            )
    return made


def gpus() -> list[str]:
    """The GPUs that this process may use, by name."""
    if (given := os.environ.get(VISIBLE)) is not None:
        return listed(given)
    return [str(n) for n in range(accelerators.nvidia_gpus())]


def shares(jobs: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """The environment of each of the runs at once: its share of the GPUs. Raises ConfigError for too many jobs."""
    jobs = jobs or max(1, len(devices))
    if devices and jobs > len(devices):
        raise ConfigError(f"--jobs={jobs}: there are {len(devices)} GPUs, and two runs cannot share one")
    return [{VISIBLE: ",".join(devices[i::jobs])} if devices else {} for i in range(jobs)]


def is_finished(run: SweepRun) -> bool:
    """Whether this command has ended well before."""
    try:
        return atomic.read_sealed(run.record).get("command") == run.command[1:]
    except (OSError, ValueError, AttributeError):
        return False


def train(
    todo: Sequence[SweepRun],
    environments: Sequence[Mapping[str, str]],
    show: Callable[[SweepRun, int, float], None],
) -> dict[Path, int]:
    """Runs what is not finished; returns the exit status of each run's folder that failed. `show` gets each run's end.

    Where this raises, as a signal does, runs under way save their state and end; the same call goes on from there.
    """
    free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for environment in environments:
        free.put(environment)
    failed: dict[Path, int] = {}
    children = processes.ChildProcesses()
    with ThreadPoolExecutor(len(environments)) as pool, children:
        waiting: dict[Any, SweepRun] = {pool.submit(_run, run, free, children): run for run in todo}
        while waiting:
            ended, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in ended:
                run, (status, seconds) = waiting.pop(future), future.result()
                if status:
                    failed[run.path] = status
                else:
                    atomic.write_sealed(run.record, {"command": run.command[1:], "seconds": seconds})
                show(run, status, seconds)
    return failed


def _run(
    run: SweepRun, free: "SimpleQueue[Mapping[str, str]]", children: processes.ChildProcesses
) -> tuple[int, float]:
    """(exit status, seconds) of a run, which prints to its log."""
    environment, started = free.get(), time.monotonic()
    try:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        settings = [f"{name}={value}" for name, value in environment.items()]
        with run.log.open("a", encoding="utf-8") as log:
            status = children.call(
                [*(["env", *settings] if settings else []), *run.command],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return status, time.monotonic() - started
    finally:
        free.put(environment)


def last_line(run: SweepRun) -> str:
    """The last line of a run's log: why it failed."""
    lines = run.log.read_text(encoding="utf-8", errors="replace").splitlines() if run.log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
