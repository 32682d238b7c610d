"""The combinations of flags that a sweep tries: every one of a grid, or random draws."""

import contextlib
import hashlib
import io
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtrain import flags
from jaxtrain.apps.sweep.config import SweepFlags
from jaxtrain.config import ConfigError, leaves

OWN = ("seed", "workdir", "dry_run", "flagfile")  # flags that the sweep itself sets, or that train nothing
_LONGEST = 80  # characters of a folder's name
_DIGITS = 4  # of a number that is drawn


class Range(NamedTuple):
    """Numbers from low to high, both included; whole ones where both ends are."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, rng: random.Random) -> str:
        """A number, uniform or log-uniform, as a flag's value."""
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return str(round(value)) if self.whole else f"{value:.{_DIGITS}g}"
        return (
            str(rng.randint(int(self.low), int(self.high)))
            if self.whole
            else f"{rng.uniform(self.low, self.high):.{_DIGITS}g}"
        )


class SweepTrial(NamedTuple):
    """A combination: the name of its folder, and flag -> value."""

    name: str
    flags: Mapping[str, str]


def trials(sweep: SweepFlags) -> list[SweepTrial]:
    """The combinations of --grid and --trials, each once. Raises ConfigError where there is none."""
    values = parse_grid(sweep.grid)
    if not sweep.trials:
        for name, choices in values.items():
            if isinstance(choices, Range):
                raise ConfigError(
                    f"--grid: {name} has a range; say with --trials how many combinations are drawn"
                )
        combined = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    else:
        rng = random.Random(sweep.trials_seed)
        combined = [
            {name: _draw(choices, rng) for name, choices in values.items()} for _ in range(sweep.trials)
        ]
    distinct = {tuple(sorted(one.items())): one for one in combined}
    return [SweepTrial(_name(one), one) for one in distinct.values()]


def _draw(choices: Sequence[str] | Range, rng: random.Random) -> str:
    return choices.draw(rng) if isinstance(choices, Range) else rng.choice(choices)


def parse_grid(text: str) -> dict[str, list[str] | Range]:
    """flag -> its values of --grid. Raises ConfigError."""
    if not text.strip():
        raise ConfigError(
            '--grid: name flags and their values, such as --grid="lr=1e-4|3e-4;batch_size=8|16"'
        )
    values: dict[str, list[str] | Range] = {}
    for part in filter(str.strip, text.split(";")):
        name, equals, rest = part.strip().removeprefix("--").partition("=")
        choices = [one.strip() for one in rest.split("|")]
        if not equals or not re.fullmatch(r"\w+", name) or not all(choices):
            raise ConfigError(f"--grid: {part.strip()!r} is no FLAG=VALUE|VALUE")
        if name in values:
            raise ConfigError(f"--grid: {name} stands twice")
        if name in OWN:
            raise ConfigError(f"--grid: the sweep sets --{name} itself (--repeats is the number of seeds)")
        if len({*choices}) < len(choices):
            raise ConfigError(f"--grid: {name} has a value twice")
        values[name] = _range(name, choices[0]) or choices if len(choices) == 1 else choices
    return values


def _range(name: str, text: str) -> Range | None:
    """LOW..HIGH or log:LOW..HIGH; None where a value is none. Paths such as ../runs are values."""
    log, plain = text.startswith("log:"), text.removeprefix("log:")
    ends = re.fullmatch(r"([-+.\w]+?)\.\.([-+.\w]+)", plain)
    try:
        low, high = (float(one) for one in ends.groups())
    except (AttributeError, ValueError):
        if log:
            raise ConfigError(f"--grid: {name}={text} is no log:LOW..HIGH, such as log:1e-5..1e-2") from None
        return None
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
        raise ConfigError(
            f"--grid: {name}={text}: write the lower end first, which is above 0 with log:, such as log:1e-5..1e-2"
        )
    return Range(low, high, log, all(re.fullmatch(r"[-+]?\d+", one) for one in ends.groups()))


def _name(values: Mapping[str, str]) -> str:
    """A folder's name that says the values; with a digest where it cannot say them all."""
    plain = "_".join(f"{name}-{value}" for name, value in values.items())
    short = re.sub(r"[^\w.+-]+", "-", plain)[:_LONGEST]
    if short == plain:
        return short
    return f"{short}-{hashlib.blake2b(repr(sorted(values.items())).encode(), digest_size=3).hexdigest()}"


def arguments(sweep: SweepFlags, trial: SweepTrial, seed: int, workdir: str) -> list[str]:
    """The flags of a run."""
    own = [f"--{name}={value}" for name, value in trial.flags.items()]
    return [*sweep.common_flags(), *own, f"--seed={seed}", f"--workdir={workdir}"]


def check(sweep: SweepFlags, found: Sequence[SweepTrial], cls: type) -> None:
    """Raises ConfigError where the command would refuse the flags of a run."""
    known = {field.name for _, field, _ in leaves(cls)}
    given = {re.split(r"=", one.lstrip("-"))[0].removeprefix("no") for one in sweep.common_flags()}
    if taken := sorted(given & {"seed", "workdir", "dry_run"}):
        raise ConfigError(f"--common: the sweep sets --{taken[0]} itself (--repeats is the number of seeds)")
    for trial in found:
        if twice := sorted(given & trial.flags.keys()):
            raise ConfigError(f"--common and --grid: both set --{twice[0]}")
        if unknown := sorted(trial.flags.keys() - known):
            raise ConfigError(f"--grid: {sweep.command} has no flag --{unknown[0]}")
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # notes, that each run repeats
                flags.from_flags(cls, arguments(sweep, trial, 0, sweep.out))
        except ConfigError as error:
            shown = " ".join(f"--{name}={value}" for name, value in trial.flags.items())
            raise ConfigError(f"--grid, --common: {sweep.command} {shown}: {error}") from error
