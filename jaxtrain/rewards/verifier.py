"""Rewards that a program verifies, as reward functions: options, columns of the records, counts of what went wrong."""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError

TIMED_OUT, FAILED = "timed_out", "failed"  # the check took too long; it raised, or its process ended
Options = Mapping[str, Any]


class Verification(NamedTuple):
    """The reward of one completion, None where the check does not apply; what went wrong, one of `faults`."""

    reward: float | None
    fault: str = ""
    detail: str = ""


class Verifier(NamedTuple):
    """A way to verify completions: (completions, columns, options) -> a Verification each.

    `options` are those that it takes, with their defaults. Those in `columns` name a field that the records must have,
    those in `optional` one that they may have: `columns` of the call are by option. Each of `faults` is a metric, the
    share of completions with it; the first of each is printed, unless it is in `quiet`, as an ordinary wrong answer is.
    """

    check: Callable[[Sequence[str], Mapping[str, list], Options], list[Verification]]
    options: Options
    columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    quiet: tuple[str, ...] = ()
    refuse: Callable[[Options], str] = lambda options: ""  # why these options, or this machine, cannot do
    lacks: Callable[[Options, Set[str]], str] = lambda options, names: (
        ""
    )  # which columns are not among `names`


@dataclasses.dataclass(frozen=True)
class VerifiedReward:
    """A reward function (completions, log_metric, **columns) -> a number or None a completion; equal by its options."""

    name: str = dataclasses.field(compare=False)  # in the metrics
    verifier: Verifier
    options: tuple[tuple[str, Any], ...]
    label: str = dataclasses.field(default="", compare=False)  # as messages name it

    @property
    def __signature__(self) -> inspect.Signature:
        options, kind = dict(self.options), inspect.Parameter.KEYWORD_ONLY
        needed = ["completions", "log_metric", *(options[name] for name in self.verifier.columns)]
        possible = [options[name] for name in self.verifier.optional]
        parameters = {name: inspect.Parameter(name, kind, default=None) for name in possible}
        parameters |= {name: inspect.Parameter(name, kind) for name in needed}
        return inspect.Signature(list(parameters.values()))

    def lacks(self, names: Set[str]) -> str:
        """Which columns the records do not have, of those that only some options or other columns need."""
        return self.verifier.lacks(MappingProxyType(dict(self.options)), names)

    @property
    def column_hint(self) -> str:
        """How to name other columns."""
        named = "&".join(f"{option}=COLUMN" for option in self.verifier.columns)
        return f"; write {self.name}?{named} for other columns" if named else ""

    def __call__(
        self, completions: Sequence[str], log_metric: Callable[[str, Any], None], **columns: list
    ) -> list[float | None]:
        """The rewards. Logs 1 or 0 a completion for each kind of fault."""
        options = dict(self.options)
        by_option = {
            option: columns.get(options[option]) or [None] * len(completions)
            for option in (*self.verifier.columns, *self.verifier.optional)
        }
        results = self.verifier.check(completions, by_option, MappingProxyType(options))
        for kind in self.verifier.faults:
            for one in results:
                log_metric(f"{self.name}/{kind}", float(one.fault == kind))
        for row, one in enumerate(results):
            if one.fault not in self.verifier.quiet:
                self._report(row, one)
        return [one.reward for one in results]

    def _report(self, row: int, one: Verification) -> None:
        """Prints the first fault of each kind; the others are in the metrics."""
        if not one.fault or (self.label, one.fault) in _REPORTED:
            return
        _REPORTED.add((self.label, one.fault))
        print(
            f"{self.label}: row {row}: {one.fault.replace('_', ' ')}: {one.detail}; such completions are "
            f"counted as {self.name}/{one.fault}",
            file=sys.stderr,
        )


_REPORTED: set[tuple[str, str]] = set()


def configured(
    name: str, verifier: Verifier, options: Sequence[tuple[str, str]], label: str
) -> VerifiedReward:
    """The reward function with these options; the option `name` is its name in the metrics.

    Raises ConfigError for an option that it does not have or a value that is none of it.
    """
    values, metric = dict(verifier.options), name
    for key, text in options:
        if key == "name":
            if not text.isidentifier():
                raise ConfigError(f"{label}: name={text}: write letters, digits and _, as of a metric")
            metric = text
        elif key not in values:
            raise ConfigError(f"{label}: {name} has no option {key}; it has {', '.join(['name', *values])}")
        else:
            values[key] = _value(f"{label}: {key}={text}", text, verifier.options[key])
    for option in (*verifier.columns, *verifier.optional):
        if not str(values[option]).isidentifier():
            raise ConfigError(f"{label}: {option}={values[option]}: no name of a column")
    if why := verifier.refuse(MappingProxyType(values)):
        raise ConfigError(f"{label}: {why}")
    return VerifiedReward(metric, verifier, tuple(values.items()), label)


def _value(where: str, text: str, default: Any) -> Any:
    """A value of the default's type. A number is above 0, as each of them is a limit."""
    if isinstance(default, str):
        return text
    try:
        value = type(default)(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigError(f"{where}: write {kind} above 0")
    return value
