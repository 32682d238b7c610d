"""Exports: a trained model, or its adapters alone, as folders that transformers and PEFT load."""

from collections.abc import Mapping
from pathlib import Path

import jax

from jaxtrain import config
from jaxtrain.models import hf, peft_export
from jaxtrain.stages import export_files, weights
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.stages.load_model import build_model, load_model
from jaxtrain.train import parallel
from jaxtrain.types import Params


def write_model(
    folder: Path,
    start: InitFrom,
    plan: parallel.Plan,
    extra: Mapping[str, bytes],
    *,
    dtype: str,
    shard_bytes: float,
    params: Params | None = None,
) -> None:
    """Writes the model, its adapters merged, with its tokenizer and the files `extra`. All processes call this.

    `params` are its parameters where they are not those of its checkpoints. The tokens that end a completion are the
    same in config.json, generation_config.json and tokenizer_config.json.
    """
    template = export_files.chat_template(start)
    params = load_model(start, plan).params if params is None else params
    hf.write(
        folder,
        params,
        start.arch,
        dtype=dtype,
        shard_bytes=shard_bytes,
        ids=export_files.token_ids(start, template),
        generation=start.generation,
        extra={**export_files.tokenizer_files(start.tokenizer, template), **extra},
        fetch=plan.get,
        primary=plan.primary,
    )


def write_adapter(
    folder: Path, start: InitFrom, plan: parallel.Plan, base: tuple[str, str], extra: Mapping[str, bytes]
) -> None:
    """Writes the adapters of a run for the model `base`, (name, revision), as PEFT reads them.

    All processes call this.
    """
    own = start.origins[-1]
    model = build_model(plan, start.arch, config.Model())

    def fresh() -> Params:
        return model.init(jax.random.key(0))

    abstract = plan.abstract(fresh, model.axes)
    template = export_files.chat_template(start)
    peft_export.write(
        folder,
        weights.load_adapters(plan, own, model, abstract),
        abstract,
        start.arch,
        model.axes,
        own.lora,
        base=base,
        extra={**export_files.tokenizer_files(start.tokenizer, template), **extra},
        fetch=plan.get,
        primary=plan.primary,
    )
