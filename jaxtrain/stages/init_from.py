"""--init_from: which architecture, tokenizer and checkpoints a model comes from. jax is not imported."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError, Lora, StageConfig
from jaxtrain.data import source_spec
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.data.tokenizer import load as load_tokenizer
from jaxtrain.files import hf_hub, paths
from jaxtrain.models import hf_config, hf_generation, peft, zoo
from jaxtrain.train import best_checkpoint, trackers, workdir


class CheckpointRef(NamedTuple):
    """A checkpoint on disk: a run's, a Hugging Face directory's, or adapters of either for the one before it."""

    path: Path
    hf: bool = False
    hub: str = ""  # NAME@COMMIT of the Hub that the directory is a copy of
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
    generation: Mapping[
        str, Any
    ] = {}  # generation_config.json of the Hugging Face model that it descends from


def resolve(cfg: StageConfig, *, causal: bool = True, needed: bool = False) -> InitFrom:
    """The model and tokenizer that --model or --init_from name. Raises ConfigError for what cannot be trained, for
    a --workdir in a bucket that cannot be used, and for a --keep_best that says no direction.

    `needed`: the stage goes on from another model.
    """
    paths.parse(cfg.run.workdir, "workdir")
    best_checkpoint.parse(cfg.run.keep_best)
    trackers.require(cfg.run.trackers())
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
    """The model, tokenizer and checkpoints of WORKDIR, WORKDIR@STEP, hf:DIR or hf:ORG/NAME, which --`flag` names.

    Raises ConfigError for what is not a language model; `causal`: for one that does not predict the next token.
    """
    result = _of_hf(text, flag) if text.startswith(hf_hub.PREFIX) else _of_run(text, flag)
    require_rows(result.arch.vocab, result.tokenizer, f"--{flag}={text}")
    if causal and not result.arch.causal:
        raise ConfigError(f"--{flag}={text}: not a causal language model (trained on masked tokens)")
    return result


def _of_run(text: str, flag: str) -> InitFrom:
    source, step = workdir.split_step(text, flag)
    record = workdir.read_run(source, f"--{flag}")
    if "arch" not in record:
        raise ConfigError(f"--{flag}={source}: the run ended before it had a model")
    if record["stage"] == "reward":
        raise ConfigError(f"--{flag}={source}: a reward model; name the run of a language model")
    lineage = {
        "run": str(paths.absolute(source)),
        "stage": record["stage"],
        "step": step,
        "started": record.get("started"),
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
    lineage["origin"] = f"{lineage['run']}@{pinned}" if pinned else lineage["run"]
    return InitFrom(
        zoo.from_dict(record["arch"]), tokenizer, lineage, (*before, own), record.get("generation", {})
    )


def _of_hf(text: str, flag: str) -> InitFrom:
    folder = hf_hub.locate(text, flag)
    if peft.is_adapter(folder.path):
        return _of_adapter(folder, flag)
    try:
        arch = hf_config.read(folder.path)
    except ConfigError as error:
        raise ConfigError(f"--{flag}={text}: {error}") from error
    return InitFrom(
        arch,
        load_tokenizer(folder.path),
        _hf_lineage(folder),
        (CheckpointRef(folder.path, hf=True, hub=folder.hub),),
        hf_generation.read(folder.path),
    )


def _of_adapter(folder: hf_hub.HfFolder, flag: str) -> InitFrom:
    """A PEFT adapter and its base model, with the adapter's tokenizer where it has one."""
    base = hf_hub.locate(peft.open_adapter(folder.path).base, flag)
    if peft.is_adapter(base.path):
        raise ConfigError(
            f"--{flag}={folder.origin}: its base model {base.origin} is an adapter itself; {peft.MERGE}"
        )
    start = _of_hf(base.origin, flag)
    own = next(
        (name for name in ("tokenizer.json", "tokenizer.model") if (folder.path / name).is_file()), None
    )
    return start._replace(
        tokenizer=load_tokenizer(folder.path) if own else start.tokenizer,
        lineage=_hf_lineage(folder),
        origins=(*start.origins, CheckpointRef(folder.path, hf=True, hub=folder.hub)),
    )


def _hf_lineage(folder: hf_hub.HfFolder) -> dict[str, Any]:
    return {"run": None, "stage": "hf", "step": None, "parent": {}, "origin": folder.origin}


def require_rows(vocab: int, tokenizer: Tokenizer, what: str) -> None:
    """Raises ConfigError for a tokenizer with more tokens than an embedding has rows; fewer are right."""
    if tokenizer.vocab_size > vocab:
        raise ConfigError(
            f"{what}: the tokenizer has {tokenizer.vocab_size} tokens, but the model's embedding {vocab} rows. Name "
            "the tokenizer that belongs to the model, or enlarge the embedding first (in transformers: "
            "model.resize_token_embeddings(len(tokenizer)), then save_pretrained)"
        )


def end_ids(start: InitFrom, ends: Sequence[int]) -> tuple[int, ...]:
    """The tokens that end a completion: the chat template's or tokenizer's `ends`, then generation_config.json's."""
    return tuple(dict.fromkeys((*ends, *start.generation.get(hf_generation.ENDS, ()))))
