"""The workdir of a run: one owner at a time, one config for life, and the record of where the run came from.

config.json holds its own checksum, the stage, every flag, the versions, the git commit, the data's fingerprints,
the parent run, the command and the time of the first start; `resumed` lists the later starts that differ in
command, versions or commit. jax is not imported here, so a changed flag is refused at once.
"""

import contextlib
import fcntl
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError, ConfigT, difference, is_remote, to_dict
from jaxtrain.files import atomic, locks, paths
from jaxtrain.train import best_checkpoint, bucket_lock, run_list
from jaxtrain.train.run_list import (  # noqa: F401  (all of them are used as workdir.NAME, too)
    CHECKPOINTS,
    COMMITTED,
    CONFIG,
    newest_step,
    saved_steps,
)

LOCK = "lock"
PACKAGES = (
    *("jaxtrain", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets"),
    *("tokenizers", "numpy"),
)


def folder_of(config: Any, stage: str) -> str:
    """The run's folder; `auto` names it after the model and the data where they are not the stage's default ones.

    A run that an earlier version named after both, where one differed, goes on in its folder.
    """
    if config.run.workdir != "auto":
        return config.run.workdir
    default = type(config)()
    model, data = config.model.model, config.data.data
    stem = "+".join(part.split("*")[0].rsplit("/", 1)[-1].split(".")[0] for part in data.split(","))
    own = [model] * (model != default.model.model) + [stem] * (data != default.data.data)
    earlier = _run_folder([stage, model, stem])
    return earlier if own and Path(earlier).is_dir() else _run_folder([stage, *own])


def _run_folder(parts: list[str]) -> str:
    return "runs/" + "".join(c if c.isalnum() or c in "-_+." else "-" for c in "-".join(parts))


@contextlib.contextmanager
def open_workdir(
    path: Path,
    config: ConfigT,
    stage: str,
    *,
    data: Mapping[str, str] | None = None,
    lineage: Mapping[str, Any] | None = None,
    primary: bool = True,
) -> Iterator[Path]:
    """The run's folder, made or resumed, and owned until the context ends: yields its absolute path.

    data: fingerprint of each data source, or None to hand them to `record_data` once they are known. lineage:
    the parent run, as a stage wants to remember it. Only the `primary` process locks and writes. Raises
    ConfigError when the folder cannot be used, belongs to a running process, to something that is no run, or
    to a run of another config or other data; nothing in it is changed then.
    """
    path = paths.absolute(path)
    if not primary:
        yield path
        return
    with _locked(path):
        start = {
            "command": shlex.join([sys.executable, *sys.orig_argv[1:]]),
            "versions": versions(),
            "git": git_state(Path(__file__).parent),
            "started": locks.now(),
        }
        if (path / CONFIG).exists():
            _resume(path, config, stage, start)
        else:
            record = {"stage": stage, "config": to_dict(config), **start, "parent": dict(lineage or {})}
            _write(path / CONFIG, {**record, "data": None, "resumed": []})
        if data is not None:
            record_data(path, data)
        yield path


def record_data(workdir: Path, data: Mapping[str, str]) -> None:
    """Writes the data's fingerprints into config.json, or compares. Raises ConfigError when they changed."""
    record = read_run(workdir, "--workdir")
    if record["data"] is None:
        _write(workdir / CONFIG, {**record, "data": dict(data)})
    elif record["data"] != dict(data):
        changed = _changes(record["data"], data)
        raise ConfigError(
            f"--workdir={workdir}: the data changed since the run began:\n  "
            + "\n  ".join(changed)
            + "\nRestore the data, or train on the new one in another --workdir"
        )


def record(workdir: Path, **facts: Any) -> None:
    """Adds what was settled after the start, such as the model's shape, to config.json."""
    record = read_run(workdir, "--workdir")
    if any(record.get(name) != value for name, value in facts.items()):
        _write(workdir / CONFIG, {**record, **facts})


def read_run(workdir: Path, flag: str = "--init_from") -> dict[str, Any]:
    """config.json of a run. Raises ConfigError, naming `flag`, when `workdir` is not one."""
    file = workdir / CONFIG
    try:
        record = atomic.read_sealed(file)
    except FileNotFoundError as error:
        why = f"it has no {CONFIG}" if workdir.is_dir() else "there is no such folder"
        others = "" if flag == "--workdir" else run_list.listing(workdir)
        raise ConfigError(f"{flag}={workdir} is not a run: {why}{others}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{flag}={workdir}: {file} cannot be read: {error}. Restore it from a copy; to take it as it is, such as "
            "after an edit of your own, delete its fields format and sha256"
        ) from error
    known = record if isinstance(record, dict) else {}
    lacking = [key for key in ("stage", "config", "data", "resumed") if key not in known]
    if lacking:
        raise ConfigError(f"{flag}={workdir}: {file} lacks {', '.join(lacking)}: it was not written by a run")
    return record


def split_step(text: str, flag: str = "init_from") -> tuple[Path, int | None]:
    """(workdir, step) of --`flag`=WORKDIR, WORKDIR@STEP or WORKDIR@best; without @STEP the step is None, the newest.

    What is not there is looked for in runs/ and in a lifecycle's folder (run_list.resolve). Raises ConfigError where a
    run has no best checkpoint.
    """
    name, _, step = text.rpartition("@")
    if name and (step.isdecimal() or step == best_checkpoint.BEST) and not paths.parse(text, flag).exists():
        path = run_list.resolve(paths.parse(name, flag), flag)
        if step.isdecimal():
            return path, int(step)
        read_run(path, f"--{flag}")
        folder = path / CHECKPOINTS
        return path, best_checkpoint.best_step(folder, saved_steps(folder), f"--{flag}={text}")
    return run_list.resolve(paths.parse(text, flag), flag), None


def _resume(path: Path, config: ConfigT, stage: str, start: dict[str, Any]) -> None:
    record = read_run(path, "--workdir")
    changed = [] if record["stage"] == stage else [f"stage: {record['stage']} -> {stage}"]
    changed += difference(record["config"], config)
    if changed:
        raise ConfigError(
            f"--workdir={path} holds a run of another config:\n  "
            + "\n  ".join(changed)
            + "\nName another --workdir, or delete this folder to start again"
        )
    last = [record, *record["resumed"]][-1]
    if any(last[key] != start[key] for key in ("command", "versions", "git")):
        _write(path / CONFIG, {**record, "resumed": [*record["resumed"], start]})


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the kernel frees even on kill -9; that of a bucket is an object."""
    if is_remote(path):
        with paths.explained(f"--workdir={path}"):
            _require_run_or_empty(path)
        with bucket_lock.hold(path / LOCK, path, locks.this_process()):
            yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        _require_run_or_empty(path)
    except OSError as error:
        raise ConfigError(f"--workdir={path} cannot be used: {error.strerror or error}") from error
    with locks.exclusive(path / LOCK, path):
        yield


def holder(path: Path) -> str:
    """The process that has a run's folder locked, in words; empty where none has."""
    try:
        with open(path / LOCK, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "a process that has only just started"
    except FileNotFoundError:
        return ""
    return ""


def _require_run_or_empty(path: Path) -> None:
    if (path / CONFIG).exists() or not path.is_dir():
        return
    strangers = sorted(
        entry.name for entry in path.iterdir() if entry.name not in (LOCK, CONFIG + atomic.TEMPORARY)
    )
    if strangers:
        raise ConfigError(
            f"--workdir={path} is not empty and is no run (it holds {strangers[0]}, no {CONFIG}): "
            "name another folder"
        )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = sorted({*old, *new})
    return [
        f"{n}: {old.get(n, '(none)')} -> {new.get(n, '(none)')}" for n in names if old.get(n) != new.get(n)
    ]


def _write(file: Path, value: dict[str, Any]) -> None:
    """Replaces a JSON file as a whole: after a crash it holds the old value or the new one."""
    try:
        atomic.write_sealed(file, value)
    except OSError as error:
        raise ConfigError(f"--workdir={file.parent}: cannot write {file.name}: {error.strerror}") from error


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def git_state(folder: Path) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the checkout that the code runs from, None outside one or without git."""
    ask = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}
