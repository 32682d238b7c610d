"""Training runs and completions that experiments share: a command with the same flags and parents runs once."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtrain.config import Failure
from jaxtrain.files import atomic, cache, checksums, paths, processes
from jaxtrain.train import metrics

DONE, LOG = "done.json", "log.txt"
SUM = "result_sha256"
MAX_NEW = 48  # tokens of a completion
_locks: dict[Path, threading.Lock] = {}
_guard = threading.Lock()


class SharedRuns:
    """The runs of one seed in the folder that experiments share."""

    def __init__(self, folder: Path, seed: int, cache_dir: str, children: processes.ChildProcesses):
        self.folder, self.seed = paths.absolute(folder), seed
        self._cache_dir, self._children = cache_dir, children
        # Seconds of the runs that had ended before this object needed them; 0 of those that it ran.
        self._before: dict[str, float] = {}

    def seconds_before(self) -> float:
        """What the runs that were found finished had taken: the cost of an experiment that shares or resumes."""
        return sum(self._before.values())

    def train(self, command: str, *flags: str) -> Path:
        """The workdir of ./launch/run COMMAND with these flags, --seed and --cache_dir, run to its end once.

        A flag may name other shared runs by their paths. Raises Failure where the command fails.
        """
        name = self._name(command, flags)
        workdir = self.folder / name
        self._once(name, [command, *flags, f"--workdir={workdir}"], workdir)
        return workdir

    def sample(self, run: Path, prompts: str, *flags: str, max_new: int = MAX_NEW) -> list[dict[str, Any]]:
        """The completions of ./launch/run sample --prompts, records with `prompt` and `completion`."""
        given = (f"--init_from={run}", f"--prompts={prompts}", f"--max_new={max_new}", *flags)
        name = self._name("sample", given)
        file = self.folder / f"{name}.jsonl"
        self._once(name, ["sample", *given, f"--out={file}"], file)
        return atomic.read_jsonl(file)

    def rows(self, run: Path) -> list[dict[str, Any]]:
        """The metrics of a run."""
        return metrics.read_rows(run / metrics.FILE)[0]

    def _name(self, command: str, flags: Sequence[str]) -> str:
        # The names of parents have their own flags in them, so that a changed one changes all that follow.
        relative = tuple(flag.replace(f"{self.folder}/", "") for flag in flags)
        return f"{command}-{self.seed}-{cache.digest(command, relative, self.seed)[:10]}"

    def _once(self, name: str, arguments: list[str], result: Path) -> None:
        record, log = self.folder / f"{name}.{DONE}", self.folder / f"{name}.{LOG}"
        with _guard:
            lock = _locks.setdefault(record, threading.Lock())
        with lock:
            if (seconds := _seconds(record, arguments, result)) is not None:
                self._before.setdefault(name, seconds)
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            if not result.is_dir():  # of an earlier command; `sample` writes new files only
                result.unlink(missing_ok=True)
            started = time.monotonic()
            command = [sys.executable, "-P", "-m", f"experiments.{arguments[0]}", *arguments[1:]]
            with log.open("a", encoding="utf-8") as out:
                status = self._children.call(
                    [*command, f"--seed={self.seed}", f"--cache_dir={self._cache_dir}"],
                    stdout=out, stderr=subprocess.STDOUT,
                )  # fmt: skip
            if status:
                last = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-12:])
                raise Failure(
                    f"seed {self.seed}, {arguments[0]} ended with status {status}; its last lines:\n{last}\n"
                    f"All of them are in {log}; the same command resumes from here"
                )
            seconds = time.monotonic() - started
            self._before[name] = 0.0
            atomic.write_sealed(record, {"arguments": arguments, "seconds": seconds, SUM: _sum(result)})
            print(f"seed {self.seed}  {seconds:5.0f} s  {name}", flush=True)


def _seconds(record: Path, arguments: Sequence[str], result: Path) -> float | None:
    """What the command took that has ended well before, with the result that is there; else None, as for damage."""
    try:
        before = atomic.read_sealed(record)
        is_whole = before["arguments"] == [*arguments] and before[SUM] == _sum(result)
        return float(before["seconds"]) if is_whole else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _sum(result: Path) -> str:
    """The SHA-256 of a file; a run's checkpoints have their own checksums, and it only has to be there."""
    if result.is_dir():
        return "folder"
    return checksums.of_file(result)
