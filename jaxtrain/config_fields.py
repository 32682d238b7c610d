"""What a config is made of: fields with their flags' help, groups of them, JSON, and what a resumed run may change."""

import dataclasses
import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from jaxtrain import suggestions

ConfigT = Any  # an instance of a stage's frozen dataclass

HUB = "hf"  # the scheme of the Hugging Face Hub, whose files are read alone, as data
# Schemes of object stores, and the package that speaks each (files/paths.py).
BUCKETS = {"gs": "gcsfs", "s3": "s3fs", HUB: "huggingface_hub"}
# Packages whose errors are a bucket's.
_OF_BUCKETS = ("aiohttp", "botocore", "gcsfs", "google", "httpx", "httpx2", "huggingface_hub", "s3fs")


class ConfigError(ValueError):
    """A mistake of the user's: the message names the flag or file, and the remedy. Exit status 2."""


class Failure(RuntimeError):
    """A run cannot go on, though nothing in its command is wrong: the message says why. Exit status 1."""


def arg(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    live: bool = False,
    only: tuple[str, tuple[str, ...]] | None = None,
    remote: bool = False,
) -> Any:
    """A field with its flag's help. `low` and `high` are the least and greatest legal values; a `live` flag may change
    when a run resumes.

    `only`, (flag, values), says where it acts: changing it while that flag has another value is refused. A `remote`
    flag may name files in BUCKETS; any other that names one is refused.
    """
    metadata = {
        "help": help, "choices": choices, "low": low, "high": high, "live": live, "only": only, "remote": remote,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def group(cls: type, **defaults: Any) -> Any:
    """A group as a field of a stage's config, with the stage's own defaults."""
    return dataclasses.field(default_factory=lambda: cls(**defaults))


def is_remote(path: Path | str) -> bool:
    """Whether a path is of a bucket."""
    return str(path).startswith(tuple(f"{scheme}://" for scheme in BUCKETS))


def is_bucket_error(error: BaseException) -> bool:
    """Whether an error is of a bucket's library: the network, credentials, or what the store answered."""
    return type(error).__module__.partition(".")[0] in _OF_BUCKETS


class Group:
    """A group of flags. It checks what each field's `arg` says; a subclass's `check` adds rules between fields."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, low, choices = getattr(self, field.name), field.metadata["low"], field.metadata["choices"]
            if choices and value not in choices:
                near = suggestions.hint(value, choices)
                raise ConfigError(f"--{field.name}={value}: choose one of {', '.join(choices)}{near}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"--{field.name}={value}: must be a finite number")
            if low is not None and value < low:
                raise ConfigError(f"--{field.name}={value}: must be at least {low:g}")
            if (high := field.metadata["high"]) is not None and value > high:
                raise ConfigError(f"--{field.name}={value}: must be at most {high:,}")
        self.check()

    def check(self):
        """Raises ConfigError where two fields contradict each other."""


def leaves(config: ConfigT | type) -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """(group, field, value) of every flag of a config; of its defaults, for a class."""
    instance = config() if isinstance(config, type) else config
    for part in dataclasses.fields(instance):
        value = getattr(instance, part.name)
        for field in dataclasses.fields(value):
            yield part.name, field, getattr(value, field.name)


def listed(text: str) -> list[str]:
    """The parts of a flag's text that commas separate; those that are empty are none."""
    return [part for part in map(str.strip, text.split(",")) if part]


def require_default(part: Group, why: str, names: Collection[str] = (), usual: Group | None = None) -> None:
    """Raises ConfigError, `--x, --y: WHY; leave them out`, for the fields of a group, all or `names`, that differ from
    `usual`, by default the group's own defaults.
    """
    usual = usual or type(part)()
    wanted = names or [field.name for field in dataclasses.fields(part)]
    changed = [f"--{name}" for name in wanted if getattr(part, name) != getattr(usual, name)]
    if changed:
        raise ConfigError(f"{', '.join(changed)}: {why}; leave {'it' if len(changed) == 1 else 'them'} out")


def to_dict(config: ConfigT) -> dict[str, dict[str, Any]]:
    """The config as nested dicts of plain values, as config.json holds it."""
    return dataclasses.asdict(config)


def fixed_flags(config: ConfigT) -> dict[str, Any]:
    """name -> value of the flags that define a run: those that it cannot change when it resumes."""
    return {field.name: value for _, field, value in leaves(config) if not field.metadata["live"]}


def difference(old: dict[str, dict[str, Any]], new: ConfigT) -> list[str]:
    """One line for each flag whose change a resumed run cannot take over, `--lr: 0.1 -> 0.2`.

    A run that was started before a flag existed did what the flag's default does.
    """
    was = {field.name: value for _, field, value in leaves(type(new)())}
    was |= {name: value for part in old.values() for name, value in part.items()}
    return [
        f"--{field.name}: {was[field.name]} -> {value}"
        for _, field, value in leaves(new)
        if not field.metadata["live"] and was[field.name] != value
    ]


def dumps(value: Any) -> str:
    """JSON as this project writes it."""
    return json.dumps(value, indent=1, ensure_ascii=False)
