"""What --env names: environments with their shares of the episodes. jax is not imported here."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import source_spec
from jaxtrain.data.messages import Message
from jaxtrain.rewards import function_import, reward_spec
from jaxtrain.rl import gsm8k, tool_environment
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.rl.environments import Environment

_SPEC = re.compile(r"(?P<name>.+:[^\W\d][\w.]*?)(?:\*(?P<weight>[^*]*))?", re.DOTALL)
_OF_DATA = re.compile(rf"(?P<name>{gsm8k.PREFIX}.+?)(?:\*(?P<weight>\.?\d[^*/]*))?", re.DOTALL)
WORLD = "tinytown:"  # before the names of the environments that come with the library


class EnvironmentSpec(NamedTuple):
    """An environment that --env names."""

    name: str
    make: Callable[[], Environment]
    share: float  # of the episodes
    data: str = ""  # the source of its problems, where it has one: --env=gsm8k:DATA

    @property
    def label(self) -> str:
        """The environment as messages name it."""
        return f"--env={self.name}"


def resolve(text: str) -> list[EnvironmentSpec]:
    """The environments that --env names: ENV[,ENV ...], each NAME[*WEIGHT]. Raises ConfigError, naming the part."""
    label = f"--env={text}"
    matches = _parts(label, text)
    weights = [_weight(label, match["weight"]) for match in matches]
    names = [match["name"] for match in matches]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{label}: {min(twice)} stands there twice")
    return [
        EnvironmentSpec(name, _made_by(label, name), weight / sum(weights), _data_of(name))
        for name, weight in zip(names, weights, strict=True)
    ]


def _parts(label: str, text: str) -> list[re.Match]:
    matches, left = reward_spec.split(
        text, lambda part: (_OF_DATA if part.startswith(gsm8k.PREFIX) else _SPEC).fullmatch(part)
    )
    if left or not text.rpartition(",")[2].strip():
        known = ", ".join(WORLD + name for name in tool_environment.shipped())
        raise ConfigError(
            f"{label}: write MODULE:CLASS, FILE.py:CLASS, gsm8k:DATA, or one of {known}; *WEIGHT may follow"
        )
    return matches


def _weight(label: str, text: str | None) -> float:
    try:
        weight = 1.0 if text is None else float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ConfigError(f"{label}: the weight *{text} is not a number above 0")
    return weight


def _data_of(name: str) -> str:
    return name.removeprefix(gsm8k.PREFIX) if name.startswith(gsm8k.PREFIX) else ""


def open_data(
    specs: Sequence[EnvironmentSpec],
    data: Dialogs,
    fits: Callable[[Sequence[Message], Mapping[str, Any]], bool],
) -> tuple[list[EnvironmentSpec], list[str]]:
    """(the environments with the problems of their data whose first messages fit, lines about them, for people).

    Raises ConfigError where data cannot be used.
    """
    ready, lines = [], []
    for spec in specs:
        if spec.data:
            make, about = gsm8k.open_problems(spec.data, data, fits)
            spec, lines = spec._replace(make=make), [*lines, *about]
        ready.append(spec)
    return ready, lines


def digests(text: str, data: Dialogs) -> list[str]:
    """Of each environment of --env that has data its digest. Raises ConfigError where that cannot be used."""
    specs = resolve(text) if text else []
    return [gsm8k.read_problems(spec.data, data).digest for spec in specs if spec.data]


def _made_by(label: str, name: str) -> Callable[[], Environment]:
    if name.startswith(gsm8k.PREFIX):
        return gsm8k.Gsm8k
    if name.startswith(WORLD):
        shipped = tool_environment.shipped()
        if name.removeprefix(WORLD) not in shipped:
            raise ConfigError(
                f"{label}: no environment {name}; there are {', '.join(WORLD + n for n in shipped)}"
            )
        return shipped[name.removeprefix(WORLD)]
    module, _, path = name.rpartition(":")
    found = function_import.module_of(label, module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{label}: {module} has no {path}")
        found = getattr(found, part)
    for method, arguments in (("reset", ({}, 0)), ("step", ("",))):
        function = getattr(found, method, None)
        if not callable(function):
            raise ConfigError(
                f"{label}: {path} has no method {method}: write a class with reset(self, row, seed) and "
                "step(self, completion)"
            )
        if inspect.iscoroutinefunction(function):
            raise ConfigError(
                f"{label}: {path}.{method} is a coroutine: write it without async, it has a thread of its own"
            )
        self = (None,) if inspect.isclass(found) else ()
        _require_call(f"{label}: {path}.{method}", function, *self, *arguments)
    if not inspect.isclass(found):
        raise ConfigError(f"{label}: {path} is one instance for all episodes: name its class")
    _require_call(f"{label}: {path}", found)
    return found


def _require_call(label: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Raises ConfigError where a function cannot be called with the arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise ConfigError(f"{label} cannot be called as it is: {error}") from error
    except ValueError:
        return  # one without a signature, in C


def check(cfg: WatchedStageConfig) -> None:
    """Raises ConfigError for an --env that cannot be used, and for flags that have no meaning beside it."""
    if not cfg.episodes.env:
        return
    for spec in resolve(cfg.episodes.env):
        if spec.data:
            source_spec.check_sources(spec.data, cfg.data, "env")
    refused = {
        "watch_reward": cfg.watch.watch_reward,
        "keep_best": cfg.run.keep_best,
        "truncate_at": cfg.scores.truncate_at,
        "overlong_buffer": cfg.scores.overlong_buffer,
        "stop_at_end": "" if cfg.samples.stop_at_end else "false",
    }
    for name, value in refused.items():
        if value:
            raise ConfigError(f"--{name}={value}: it is about single completions, and --env samples episodes")


def chosen(specs: Sequence[EnvironmentSpec], seed: int, number: int) -> EnvironmentSpec:
    """The environment of the run's prompt `number`, at random by weight; a function of seed and number alone."""
    rng = np.random.default_rng((seed, 3, number))
    return specs[int(rng.choice(len(specs), p=[spec.share for spec in specs]))]


def episode_seed(seed: int, number: int) -> int:
    """The seed, u32, of the episodes of the run's prompt `number`."""
    return int(np.random.SeedSequence((seed, 4, number)).generate_state(1)[0])
