"""The runs on this machine: where a run's name resolves to, and what each run is, newest first. jax is not imported."""

import functools
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import suggestions
from jaxtrain.config import is_remote
from jaxtrain.files import atomic, paths

CONFIG, CHECKPOINTS = "config.json", "checkpoints"
COMMITTED = (
    "commit_success.txt"  # what Orbax writes last into a checkpoint in a bucket, where no rename is atomic
)
RUNS, LIFECYCLE = "runs", "lifecycle"  # folders that hold runs
DEPTH = 4  # folders below the one that is listed in which a run may lie
MOST = 8  # runs that a message lists
_TAIL = 1 << 18  # bytes at the end of a metrics.jsonl that are read for a run's last metrics

# The main number of a run: the first of these metrics that its last lines have, by stage.
_GOLD = ("after/gold", "judge/gold")
MAIN = {
    "pretrain": ("eval/bits_per_byte_above_entropy", "eval/bits_per_byte", "eval/loss"),
    "sft": (*_GOLD, "eval/loss"),
    "reward": ("eval/gold_accuracy", "eval/accuracy"),
    "dpo": (*_GOLD, "eval/rewards/accuracies"),
    "ppo": (*_GOLD, "eval/scores", "objective/scores"),
    "grpo": (*_GOLD, "eval/scores", "objective/scores"),
    "online_dpo": (*_GOLD, "eval/scores", "objective/scores"),
    "distill": (*_GOLD, "eval/divergence"),
}


class RunRecord(NamedTuple):
    """A run on the disk."""

    path: Path
    stage: str
    step: int | None  # the newest that is saved
    steps: int | None  # that it was started for
    number: tuple[str, float] | None  # its main metric, and the value
    parents: tuple[Path, ...]  # the runs that it goes on from: --init_from, the reward model, the teacher
    started: str  # ISO, UTC; empty where it is not known
    changed: float  # seconds since 1970 of its last metrics
    fault: str = ""  # why its config.json cannot be read


def resolve(path: Path, flag: str) -> Path:
    """Where the run is that --`flag` names: `path`, else in runs/, else beside it in the folder of a lifecycle.

    A line on stderr says so. Where there is no such run, it is `path`.
    """
    if is_remote(path) or path.exists():
        return path
    bases = [path, *([] if path.is_absolute() or path.parts[:1] == (RUNS,) else [RUNS / path])]
    for place in [*bases[1:], *(base.parent / LIFECYCLE / base.name for base in bases)]:
        if (place / CONFIG).is_file():
            _note(f"--{flag}={path}: the run is {place}")
            return place
    return path


@functools.cache
def _note(line: str) -> None:
    """Prints a line to stderr once."""
    print(line, file=sys.stderr, flush=True)


def saved_steps(checkpoints: Path) -> list[int]:
    """The complete steps in a folder of checkpoints, ascending."""
    if not checkpoints.is_dir():
        return []
    steps = [entry for entry in checkpoints.iterdir() if entry.name.isdecimal()]
    if is_remote(checkpoints):
        steps = [entry for entry in steps if (entry / COMMITTED).exists()]
    return sorted(int(entry.name) for entry in steps)


def newest_step(workdir: Path) -> int | None:
    """The last step that a run has saved, None before there is one."""
    return max(saved_steps(workdir / CHECKPOINTS), default=None)


def folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folders of runs in a folder and those below it: those with a config.json. Links are not followed."""
    if (root / CONFIG).is_file():
        yield root
        return
    try:
        entries = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:  # a folder that is gone or closed to us has no run for us
        return
    for name in entries if depth else ():
        if not name.startswith("."):
            yield from folders(root / name, depth - 1)


def runs(root: Path, depth: int = DEPTH) -> list[RunRecord]:
    """The runs in a folder, newest first. A config.json that is no run's, as of an export, is passed over."""
    records = filter(None, map(read, folders(root, depth)))
    return sorted(records, key=lambda one: (-one.changed, str(one.path)))


def read(path: Path) -> RunRecord | None:
    """What a run's folder says of it; None where its config.json is of something else."""
    file = path / CONFIG
    try:
        changed = max(each.stat().st_mtime for each in (file, path / "metrics.jsonl") if each.exists())
        record = atomic.read_sealed(file)
    except (OSError, ValueError) as error:
        return RunRecord(path, "", None, None, None, (), "", 0.0, f"{file.name} cannot be read: {error}")
    if not isinstance(record, dict) or not {"stage", "config", "data", "resumed"} <= record.keys():
        return None
    stage, steps = record["stage"], record["config"].get("run", {}).get("steps")
    number = main_number(stage, last_metrics(path / "metrics.jsonl"))
    started = record.get("started", "")
    return RunRecord(path, stage, newest_step(path), steps, number, _parents(record), started, changed)


def _parents(record: Mapping[str, Any]) -> tuple[Path, ...]:
    texts = [(record.get("parent") or {}).get("run")]
    # As WORKDIR@STEP; a reward model or a teacher that is no run has another form.
    texts += [str(record.get(name) or "").rpartition("@")[0] for name in ("reward_model", "teacher")]
    return tuple(dict.fromkeys(Path(text) for text in texts if text and text.startswith("/")))


def last_metrics(file: Path) -> dict[str, float]:
    """The last value of each metric in the end of a metrics.jsonl."""
    try:
        with file.open("rb") as lines:
            lines.seek(max(0, file.stat().st_size - _TAIL))
            tail = lines.read().splitlines()
    except OSError:  # before its first metrics
        return {}
    values: dict[str, float] = {}
    for line in tail:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # cut by the seek, or under way; the run itself reports damage
            continue
        values |= row if isinstance(row, dict) else {}
    return values


def main_number(stage: str, values: Mapping[str, Any]) -> tuple[str, float] | None:
    """(metric, value) of the number by which runs of a stage are compared; None where there is none yet."""
    for name in MAIN.get(stage, ()):
        if isinstance(value := values.get(name), int | float) and math.isfinite(value):
            return name, float(value)
    return None


def progress(run: RunRecord) -> str:
    """`300 of 300 steps`, or why its record cannot be read."""
    if run.fault:
        return run.fault
    of = f" of {run.steps}" if run.steps else ""
    return f"{run.step or 0}{of} steps"


def short_path(path: Path) -> str:
    """A path as messages and commands have it: relative to the present folder where it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)


def table(records: Sequence[RunRecord]) -> list[str]:
    """A line for each run: path, stage, steps, main number."""
    cells = [
        (
            short_path(run.path),
            run.stage or "?",
            progress(run),
            "{} {:.4g}".format(*run.number) if run.number else "",
        )
        for run in records
    ]
    wide = [max((len(row[i]) for row in cells), default=0) for i in range(4)]
    return [
        "  ".join(f"{cell:<{size}}" for cell, size in zip(row, wide, strict=True)).rstrip() for row in cells
    ]


def listing(path: Path) -> str:
    """The end of a message on a run that is not there: which ones are, newest first; empty where there are none."""
    if is_remote(path):
        return ""
    places = {Path(RUNS): DEPTH}
    if path.parent != Path():  # the present folder may be a home with all that is in it
        places.setdefault(path.parent, 1)
    found = {paths.absolute(run.path): run for root, depth in places.items() for run in runs(root, depth)}
    ordered = sorted(found.values(), key=lambda one: -one.changed)
    if not ordered:
        return ""
    near = {run.path.name: short_path(run.path) for run in reversed(ordered)}
    names = [near[name] for name in suggestions.near(path.name, near)]
    hint = f"did you mean {' or '.join(names)}? The" if names else "the"
    more = [f"and {len(ordered) - MOST} more: ./launch/run runs"] * (len(ordered) > MOST)
    return "\n  ".join([f"; {hint} runs that there are, newest first:", *table(ordered[:MOST]), *more])
