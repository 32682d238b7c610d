"""Loads a trained model for inference, whatever its origin: a run, a run's adapters, a Hugging Face directory."""

import dataclasses
import functools
import re
from typing import NamedTuple

from absl import logging

from jaxtrain import config
from jaxtrain.models import jitter, transformer
from jaxtrain.models.zoo import Arch
from jaxtrain.ops.quantized_matmul import FP8
from jaxtrain.stages import weights
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.train import parallel, processes
from jaxtrain.types import LM, Params


class LoadedModel(NamedTuple):
    """A trained language model: pure functions, and parameters that lie as the plan wants them."""

    model: LM
    params: Params
    plan: parallel.Plan
    source: InitFrom  # its architecture, tokenizer and lineage


def inference_plan(run: config.Run, cache_dir: str = "") -> parallel.Plan:
    """The plan of --mesh and --parallel, after joining the run's other processes; --cache_dir keeps programs."""
    processes.initialize(cache_dir)
    return parallel.make(run)


def build_model(plan: parallel.Plan, arch: Arch, settings: config.Model, noise: float = 0.0) -> LM:
    """The language model as the plan's devices compute it; `settings` are --dtype, --attention, ..."""
    if settings.matmul_dtype == FP8 and not has_fp8(plan.platform, plan.device_kind, plan.compute_capability):
        _warn_of_fp8(plan.device_kind)
    how = transformer.execution(settings, plan.platform, plan.local, plan.compute_capability)
    model = transformer.build(arch, dataclasses.replace(how, noise=noise))
    return model._replace(init=jitter.jittered(model.init, settings.jitter)) if settings.jitter else model


def has_fp8(platform: str, device_kind: str, capability: str) -> bool:
    """Whether devices have units for products of 8-bit floats: GPUs from Ada on, TPUs from the seventh on."""
    if platform == "tpu":
        generation = re.search(r"\d+", device_kind)
        return generation is not None and int(generation[0]) >= 7
    return not capability or tuple(map(int, capability.split("."))) >= (8, 9)


@functools.cache
def _warn_of_fp8(device_kind: str) -> None:
    logging.warning(
        "--matmul_dtype=fp8: %s has no units for it: the numbers are those of fp8, and the products no faster than "
        "others; int8 has units there",
        device_kind,
    )


def load_model(source: InitFrom, plan: parallel.Plan, settings: config.Model | None = None) -> LoadedModel:
    """The model that `init_from.load_run` describes, its adapters merged."""
    arch = dataclasses.replace(source.arch, balance_weight=0.0, router_z_weight=0.0)  # it is not trained
    model = build_model(plan, arch, settings or config.Model())
    return LoadedModel(model, weights.load_params(plan, source, model, 0), plan, source)
