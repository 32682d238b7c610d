"""Config: frozen dataclasses, the flat flags generated from them, and JSON. The only place where a default lives.

A stage's config is a frozen dataclass whose fields are groups (`Data`, `Optim`, ...), each a frozen dataclass made
with `arg`. Every leaf becomes one flag of the same name; one name has one meaning in all stages. Only absl is imported
here, so that a wrong command line fails before jax is loaded.
"""

import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

ConfigT = Any  # an instance of a stage's frozen dataclass


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
    live: bool = False,
    only: tuple[str, tuple[str, ...]] | None = None,
) -> Any:
    """A field with its flag's help. `low` is the least legal value; a `live` flag may change when a run resumes.

    `only`, (flag, values), says where it acts: changing it while that flag has another value is refused.
    """
    found = {"help": help, "choices": choices, "low": low, "live": live, "only": only}
    return dataclasses.field(default=default, metadata=found)


def group(cls: type, **defaults: Any) -> Any:
    """A group as a field of a stage's config, with the stage's own defaults."""
    return dataclasses.field(default_factory=lambda: cls(**defaults))


class Group:
    """Checks what each field's `arg` promises; a subclass adds the contradictions between its fields."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, low, choices = getattr(self, field.name), field.metadata["low"], field.metadata["choices"]
            if choices and value not in choices:
                raise ConfigError(f"--{field.name}={value}: choose one of {', '.join(choices)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"--{field.name}={value}: must be a finite number")
            if low is not None and value < low:
                raise ConfigError(f"--{field.name}={value}: must be at least {low:g}")
        self.check()

    def check(self):
        """Raises ConfigError where two fields contradict each other."""


@dataclasses.dataclass(frozen=True)
class Model(Group):
    # fmt: off
    model: str = arg("tinytown-1m",
        "Named size, with changes after commas: nano,layers=8,window=128 (models/zoo.py)",
        only=("init_from", ("",)))
    init_from: str = arg("",
        "Start from this run's parameters, model and tokenizer (a workdir, or WORKDIR@STEP)")
    dtype: str = arg("auto",
        "Compute type; parameters stay f32. auto: bfloat16 on GPU and TPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"), live=True)
    attention: str = arg("auto", "Attention kernel. auto: cudnn on GPU, splash on TPU, blocked on CPU",
        choices=("auto", "blocked", "xla", "cudnn", "splash"), live=True)
    scan_layers: str = arg("auto",
        "Scan over layers: compiles faster, runs 2.2 times slower on a CPU. auto: off on CPU",
        choices=("auto", "true", "false"), live=True)
    remat: str = arg("none", "What the backward pass computes again: nothing, all but the matmuls, all",
        choices=("none", "dots", "full"), live=True)
    logits_limit_mb: int = arg(1024,
        "Most MiB of f32[B, T, V] a device may hold; above it the vocabulary op works in chunks of T",
        low=1, live=True)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Data(Group):
    # fmt: off
    data: str = arg("tinytown:pretrain",
        "Training data: tinytown:CONFIG, tfds:NAME[:SPLIT], hf:NAME[:SPLIT], jsonl:GLOB; mixed by "
        "weight: a*0.7,b*0.3")
    eval_data: str = arg("",
        "Held-out data of the same form; empty: the data's own validation or test split, or eval_share of it")
    eval_share: float = arg(0.02, "Share of the documents held out where the data has no test split", low=0,
        only=("eval_data", ("",)))
    tokenizer: str = arg("bpe:1024",
        "byte, bpe:SIZE (trained on the data), or a tokenizer.json or SentencePiece file",
        only=("init_from", ("",)))
    text_field: str = arg("text", "Field of a record that holds the text")
    on_bad_record: str = arg("raise",
        "A record that is broken or lacks the field: stop, or skip, count and list it",
        choices=("raise", "skip"))
    objective: str = arg("next_token",
        "What is predicted: the next token, masked tokens (bidirectional attention), or the next "
        "token with middles moved last", choices=("next_token", "masked", "fim"))
    mask_rate: float = arg(0.15, "Share of tokens to predict", low=0, only=("objective", ("masked",)))
    fim_rate: float = arg(0.5, "Share of documents rearranged", low=0, only=("objective", ("fim",)))
    seq_len: int = arg(128, "Tokens in a row (T)", low=2)
    batch_size: int = arg(8, "Rows in a global batch (B), over all devices, hosts and microbatches", low=1)
    cache_dir: str = arg("~/.cache/jaxtrain", "Where prepared data sets and packed tokens are kept",
        live=True)
    # fmt: on

    def check(self):
        for name in ("mask_rate", "fim_rate", "eval_share"):
            if getattr(self, name) > 1:
                raise ConfigError(f"--{name}={getattr(self, name)}: a share, at most 1")


@dataclasses.dataclass(frozen=True)
class Optim(Group):
    # fmt: off
    optimizer: str = arg("adamw", "Optimizer",
        choices=("adamw", "lion", "adafactor", "sgd", "rmsprop", "muon"))
    lr: float = arg(4e-3, "Peak learning rate", low=0)
    schedule: str = arg("cosine",
        "Learning rate after warm-up; wsd: constant, then linear to the end over decay_share",
        choices=("constant", "linear", "cosine", "wsd"))
    warmup: int = arg(50, "Steps of linear warm-up from 0", low=0)
    end_lr: float = arg(0.1, "Final learning rate as a share of lr", low=0,
        only=("schedule", ("linear", "cosine", "wsd")))
    decay_share: float = arg(0.2, "Share of the steps in which the rate decays", low=0,
        only=("schedule", ("wsd",)))
    weight_decay: float = arg(0.1,
        "Decoupled weight decay, on matrices only: not on norms, biases or embeddings", low=0)
    b1: float = arg(0.9, "Decay of the first moment (momentum, for sgd, rmsprop and muon)", low=0,
        only=("optimizer", ("adamw", "lion", "sgd", "rmsprop", "muon")))
    b2: float = arg(0.98, "Decay of the second moment", low=0,
        only=("optimizer", ("adamw", "lion", "rmsprop", "muon")))
    eps: float = arg(1e-8, "Added to the root of the second moment", low=0,
        only=("optimizer", ("adamw", "rmsprop", "muon")))
    clip: float = arg(1.0, "Most global norm of a gradient; 0 does not clip", low=0)
    ema: float = arg(0.0, "Decay of the moving average of the parameters; 0 keeps none", low=0)
    microbatches: int = arg(1, "Parts that a batch is worked through in; the result is the same", low=1,
        live=True)
    # fmt: on

    def check(self):
        for name in ("b1", "b2", "ema"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"--{name}={getattr(self, name)}: must be below 1")
        if self.decay_share > 1:
            raise ConfigError(f"--decay_share={self.decay_share}: a share, at most 1")


@dataclasses.dataclass(frozen=True)
class Run(Group):
    # fmt: off
    workdir: str = arg("auto",
        "Where the run lives; the same command resumes it. auto: runs/STAGE for the default model and"
        " data, else runs/STAGE-MODEL-DATA", live=True)
    steps: int = arg(1500, "Training steps", low=1)
    seed: int = arg(0, "Seed of initialisation, data order and sampling", low=0)
    parallel: str = arg("auto",
        "pmap (replicated), or mesh (sharded). auto: pmap for one process without --mesh",
        choices=("auto", "pmap", "mesh"), live=True)
    mesh: str = arg("", "Mesh axes and sizes, data:2,fsdp:4,tensor:1; -1 takes the rest of the devices",
        live=True)
    eval_every: int = arg(500, "Steps between evaluations; 0: only at the end", low=0, live=True)
    eval_batches: int = arg(16, "Most held-out batches in an evaluation; 0: all", low=0, live=True)
    sample_every: int = arg(500, "Steps between samples; 0: only at the end", low=0, live=True,
        only=("objective", ("next_token", "fim")))
    checkpoint_every: int = arg(500, "Steps between checkpoints; 0: only at the end", low=0, live=True)
    keep: int = arg(2, "Checkpoints kept, the newest ones", low=1, live=True)
    log_every: int = arg(10, "Steps between lines of metrics", low=1, live=True)
    max_skips: int = arg(10,
        "Steps in a row whose loss or gradient is not finite, after which the run stops", low=1, live=True)
    dry_run: bool = arg(False,
        "Show the data, the sizes and the cost of a step, check the first step, and stop", live=True)
    # fmt: on

    def check(self):
        sizes = parse_mesh(self.mesh)
        if self.parallel == "pmap" and any(sizes.get(axis, 1) != 1 for axis in ("fsdp", "tensor")):
            raise ConfigError(
                f"--parallel=pmap replicates the model, --mesh={self.mesh} shards it: "
                "use --parallel=mesh, or only the data axis"
            )


MESH_AXES = ("data", "fsdp", "tensor")


def parse_mesh(text: str) -> dict[str, int]:
    """`data:2,fsdp:-1` as {"data": 2, "fsdp": -1}."""
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition(":")
        if axis not in MESH_AXES or axis in sizes or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise ConfigError(
                f"--mesh={text}: write AXIS:SIZE,... with axes {', '.join(MESH_AXES)}, each once, "
                "sizes of 1 or more, or -1 for the rest"
            )
        sizes[axis] = int(size)
    if list(sizes.values()).count(-1) > 1:
        raise ConfigError(f"--mesh={text}: only one axis can take the rest (-1)")
    return sizes


def leaves(config: ConfigT | type) -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """(group, field, value) of every flag of a config; of its defaults, for a class."""
    instance = config() if isinstance(config, type) else config
    for part in dataclasses.fields(instance):
        value = getattr(instance, part.name)
        for field in dataclasses.fields(value):
            yield part.name, field, getattr(value, field.name)


def _define(cls: type) -> flags.FlagValues:
    values = flags.FlagValues()
    kinds = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for part, field, default in leaves(cls):
        if field.name in values:
            raise AssertionError(f"two fields are called {field.name}: a flag's name has one meaning")
        choices = field.metadata["choices"]
        text = field.metadata["help"] + (f" ({', '.join(choices)})" if choices else "")
        kinds[type(default)](field.name, default, text, flag_values=values, module_name=part)
    flags.DEFINE_bool("help", False, "Show this", short_name="h", flag_values=values, module_name="other")
    return values


def from_flags(cls: type, argv: list[str]) -> ConfigT | None:
    """The config that a command line says; None if it asked for help. `argv` is without the program's name."""
    values = _define(cls)
    try:
        rest = values(["", *argv])[1:]
    except flags.Error as error:
        said = str(error).removeprefix("ERROR:: ")
        raise ConfigError(f"{said} (--help lists the flags)") from error
    if rest:
        raise ConfigError(f"{rest[0]!r} is not a flag: write --name=value (--help lists the flags)")
    return (
        None
        if values.help
        else _build(cls, {field.name: values[field.name].value for _, field, _ in leaves(cls)})
    )


def _build(cls: type, values: dict[str, Any]) -> ConfigT:
    default = cls()
    groups = {}
    for part in dataclasses.fields(cls):
        old = getattr(default, part.name)
        names = [field.name for field in dataclasses.fields(old)]
        groups[part.name] = dataclasses.replace(old, **{name: values[name] for name in names})
    made = cls(**groups)
    _check_pairs(made, default)
    return made


def _check_pairs(made: ConfigT, default: ConfigT) -> None:
    """Raises ConfigError for flags of different groups that contradict each other, and for those without effect."""
    values = {field.name: value for _, field, value in leaves(made)}
    for (_, field, value), (_, _, usual) in zip(leaves(made), leaves(default), strict=True):
        flag, legal = field.metadata["only"] or ("", ())
        if value == usual or flag not in values or values[flag] in legal:
            continue
        if legal == ("",):
            raise ConfigError(
                f"--{field.name}={value} and --{flag}={values[flag]} both say it: leave out one of them"
            )
        raise ConfigError(
            f"--{field.name}={value} acts only with --{flag}={' or '.join(legal)}, and it is {values[flag]}: "
            "leave out one of them"
        )
    if values.get("warmup", 0) >= values.get("steps", math.inf):
        raise ConfigError(
            f"--warmup={values['warmup']}: the warm-up must end before --steps={values['steps']}; lower it"
        )
    if values.get("batch_size", 0) % values.get("microbatches", 1):
        raise ConfigError(
            f"--batch_size={values['batch_size']} does not split into --microbatches={values['microbatches']}: "
            "use a multiple"
        )


def usage(cls: type, program: str) -> str:
    """The text of --help: the flags by group, and where presets come from."""
    lines = [f"{program} [--flag=value ...] [--flagfile=experiments/recipes/NAME.flags]"]
    last = ""
    for part, field, default in leaves(cls):
        if part != last:
            lines += ["", f"{part}:"]
            last = part
        choices = field.metadata["choices"]
        shown = str(default).lower() if isinstance(default, bool) else default
        head = f"  --{field.name}={'|'.join(choices) if choices else type(default).__name__}"
        other, legal = field.metadata["only"] or ("", ())
        only = f" (with --{other}={'|'.join(legal)})" if any(legal) else ""
        text = field.metadata["help"] + only + (f" [{shown}]" if shown != "" else "")
        lines += [head, *_wrap(text, "      ")]
    return "\n".join(lines)


def _wrap(text: str, indent: str, width: int = 78) -> list[str]:
    import textwrap  # only --help needs it

    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def to_dict(config: ConfigT) -> dict[str, dict[str, Any]]:
    """The config as nested dicts of plain values, as config.json holds it."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: dict[str, dict[str, Any]]) -> ConfigT:
    """The inverse of `to_dict`. Unknown or missing names raise ConfigError."""
    flat = {name: value for part in values.values() for name, value in part.items()}
    known = {field.name for _, field, _ in leaves(cls)}
    if flat.keys() != known:
        raise ConfigError(
            f"config of another version: unknown {sorted(flat.keys() - known)}, "
            f"missing {sorted(known - flat.keys())}"
        )
    return _build(cls, flat)


def difference(old: dict[str, dict[str, Any]], new: ConfigT) -> list[str]:
    """One line for each flag whose change a resumed run cannot take over, `--lr: 0.1 -> 0.2`."""
    was = {name: value for part in old.values() for name, value in part.items()}
    return [
        f"--{field.name}: {was.get(field.name, '(none)')} -> {value}"
        for _, field, value in leaves(new)
        if not field.metadata["live"] and was.get(field.name) != value
    ]


def workdir(config: ConfigT, stage: str) -> Path:
    """The run's folder; `auto` names it after what differs from the stage's default model and data."""
    if config.run.workdir != "auto":
        return Path(config.run.workdir).expanduser()
    default = type(config)()
    model, data = config.model.model, config.data.data
    if (model, data) == (default.model.model, default.data.data):
        return Path("runs") / stage
    stem = "+".join(part.split("*")[0].rsplit("/", 1)[-1].split(".")[0] for part in data.split(","))
    name = f"{stage}-{model}-{stem}"
    return Path("runs") / "".join(c if c.isalnum() or c in "-_+." else "-" for c in name)


def launch(cls: type, main: Callable[[ConfigT], Any], program: str) -> None:
    """Runs a stage's main on the command line. What it can explain is one message without a traceback.

    Exit status 2 for a ConfigError, which the same command would meet again; 1 for a Failure or an OSError, such as a
    full disk; 130 for Ctrl-C.
    """
    try:
        config = from_flags(cls, sys.argv[1:])
        if config is None:
            print(usage(cls, program))
            return
        main(config)
        return
    except ConfigError as error:
        status, said = 2, [error, *getattr(error, "__notes__", ())]
    except (Failure, OSError) as error:
        status, said = 1, [error, *getattr(error, "__notes__", ())]
    except KeyboardInterrupt:
        status, said = 130, ["interrupted"]
    print("error:", "\n".join(map(str, said)), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Exit handlers would wait for the other processes of the run, and those for this one.
    os._exit(status)


def dumps(value: Any) -> str:
    """JSON as this project writes it."""
    return json.dumps(value, indent=1, ensure_ascii=False)
