"""Trained parameters: all of them or adapters, and the checkpoints that they are loaded from."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from jaxtrain.config import Lora
from jaxtrain.files import checksums, hf_hub
from jaxtrain.models import hf, lora
from jaxtrain.stages.init_from import CheckpointRef, InitFrom
from jaxtrain.train import multihost, parallel
from jaxtrain.train.checkpoint import restore_params
from jaxtrain.types import LM, Axes, Key, Params


class TrainedPart(NamedTuple):
    """Which part of the parameters is trained, and how it becomes the model's again."""

    axes: Axes  # of that part
    part: Callable[[Params, Key], Params]  # all parameters -> the trained part, at the start
    whole: Callable[[Params, Params], Params]  # (trained part, base) -> the model's parameters
    frozen: bool  # whether there is a base beside it


def trained_part(axes: Axes, settings: Lora) -> TrainedPart:
    """All of the parameters with these axes, or adapters of them."""
    if not settings.lora_rank:
        return TrainedPart(axes, lambda whole, key: whole, lambda part, base: part, False)
    return TrainedPart(
        lora.adapter_axes(axes, settings),
        lambda whole, key: lora.init(whole, key, axes, settings),
        lambda part, base: lora.merge(base, part, axes, settings),
        True,
    )


def load_params(plan: parallel.Plan, start: InitFrom, model: LM, seed: int, **how: Callable) -> Params:
    """The language model's parameters from a checkpoint or at random, born sharded; `how` is for hf.read."""

    def fresh() -> Params:
        return model.init(jax.random.key(seed))

    if not start.origins:
        return plan.init(fresh, model.axes)
    abstract = plan.abstract(fresh, model.axes)
    first, *adapters = start.origins
    if first.hf:
        folder, *more = (_folder(origin) for origin in start.origins if origin.hf)
        for each in (folder, *more):
            share = slice(plan.process[0], None, plan.process[1])  # each host reads its share of the files
            multihost.gather_results(functools.partial(checksums.require_weights, each, str(each), share))
        params = hf.read(folder, start.arch, abstract, more, **how)
    else:
        params, _ = restore_params(first.path, abstract, first.step, part=first.part)
    for origin in adapters:
        if origin.hf:
            continue  # PEFT's are merged as the base model is read
        params = _merged(plan, origin, model, params)
    return params


def _folder(origin: CheckpointRef) -> Path:
    return hf_hub.with_weights(hf_hub.HfFolder(origin.path, origin.hub))


def _merged(plan: parallel.Plan, origin: CheckpointRef, model: LM, params: Params) -> Params:
    part = trained_part(model.axes, origin.lora)
    return plan.init(part.whole, model.axes, load_adapters(plan, origin, model, params), params)


def load_adapters(plan: parallel.Plan, origin: CheckpointRef, model: LM, params: Params) -> Params:
    """The adapters of a run; of the parameters that they are for, shapes are enough."""
    part = trained_part(model.axes, origin.lora)
    shapes = plan.abstract(part.part, part.axes, params, jax.random.key(0))
    adapters, _ = restore_params(origin.path, shapes, origin.step, part=origin.part)
    return adapters
