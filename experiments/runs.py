"""The runs on this machine as a table and tree: lineage, stage, steps, main number, age, size; --delete removes one."""

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtrain import config, flags
from jaxtrain.config import ConfigError

if TYPE_CHECKING:
    from jaxtrain.train.run_list import RunRecord

WIDTH = 100  # of a line
HEAD = ("run", "stage", "steps", "main number", "also from", "age", "size")


@dataclasses.dataclass(frozen=True)
class RunsFolder(config.Group):
    # fmt: off
    folder: str = config.arg("runs", "The folder whose runs are listed, with those in the folders below it")
    delete: str = config.arg("", "Delete these runs, joined by commas, with their checkpoints. Refused where another "
        "run starts from one of them")
    yes: bool = config.arg(False, "Delete without a question; without a terminal it is needed")
    # fmt: on

    def check(self):
        if self.yes and not self.delete:
            raise ConfigError("--yes: acts only with --delete; leave it out")


@dataclasses.dataclass(frozen=True)
class Runs:
    listed: RunsFolder = config.group(RunsFolder)


def main(cfg: Runs) -> None:
    """Prints the runs, each below the one that it starts from, or deletes some."""
    from jaxtrain.train import run_list

    folder = Path(cfg.listed.folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"--folder={folder}: there is no such folder; name the one that has your runs")
    records = run_list.runs(folder)
    if cfg.listed.delete:
        delete([text.strip() for text in cfg.listed.delete.split(",")], records, cfg.listed.yes)
    elif not records:
        print(f"there is no run in {folder}; ./launch/run pretrain trains the first one")
    else:
        print("\n".join(table(records, folder, time.time())))


def _place(path: Path) -> Path:
    """Where a path leads, links followed: two names of one run are one run."""
    return Path(os.path.realpath(path))


def tree(records: Sequence["RunRecord"]) -> Iterator[tuple[str, "RunRecord"]]:
    """(branches, run) of each run, below the first run that it starts from where that is listed."""
    places = {_place(run.path): run for run in records}
    children: dict[Path | None, list[RunRecord]] = {}
    for path, run in places.items():
        above = _place(run.parents[0]) if run.parents else None
        children.setdefault(above if above in places and above != path else None, []).append(run)

    def below(above: Path | None, branches: str) -> Iterator[tuple[str, "RunRecord"]]:
        group = children.get(above, [])
        for i, run in enumerate(group):
            last = i == len(group) - 1
            yield branches + ("" if above is None else "└ " if last else "├ "), run
            more = "" if above is None else "  " if last else "│ "
            yield from below(_place(run.path), branches + more)

    yield from below(None, "")


def table(records: Sequence["RunRecord"], folder: Path, now: float) -> list[str]:
    """The lines of the table, at most WIDTH wide: a long name has a line of its own."""
    rows = [HEAD, *(_cells(branches, run, folder, now) for branches, run in tree(records))]
    wide = [max(len(row[i]) for row in rows) for i in range(1, len(HEAD))]
    room = max(12, WIDTH - sum(wide) - 2 * len(wide))
    first = min(room, max(len(row[0]) for row in rows))
    lines = []
    for name, *cells in rows:
        rest = "  ".join(f"{cell:<{size}}" for cell, size in zip(cells, wide, strict=True))
        lines += [name] * (len(name) > first) + [
            f"{'' if len(name) > first else name:<{first}}  {rest}".rstrip()
        ]
    faults = [f"{run.path}: {run.fault}" for run in records if run.fault]
    total = sum(map(size, (run.path for run in records)))
    return [*lines, *faults, f"{len(records)} runs, {in_bytes(total)}"]


def _cells(branches: str, run: "RunRecord", folder: Path, now: float) -> tuple[str, ...]:
    name = str(run.path.relative_to(folder)) if run.path != folder else str(folder)
    steps = f"{run.step or 0:,}/{run.steps:,}" if run.steps else f"{run.step or 0:,}"
    number = "{} {:.4g}".format(*run.number) if run.number else ""
    number = (
        number.removeprefix("eval/")
        .removeprefix("judge/")
        .removeprefix("after/")
        .removeprefix("bits_per_byte_")
    )
    others = ", ".join(parent.name for parent in run.parents[1:])
    age = duration(now - run.changed) if run.changed else "?"
    return branches + name, run.stage or "?", steps, number, others, age, in_bytes(size(run.path))


def size(folder: Path) -> int:
    """Bytes of the files in a folder; of one that vanishes meanwhile none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


def in_bytes(count: float) -> str:
    """`12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """`5 min`, `3 h`, `12 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def delete(names: Iterable[str], records: Sequence["RunRecord"], yes: bool) -> None:
    """Deletes runs after a question. Raises ConfigError for what is no run, is in use, or has others start from it."""
    from jaxtrain.train import run_list, workdir

    wanted: dict[Path, Path] = {}
    for name in names:
        path = run_list.resolve(Path(name).expanduser(), "delete")
        workdir.read_run(path, "--delete")
        if holder := workdir.holder(path):
            raise ConfigError(f"--delete={path} is in use by {holder}: stop it, or wait for its end")
        if path.is_symlink():
            raise ConfigError(f"--delete={path}: a link to {_place(path)}; name that")
        wanted[_place(path)] = path
    near = [run for path in wanted.values() for run in run_list.runs(path.parent)]
    _require_no_children(wanted, {_place(run.path): run for run in [*near, *records]})
    for path in wanted.values():
        what = f"{path} ({in_bytes(size(path))})"
        if not yes and not sys.stdin.isatty():
            raise ConfigError(
                f"--delete={path}: nobody can be asked without a terminal; add --yes to delete {what}"
            )
        if not yes and input(f"delete {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            print(f"{path} stays")
            continue
        gone = path.with_name(f".{path.name}.deleted")  # at once: a kill half-way leaves no half of a run
        if gone.exists():  # of a delete that was killed
            shutil.rmtree(gone)
        path.rename(gone)
        shutil.rmtree(gone)
        print(f"deleted {what}")


def _require_no_children(wanted: Mapping[Path, Path], known: Mapping[Path, "RunRecord"]) -> None:
    for path, name in wanted.items():
        children = [
            str(run.path)
            for place, run in known.items()
            if place not in wanted and path in {_place(parent) for parent in run.parents}
        ]
        if children:
            raise ConfigError(
                f"--delete={name}: {', '.join(children)} start{'s' * (len(children) == 1)} from it; delete "
                f"them too: --delete={','.join([str(name), *children])}"
            )


if __name__ == "__main__":
    flags.launch(Runs, main, "./launch/run runs")
