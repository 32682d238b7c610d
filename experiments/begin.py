"""What can be refused before jax is loaded, and where a run's model comes from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.data import spec
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.data.tokenizer import load as load_tokenizer
from jaxtrain.models import zoo
from jaxtrain.train import workdir


class Start(NamedTuple):
    """Where a run's model comes from: the flags alone, or another run."""

    arch: zoo.Arch
    tokenizer: Tokenizer | None  # None: made from the data
    lineage: Mapping[str, Any]
    source: Path | None = None  # the run whose parameters are read
    step: int | None = None
    part: str = "params"  # where they stand in its state


def start(cfg: Any, *, causal: bool = True) -> Start:
    """The model and tokenizer that --model or --init_from name. Raises ConfigError for what cannot be trained."""
    made = (
        _of_run(cfg.model.init_from) if cfg.model.init_from else Start(zoo.resolve(cfg.model.model), None, {})
    )
    if causal and not made.arch.causal and not made.source:
        raise ConfigError(
            f"--model={cfg.model.model}: with causal=false a position sees the token that it is to predict: "
            "use --objective=masked, or leave it out"
        )
    if made.arch.max_len and cfg.data.seq_len > made.arch.max_len:
        name = f"--init_from={made.source}" if made.source else f"--model={cfg.model.model}"
        raise ConfigError(f"--seq_len={cfg.data.seq_len}: the context of {name} is {made.arch.max_len}")
    spec.check(cfg.data)
    return made._replace(arch=replace(made.arch, causal=causal))


def _of_run(text: str) -> Start:
    source, step = workdir.split_step(text)
    held = workdir.read_run(source)
    if "arch" not in held:
        raise ConfigError(f"--init_from={source}: the run ended before it had a model")
    lineage = {"run": str(source.absolute()), "stage": held["stage"], "step": step, "parent": held["parent"]}
    # An average of the parameters is what that run was evaluated with.
    part = "opt_state/average" if held["config"]["optim"]["ema"] else "params"
    arch = zoo.from_dict(held["arch"])
    return Start(arch, load_tokenizer(source / "tokenizer"), lineage, source, step, part)
