"""--init_from: which architecture, tokenizer and checkpoints a model comes from. jax is not imported."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Lora, StageConfig
from jaxtrain.data import source_spec
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.data.tokenizer import load as load_tokenizer
from jaxtrain.models import hf_config, zoo
from jaxtrain.train import workdir


class CheckpointRef(NamedTuple):
    """A checkpoint on disk: a run's, a Hugging Face directory's, or a run's adapters for the one before it."""

    path: Path
    hf: bool = False
    step: int | None = None
    part: str = "params"  # where they stand in the run's state
    lora: Lora | None = None


class InitFrom(NamedTuple):
    """The origin of a model: --model alone, or another run's or project's checkpoints."""

    arch: zoo.Arch
    tokenizer: Tokenizer | None  # None: made from the data
    lineage: Mapping[str, Any]
    origins: tuple[
        CheckpointRef, ...
    ] = ()  # the parameters, then adapters that are merged into them, in order


def resolve(cfg: StageConfig, *, causal: bool = True, needed: bool = False) -> InitFrom:
    """The model and tokenizer that --model or --init_from name. Raises ConfigError for what cannot be trained.

    `needed`: the stage goes on from another model.
    """
    result = (
        load_run(cfg.model.init_from)
        if cfg.model.init_from
        else InitFrom(zoo.resolve(cfg.model.model), None, {})
    )
    if needed and not result.origins:
        raise ConfigError("--init_from: name the run to start from, such as runs/pretrain, or hf:DIR")
    if not result.origins and cfg.lora.lora_rank:
        raise ConfigError("--lora_rank: adapters change a trained model; name it with --init_from")
    if causal and not result.arch.causal and not result.origins:
        raise ConfigError(
            f"--model={cfg.model.model}: with causal=false a position sees the token that it is to predict: "
            "use --objective=masked, or leave it out"
        )
    if result.arch.max_len and cfg.data.seq_len > result.arch.max_len:
        name = f"--init_from={cfg.model.init_from}" if result.origins else f"--model={cfg.model.model}"
        raise ConfigError(f"--seq_len={cfg.data.seq_len}: the context of {name} is {result.arch.max_len}")
    source_spec.check(cfg.data)
    return result._replace(arch=replace(result.arch, causal=causal))


def load_run(text: str, flag: str = "init_from", *, causal: bool = False) -> InitFrom:
    """The model, tokenizer and checkpoints of WORKDIR, WORKDIR@STEP or hf:DIR, which --`flag` names.

    Raises ConfigError for what is no language model; `causal`: for one that does not predict the next token.
    """
    result = _of_hf(text) if text.startswith("hf:") else _of_run(text, flag)
    if causal and not result.arch.causal:
        raise ConfigError(f"--{flag}={text}: not a causal language model (trained on masked tokens)")
    return result


def _of_run(text: str, flag: str) -> InitFrom:
    source, step = workdir.split_step(text)
    record = workdir.read_run(source, f"--{flag}")
    if "arch" not in record:
        raise ConfigError(f"--{flag}={source}: the run ended before it had a model")
    if record["stage"] == "reward":
        raise ConfigError(f"--{flag}={source}: a reward model; name the run of a language model")
    lineage = {
        "run": str(source.absolute()),
        "stage": record["stage"],
        "step": step,
        "parent": record["parent"],
    }
    # An average of the parameters is what that run was evaluated with.
    part = "opt_state/average" if record["config"]["optim"]["ema"] else "params"
    if record.get("branch"):
        part = f"{part}/{record['branch']}"
    lora = Lora(**record["config"].get("lora", {}))
    own = CheckpointRef(source, step=step, part=part, lora=lora if lora.lora_rank else None)
    before = load_run(record["parent"]["origin"], flag).origins if own.lora else ()
    tokenizer = load_tokenizer(source / "tokenizer")
    pinned = own.step or workdir.newest_step(source)
    lineage["origin"] = f"{source.absolute()}@{pinned}" if pinned else str(source.absolute())
    return InitFrom(zoo.from_dict(record["arch"]), tokenizer, lineage, (*before, own))


def _of_hf(text: str) -> InitFrom:
    folder = Path(text.removeprefix("hf:")).expanduser()
    arch = hf_config.read(folder)
    lineage = {"run": None, "stage": "hf", "step": None, "parent": {}, "origin": f"hf:{folder.absolute()}"}
    return InitFrom(arch, load_tokenizer(folder), lineage, (CheckpointRef(folder, hf=True),))
