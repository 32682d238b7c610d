"""Trained parameters: all of them or adapters, and the checkpoints that they are loaded from."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxtrain.config import Lora
from jaxtrain.models import hf, lora
from jaxtrain.stages.init_from import CheckpointRef, InitFrom
from jaxtrain.train import parallel
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


def load_params(plan: parallel.Plan, start: InitFrom, model: LM, seed: int) -> Params:
    """The language model's parameters from a checkpoint or at random, sharded as the plan says from the start."""

    def fresh() -> Params:
        return model.init(jax.random.key(seed))

    if not start.origins:
        return plan.init(fresh, model.axes)
    abstract = plan.abstract(fresh, model.axes)
    first, *adapters = start.origins
    if first.hf:
        params = hf.read(first.path, start.arch, abstract)
    else:
        params, _ = restore_params(first.path, abstract, first.step, part=first.part)
    for origin in adapters:
        params = _merged(plan, origin, model, params)
    return params


def _merged(plan: parallel.Plan, origin: CheckpointRef, model: LM, params: Params) -> Params:
    part = trained_part(model.axes, origin.lora)
    shapes = plan.abstract(part.part, part.axes, params, jax.random.key(0))
    adapters, _ = restore_params(origin.path, shapes, origin.step, part=origin.part)
    return plan.init(part.whole, model.axes, adapters, params)
