"""The soak: faults one after another, in an order that a seed decides, and the table of what held."""

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtrain.apps.soak import faults, peers, reference, stores
from jaxtrain.apps.soak.attempt import Attempt, Result
from jaxtrain.apps.soak.config import SoakFlags
from jaxtrain.apps.soak.faults import Fault
from jaxtrain.apps.soak.outcome import Outcome
from jaxtrain.apps.soak.reference import Place, Reference
from jaxtrain.apps.soak.targets import TARGETS, SoakTarget
from jaxtrain.config import ConfigError, Failure
from jaxtrain.files import atomic

REPORT, FAILED, UNDISTURBED = "soak.json", "failed", "undisturbed"
Say = Callable[[str], None]
COMMANDS = (*TARGETS, *stores.TARGETS)
FAULTS = (*faults.FAULTS, *peers.FAULTS, *stores.FAULTS)


class Injection(NamedTuple):
    """The `number`-th time that a fault strikes a target."""

    target: SoakTarget
    fault: Fault
    number: int

    @property
    def name(self) -> str:
        """As --only takes it."""
        return f"{self.target.name}:{self.fault.name}:{self.number}"

    def rng(self, seed: int) -> random.Random:
        """What decides where it strikes."""
        return random.Random(f"{seed}:{self.name}")


def chosen(names: Sequence[str], known: Sequence, flag: str) -> list:
    """Those of `known` with these names, or all. Raises ConfigError for a name that is not known."""
    by_name = {one.name: one for one in known}
    for name in names:
        if name not in by_name:
            raise ConfigError(f"--{flag}={name}: choose some of {', '.join(by_name)}")
    return [by_name[name] for name in names] or list(known)


def pairs(flags: SoakFlags) -> list[tuple[SoakTarget, Fault]]:
    """The faults of --faults, each with each command of --stages that it fits. Raises ConfigError where none does."""
    fit = [
        (target, fault)
        for target in chosen(flags.names("stages"), COMMANDS, "stages")
        for fault in chosen(flags.names("faults"), FAULTS, "faults")
        if fits(target, fault)
    ]
    if not fit:
        raise ConfigError(f"--faults={flags.faults}: none of them fits --stages={flags.stages}")
    return fit


def fits(target: SoakTarget, fault: Fault) -> bool:
    """Whether a fault can strike a command."""
    if target.faults:
        return fault.name in target.faults
    return fault not in stores.FAULTS and (target.trains or not fault.training)


def schedule(found: Sequence[tuple[SoakTarget, Fault]], seed: int) -> Iterator[Injection]:
    """Injections without end: in every round each fault as often as its share, in an order of the seed's."""
    counts: Counter[tuple[str, str]] = Counter()
    round_number = 0
    while True:
        deck = [(target, fault) for target, fault in found for _ in range(fault.share)]
        random.Random(f"{seed}:{round_number}").shuffle(deck)
        for target, fault in deck:
            counts[target.name, fault.name] += 1
            yield Injection(target, fault, counts[target.name, fault.name])
        round_number += 1


def single(flags: SoakFlags) -> Injection:
    """The injection of --only. Raises ConfigError where there is none of that name."""
    parts = flags.only.split(":")
    if len(parts) != 3 or not parts[2].isdecimal():
        raise ConfigError(f"--only={flags.only}: write STAGE:FAULT:NUMBER, such as pretrain:bit flip:3")
    (target,) = chosen([parts[0]], COMMANDS, "only")
    (fault,) = chosen([parts[1]], FAULTS, "only")
    return Injection(target, fault, int(parts[2]))


def check(flags: SoakFlags) -> None:
    """Raises ConfigError for a command or a fault that is not known."""
    single(flags) if flags.only else pairs(flags)


def run(
    flags: SoakFlags, place: Place, results: list[Result], stopping: Callable[[], bool], say: Say
) -> None:
    """Injects faults until --minutes or --attempts are used up, or `stopping` says so; appends to `results`."""
    found = pairs(flags)
    order = iter([single(flags)]) if flags.only else schedule(found, flags.seed)
    wanted = (
        [single(flags).target] if flags.only else [one for one in COMMANDS if any(one == t for t, _ in found)]
    )
    reference.build_parents(place, reference.needed(one.command for one in wanted), say)
    references: dict[str, Reference] = {}
    for target in wanted:
        if not stopping():
            say(f"undisturbed {target.name}")
            try:
                references[target.name] = _built(place, target)
            except Failure as error:  # the other commands are attacked all the same
                results.append(Result(target.name, UNDISTURBED, 1, "no fault", str(error)))
                say(str(error))
    mounts, end = faults.can_mount(place.here), time.monotonic() + 60 * flags.minutes
    if not mounts:
        say("no right to mount a file system: the fault 'full disk' is left out; 'file size limit' is not")
    if not references:
        return
    done = len(results)
    for injection in order:
        late = not flags.only and time.monotonic() > end
        if stopping() or late or (flags.attempts and len(results) >= done + flags.attempts):
            break
        if injection.target.name not in references or (injection.fault.name == "full disk" and not mounts):
            continue
        results.append(strike(injection, references[injection.target.name], place, flags))
        one = results[-1]
        left = max(0.0, (end - time.monotonic()) / 60)
        say(f"{len(results):5} {left:4.0f} min left  {injection.name}  {one.what}: {one.why or 'held'}")
        write(results, flags, place)


def _built(place: Place, target: SoakTarget) -> Reference:
    return (stores.prepare if target in stores.TARGETS else reference.build)(place, target)


def strike(injection: Injection, held: Reference, place: Place, flags: SoakFlags) -> Result:
    """One injection. What does not hold leaves its folder and log under failed/."""
    target, fault, number = injection
    failed = folder_of(injection, flags)
    shutil.rmtree(failed, ignore_errors=True)
    attempt = Attempt(target, held, place, injection.rng(flags.seed), failed)
    what, why = fault.inject(attempt)
    if why:
        attempt.preserve()
    return Result(target.name, fault.name, number, what, why)


def folder_of(injection: Injection, flags: SoakFlags) -> Path:
    """Where what did not hold is left."""
    return Path(flags.workdir).expanduser() / FAILED / injection.name.replace(" ", "_").replace(":", "-")


def outcomes(results: Sequence[Result], seed: int) -> list[Outcome]:
    """A row for each fault and command; the detail repeats the first that did not hold, or the first."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        groups.setdefault((one.fault, one.target), []).append(one)
    rows = []
    for (fault, target), group in sorted(groups.items()):
        first = next((one for one in group if one.why), group[0])
        only = f'--only="{target}:{fault}:{first.number}"'
        detail = f"launch/soak --seed={seed} {only if fault != UNDISTURBED else f'--stages={target}'}"
        rows.append(Outcome(f"{fault}, {target}", len(group), sum(not one.why for one in group), detail))
    return rows


def table(rows: Sequence[Outcome], results: Sequence[Result]) -> str:
    """The rows of a soak and their sum, then why what did not hold did not."""
    wide = max((len(row.fault) for row in rows), default=5)
    lines = [f"{'fault':<{wide}}  times  held  how to repeat"]
    lines += [f"{row.fault:<{wide}}  {row.times:5}  {row.held:4}  {row.detail}" for row in rows]
    lines.append(f"{'in all':<{wide}}  {sum(row.times for row in rows):5}  {sum(row.held for row in rows):4}")
    for one in results:
        if one.why:
            lines.append(f"did not hold: {one.target}, {one.fault} {one.number} ({one.what}): {one.why}")
    return "\n".join(lines)


def write(results: Sequence[Result], flags: SoakFlags, place: Place, more: Sequence[Outcome] = ()) -> None:
    """Writes soak.json: every injection, and the rows of the table."""
    rows = [*outcomes(results, flags.seed), *more]
    body = {
        "seed": flags.seed,
        "sources": place.folder.name,
        "table": [row._asdict() for row in rows],
        "injections": [one._asdict() for one in results],
    }
    atomic.write_text(Path(flags.workdir).expanduser() / REPORT, json.dumps(body, indent=1) + "\n")
