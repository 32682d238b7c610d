"""The configs of the Tinytown data set, their options, splits and columns; imports nothing heavy."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

VERSION = "1.0.0"
_DEFECTS = ("dup", "near_dup", "junk", "spam", "pii")
_STYLE = ("detail", "warn", "refuse", "evade", "rude", "wrong", "balk")
_SHARES = {*_DEFECTS, *_STYLE, "faulty", "slip", "patient"}
_CHOICES = {
    "turns": ("plain", "hh"),
    "group": ("", "A", "B"),
    "family": ("", "ben", "risk", "harm", "fact", "sum", "str", "help"),
    "task": ("", "search", "calculator", "twenty_questions"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every config: rows of train, rows of each other split, the seed, the largest addend."""

    documents: int = 20_000
    held_out: int = 1_000
    seed: int = 0
    sums: int = 9

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one.name, getattr(self, one.name))


def _check(name: str, value: Any) -> None:
    if name in ("documents", "held_out", "originals") and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    if name == "seed" and not 0 <= value < 2**63:
        raise ValueError(f"seed must be in 0..2**63-1, got {value}")
    if name == "sums" and not 1 <= value <= 19:
        raise ValueError(f"sums, the largest addend, must be in 1..19, got {value}")
    if name == "temperature" and not value > 0:
        raise ValueError(f"temperature must be positive, got {value}")
    if name in _SHARES and not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in 0..1, got {value}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, _CHOICES[name]))}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Pretrain(Options):
    """Text, with shares of the train split given to planted defects.

    `dup` and `near_dup` repeat one of the first `originals` documents, drawn by Zipf's law; those are clean.
    """

    documents: int = 100_000
    held_out: int = 4_000
    turns: str = "plain"
    dup: float = 0.0
    near_dup: float = 0.0
    junk: float = 0.0
    spam: float = 0.0
    pii: float = 0.0
    originals: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        total = sum(self.defects().values())
        if total > 1.0 + 1e-9:
            raise ValueError(f"the shares of defects exceed 1: {self.defects()}")
        if total and self.originals >= self.documents:
            raise ValueError(
                f"the first originals={self.originals} documents stay clean, so documents={self.documents} "
                "leaves no room for defects; raise documents or lower originals"
            )

    def defects(self) -> dict[str, float]:
        """The share of each defect."""
        return {name: getattr(self, name) for name in _DEFECTS}


@dataclass(frozen=True, kw_only=True)
class Styled(Options):
    """Options of configs that show answers: how often an answer has each trait."""

    detail: float = 0.3
    warn: float = 0.2
    refuse: float = 0.12
    evade: float = 0.0
    rude: float = 0.1
    wrong: float = 0.0
    balk: float = 0.0

    def style(self) -> dict[str, float]:
        """The traits of `answers.TownStyle`."""
        return {name: getattr(self, name) for name in _STYLE}


@dataclass(frozen=True, kw_only=True)
class Sft(Styled):
    """Demonstrations: right, mostly terse, seldom cautious, mostly compliant."""


@dataclass(frozen=True, kw_only=True)
class Preferences(Styled):
    """Pairs of distinct answers and an annotator's choice; at the default temperature two agree on 73 %.

    Of every family, of one, or of all but harm where `family` is help. `slip` is the share of answers in which a word
    is that of another answer, as in what a model samples.
    """

    detail: float = 0.35
    warn: float = 0.3
    refuse: float = 0.25
    evade: float = 0.05
    rude: float = 0.15
    wrong: float = 0.15
    temperature: float = 0.8
    group: str = ""
    family: str = ""
    slip: float = field(default=0.0, repr=False)  # newer than the fingerprints, which contain the repr


@dataclass(frozen=True, kw_only=True)
class Prompts(Options):
    """Distinct prompts of every family, or as many of one `family` as there are; help is all but harm."""

    documents: int = 1_024
    held_out: int = 256
    family: str = ""


@dataclass(frozen=True, kw_only=True)
class Redteam(Options):
    """Distinct prompts that ask for harm."""

    documents: int = 512
    held_out: int = 96


@dataclass(frozen=True, kw_only=True)
class Constitution(Options):
    """Critique and revision records, a share `faulty` of which find a violation."""

    documents: int = 10_000
    held_out: int = 500
    turns: str = "plain"
    faulty: float = 0.65


@dataclass(frozen=True, kw_only=True)
class Demonstrations(Options):
    """Demonstrations of --env=tinytown:TASK, of one task or of all.

    A share `patient` of the players use the tool, or ask until one person is left; the others guess.
    """

    documents: int = 4_000
    held_out: int = 200
    task: str = ""
    patient: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Reviews(Options):
    """Short reviews with a gold score that praise alone cannot maximise."""

    documents: int = 30_000
    held_out: int = 2_000


CONFIGS: Mapping[str, type[Options]] = {
    "pretrain": Pretrain,
    "sft": Sft,
    "preferences": Preferences,
    "prompts": Prompts,
    "redteam": Redteam,
    "constitution": Constitution,
    "demonstrations": Demonstrations,
    "reviews": Reviews,
}
# Validation is drawn as train is, with other choices; test shows what train holds out.
SPLITS: Mapping[str, tuple[str, ...]] = {
    name: ("train", "test") if name in ("prompts", "redteam") else ("train", "validation", "test")
    for name in CONFIGS
}
# column -> its type, in the order of the rows
COLUMNS: Mapping[str, Mapping[str, type]] = {
    "pretrain": {"text": str, "logp": float, "kind": str, "defect": str, "source": int, "planted": str},
    "sft": {"instruction": str, "response": str, "family": str, "logp": float},
    "preferences": {
        "prompt": str,
        "chosen": str,
        "rejected": str,
        "reward_chosen": float,
        "reward_rejected": float,
        "p_win": float,
        "family": str,
    },
    "prompts": {"prompt": str, "answer": str, "family": str},
    "redteam": {"prompt": str, "answer": str, "family": str},
    "constitution": {
        "prompt": str,
        "response": str,
        "principle": str,
        "request": str,
        "critique": str,
        "revision": str,
        "faulty": int,
        "text": str,
    },
    "demonstrations": {"messages": str, "task": str},  # messages: a JSON list
    "reviews": {"text": str, "logp": float, "reward": float},
}


def resolve(config: str, options: Mapping[str, Any] | None = None) -> Options:
    """The options of `config`, those in `options` set, values may be text; ValueError names the remedy."""
    if config not in CONFIGS:
        raise ValueError(f"tinytown has no config {config!r}; choose one of {', '.join(CONFIGS)}")
    kinds = {one.name: type(one.default) for one in fields(CONFIGS[config])}
    values = {}
    for name, value in (options or {}).items():
        if name not in kinds:
            raise ValueError(f"tinytown:{config} has no option {name!r}; it has {', '.join(kinds)}")
        values[name] = _convert(config, name, value, kinds[name])
    return CONFIGS[config](**values)


def _convert(config: str, name: str, value: Any, kind: type) -> Any:
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    if isinstance(value, str) or (kind is float and isinstance(value, int)):
        try:
            return kind(value)
        except ValueError:
            pass
    raise ValueError(f"tinytown:{config} option {name} takes {kind.__name__}, got {value!r}")


def split_size(options: Options, split: str) -> int:
    """How many rows a split has."""
    count = options.documents if split == "train" else options.held_out
    if not isinstance(options, Prompts) or not options.family:
        return count
    from jaxtrain.worlds.tinytown.prompts import (  # its draws load numpy, which flags need not
        families_of,
        space,
    )

    where = space(options.sums, split == "test")
    return min(count, sum(len(where.prompts[family]) for family in families_of(options.family)))


def check_split(config: str, split: str) -> None:
    """Raises ValueError unless `split`, an optional slice such as [:50%] aside, is one of the config's."""
    if split.partition("[")[0] not in SPLITS[config]:
        raise ValueError(f"tinytown:{config} has no split {split!r}; it has {', '.join(SPLITS[config])}")


def full_name(config: str, options: Options) -> str:
    """The config's name, with a digest of the options that are not the default ones."""
    changed = {k: v for k, v in asdict(options).items() if v != getattr(CONFIGS[config](), k)}
    if not changed:
        return config
    digest = hashlib.blake2b(json.dumps(changed, sort_keys=True).encode(), digest_size=5).hexdigest()
    return f"{config}-{digest}"
