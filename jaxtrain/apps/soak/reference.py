"""The undisturbed run of each target, with which attacks are compared: what it leaves, its events, stopped states."""

import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.apps.soak import events, observe, targets, tiny
from jaxtrain.apps.soak.targets import SoakTarget
from jaxtrain.apps.soak.warm import NOTHING, ROOT, Ended, Injected, Processes
from jaxtrain.config import Failure
from jaxtrain.files import atomic

PATIENCE = 60.0  # seconds that a command may take beyond ten times those of its undisturbed run
FIRST = 600.0  # seconds that the first run of a command may take
STOPS = (0.4, 0.75)  # where runs are stopped whose files are damaged then, as shares of their events


class Reference(NamedTuple):
    """What an undisturbed run of a target left. `folder` holds run/, cache/, and what `stopped` makes."""

    folder: Path
    seconds: float
    events: Mapping[str, int]  # with prepared data
    cold: Mapping[str, int]  # without
    order: Mapping[int, set[str]]

    def observed(self) -> dict[str, Any]:
        """All values of the undisturbed run."""
        return observe.read(self.folder / "observed")


class Place:
    """Where commands run: always in one folder, `here`, so that paths in their files are the same."""

    def __init__(self, folder: Path, processes: Processes):
        self.folder, self.processes = folder / sources(), processes
        self.here, self.parents = self.folder / "here", self.folder / "parents"
        self.log, self.order = self.folder / "log.txt", self.folder / "order.jsonl"
        self.parents.mkdir(parents=True, exist_ok=True)
        if self.here.is_mount():  # of a soak that was killed
            subprocess.run(["umount", "--lazy", str(self.here)], check=True)

    def clear(self, cache: Path | None = None, run: Path | None = None) -> None:
        """Empties the folder; the cache and the run begin as copies of these folders."""
        empty(self.here)
        for name, source in (("cache", cache), ("run", run)):
            if source is None:
                (self.here / name).mkdir(parents=True)
            else:
                shutil.copytree(source, self.here / name, symlinks=True)
        for file in (self.log, self.order):
            file.unlink(missing_ok=True)

    def start(self, target: SoakTarget, injected: Injected = NOTHING, log: Path | None = None) -> int:
        """The process of the target's command, with its batches recorded."""

        def prepare() -> None:
            tiny.CHANGES[target.tiny]()
            if target.trains:
                observe.record_batches(self.order)()
            injected.prepare()

        command = targets.fill(target.command, str(self.here), str(self.parents))
        return self.processes.start(
            command, self.here, log or self.log, injected._replace(prepare=prepare, tiny=target.tiny)
        )

    def run(self, target: SoakTarget, seconds: float, injected: Injected = NOTHING) -> Ended:
        """Runs the target's command to its end."""
        self.log.unlink(missing_ok=True)
        pid = self.start(target, injected)
        return self.processes.wait(pid, self.log, seconds, injected)

    def observe(self, out: Path) -> str:
        """Writes what lies in here/run; returns why that cannot be read, empty where it can."""
        log = self.folder / "observe.txt"
        log.unlink(missing_ok=True)
        if self.processes.call(lambda: observe.write(self.here / "run", out), log) != 0:
            return f"what it left cannot be read: {log.read_text(encoding='utf-8').strip().rpartition(chr(10))[2]}"
        return ""


def sources() -> str:
    """A digest of the library and the commands: references are of this version of them."""
    files = sorted(path for name in ("jaxtrain", "experiments") for path in (ROOT / name).rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]


def empty(folder: Path) -> None:
    """Deletes what is in a folder, which may be a mount."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def needed(commands: Iterable[Sequence[str]]) -> list[str]:
    """The parents that commands start from, and those that these start from, in the order in which they are built."""
    text, names = " ".join(part for command in commands for part in command), []
    for name in reversed(targets.PARENTS):
        if f"{{parents}}/{name}" in text:
            names.insert(0, name)
            text += " ".join(targets.PARENTS[name])
    return names


def build_parents(place: Place, names: Sequence[str], say: Callable[[str], None]) -> None:
    """The runs that targets start from, where they are missing."""
    for name in names:
        if (place.parents / name).is_dir():
            continue
        say(f"parent {name}")
        compiled = place.folder / "compiled"
        place.clear()
        if compiled.is_dir():
            shutil.copytree(compiled, place.here / "cache" / "compiled")
        _succeed(place, SoakTarget(name, targets.PARENTS[name]), NOTHING)
        _store(place.here / "cache" / "compiled", compiled)
        _store(place.here / "run", place.parents / name)


def build(place: Place, target: SoakTarget) -> Reference:
    """The reference of a target, built where it is missing. Raises Failure where two undisturbed runs differ."""
    folder, facts = place.folder / "targets" / target.name, place.folder / "targets" / f"{target.name}.json"
    if not facts.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        atomic.write_text(facts, json.dumps(_measure(place, target, folder)))
    found = json.loads(facts.read_text(encoding="utf-8"))
    order = observe.order(folder / "order.jsonl")
    return Reference(folder, found["seconds"], found["events"], found["cold"], order)


def _measure(place: Place, target: SoakTarget, folder: Path) -> dict[str, Any]:
    place.clear()
    if (place.folder / "compiled").is_dir():
        shutil.copytree(place.folder / "compiled", place.here / "cache" / "compiled")
    facts: dict[str, Any] = {}
    for name in ("cold", "events"):
        counted = folder / f"{name}.txt"
        ended = _succeed(place, target, Injected(events.record(place.here, counted)))
        facts |= {name: events.read(counted), "seconds": ended.seconds}
        if why := place.observe(folder / ("observed" if name == "cold" else "again")):
            raise Failure(f"{target.name}: {why}")
        if name == "cold":
            shutil.copytree(place.here / "cache", folder / "cache")
            _store(place.here / "run", folder / "run")
            if place.order.exists():
                shutil.move(place.order, folder / "order.jsonl")
            (place.here / "run").mkdir()
    if why := observe.difference(observe.read(folder / "observed"), observe.read(folder / "again")):
        raise Failure(f"{target.name}: two undisturbed runs of one command differ: {why}")
    return facts


def stopped(place: Place, target: SoakTarget, reference: Reference, index: int) -> Path:
    """run/ of the target after a SIGTERM at one of STOPS; made where it is missing, which empties the place."""
    folder = reference.folder / f"stopped-{index}"
    if not folder.is_dir():
        place.clear(reference.folder / "cache")
        when = events.At("open", max(1, int(STOPS[index] * reference.events.get("open", 1))))
        stop = events.at(place.here, when, events.signalled(signal.SIGTERM))
        place.run(target, FIRST, Injected(stop))
        _store(place.here / "run", folder)
    return folder


def _succeed(place: Place, target: SoakTarget, injected: Injected) -> Ended:
    ended = place.run(target, FIRST, injected)
    if ended.status != 0:
        last = "\n".join(f"  {line}" for line in ended.output.splitlines()[-12:])
        raise Failure(
            f"{target.name} ended with status {ended.status} without any fault; its last lines:\n{last}"
        )
    return ended


def _store(source: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(source, folder)
