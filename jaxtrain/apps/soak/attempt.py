"""One fault, and what comes of it: the command runs with the fault, runs again until it ends, and is compared."""

import dataclasses
import random
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from jaxtrain.apps.soak import events, observe, reference
from jaxtrain.apps.soak.events import At
from jaxtrain.apps.soak.reference import PATIENCE, Place, Reference
from jaxtrain.apps.soak.targets import SoakTarget
from jaxtrain.apps.soak.warm import NOTHING, Ended, Injected

COLD = 0.3  # share of the attempts in which data is prepared anew
TRACEBACK = "Traceback (most recent call last)"
_DONE = r"^error: --out=\S+ it (exists|is there) already;"
_REFUSED = (1, 2)  # exit statuses of an error that is explained


class Result(NamedTuple):
    """What an attempt showed. `why` says what did not hold; empty: everything promised was true."""

    target: str
    fault: str
    number: int
    what: str  # what was injected, in words
    why: str


@dataclasses.dataclass
class Attempt:
    """A fault's view of one attempt. All that is random is of `rng`, so that a seed repeats it."""

    target: SoakTarget
    reference: Reference
    place: Place
    rng: random.Random
    failed: Path  # where it is left if something does not hold
    cold: bool = False

    @property
    def here(self) -> Path:
        """The folder of the attempt, with run/ and cache/."""
        return self.place.here

    @property
    def patience(self) -> float:
        """Seconds after which a command counts as hung."""
        return 10 * self.reference.seconds + PATIENCE

    def reset(self, run: Path | None = None, *, cold: bool | None = None) -> None:
        """Empties the folder. run/ begins as a copy of `run`, by default empty; `cold`: no data is prepared."""
        self.cold = self.rng.random() < COLD if cold is None else cold
        cache = self.reference.folder / "cache"
        self.place.clear(None if self.cold else cache, run)
        if self.cold and (cache / "compiled").is_dir():
            shutil.copytree(cache / "compiled", self.here / "cache" / "compiled")

    def stopped(self, index: int) -> Path:
        """run/ of a run that was stopped at one of reference.STOPS."""
        return reference.stopped(self.place, self.target, self.reference, index)

    def event(self) -> At:
        """An event of the undisturbed run, each kind in turn as often as it comes."""
        counts = self.reference.cold if self.cold else self.reference.events
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        if not kinds:
            return At("open", 1)
        kind = self.rng.choice(kinds)
        return At(kind, self.rng.randint(1, counts[kind]))

    def moment(self) -> float:
        """A time within the undisturbed run, in seconds."""
        return self.rng.uniform(0.02, 1.1) * self.reference.seconds

    def run(self, injected: Injected = NOTHING) -> Ended:
        """Runs the command to its end."""
        return self.place.run(self.target, self.patience, injected)

    def compare(self, tolerance: float = 0.0, *, but: str = "") -> str:
        """Where run/ differs from the undisturbed run's; empty: nowhere. Files whose path begins or ends with `but` do
        not count.
        """
        out = self.place.folder / "observed"
        if why := self.place.observe(out):
            return why
        wanted, got = self.reference.observed(), observe.read(out)
        if but:
            wanted, got = (
                {k: v for k, v in each.items() if not (k.startswith(but) or f"/{k}".endswith(f"/{but}"))}
                for each in (wanted, got)
            )
        if why := observe.difference(wanted, got, tolerance):
            return why
        for step, digests in observe.order(self.place.order).items():
            if not digests <= self.reference.order.get(step, set()):
                return f"step {step} was trained on another batch"
        return ""

    def preserve(self) -> None:
        """Copies run/, cache/ and the log to `failed`, once."""
        if self.failed.is_dir():
            return
        self.failed.mkdir(parents=True)
        for name in ("run", "cache"):
            if (self.here / name).is_dir():
                shutil.copytree(self.here / name, self.failed / name, symlinks=True)
        if self.place.log.exists():
            shutil.copy2(self.place.log, self.failed / "log.txt")

    def resume(self, tolerance: float = 0.0, injected: Injected = NOTHING, *, but: str = "") -> str:
        """Gives the command again; says why it does not end in what the undisturbed run left. but: as in `compare`."""
        ended = self.run(injected)
        if ended.status != 0 and not self.was_done(ended):
            return f"the same command again: {described(ended)}"
        return self.compare(tolerance, but=but)

    def was_done(self, ended: Ended) -> bool:
        """Whether a command that writes new files only refused --out, since its work was done before."""
        return not self.target.trains and ended.status == 2 and bool(re.search(_DONE, ended.output, re.M))


def described(ended: Ended) -> str:
    """How a command ended, with the line that says why."""
    lines = [line.strip() for line in ended.output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|error)\b.*:", line)]
    last = (errors or lines or ["no output"])[-1][:300]
    if ended.status is None:
        return f"hung for {ended.seconds:.0f} s and was killed; last line: {last}"
    trace = "a traceback, " if TRACEBACK in ended.output else ""
    return f"{trace}exit status {ended.status}: {last}"


def unexplained(ended: Ended) -> str:
    """Why a command that met a fault ended in a way that nobody understands; empty: it ended well, or said why."""
    if ended.status is None or ended.status not in (0, *_REFUSED):
        return described(ended)
    message = re.search(r"^error: ", ended.output, re.M)
    trace = ended.output.find(TRACEBACK)
    if ended.status and (not message or 0 <= trace < message.start()):
        return described(ended)
    return ""


def named(ended: Ended, path: Path, here: Path) -> bool:
    """Whether a command's error names a file, or the folder of the checkpoint, data set or table of which it is."""
    error = ended.output[max(0, ended.output.find("error: ")) :]
    text = re.sub(r"\s+", "", error)  # long lines are wrapped
    parts = path.relative_to(here).parts
    places = [here.joinpath(*parts[:count]) for count in range(min(3, len(parts)), len(parts) + 1)]
    return any(str(place) in text for place in places)


def event_fault(attempt: Attempt, action: events.Action, *, onward: bool = False) -> tuple[At, Injected]:
    """An injection at a random event of the attempt."""
    when = attempt.event()
    return when, Injected(events.at(attempt.here, when, action, onward=onward))
