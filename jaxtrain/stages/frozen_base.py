"""What lies under adapters: the parameters that a run starts from, in the type of --base_weights."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from jaxtrain.config import Lora, StageConfig
from jaxtrain.models import quantized_weights
from jaxtrain.stages import state_memory, weights
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.train import parallel, preflight
from jaxtrain.types import LM, Axes, Params


def require(plan: parallel.Plan, model: LM, settings: Lora, by_leaf: bool) -> None:
    """Raises ConfigError where the devices have no room for the model as it is read, in float32 `by_leaf` or whole, or
    where --base_weights cannot hold one of its kernels.
    """
    whole = plan.abstract(lambda: model.init(jax.random.key(0)), model.axes)
    base = in_base_type(plan, whole, model.axes, settings)
    largest = max(jax.tree.leaves(whole), key=lambda leaf: math.prod(leaf.shape))
    read = (base, largest) if by_leaf else whole
    state_memory.require_room(plan, read, "the model under the adapters")


def load(
    cfg: StageConfig, plan: parallel.Plan, start: InitFrom, model: LM, heads: Any, whole: Callable[[], Params]
) -> Params:
    """The base of adapters: the parameters that `whole` gives, in their type. Raises ConfigError as `require` does.

    A language model without heads, of a Hugging Face directory, is read here, one kernel at a time in float32.
    """
    settings = cfg.lora
    quantized_weights.require_codes(settings.base_weights, cfg.model.matmul_dtype)
    by_leaf = heads is None and _by_leaf(start, settings)
    require(plan, model, settings, by_leaf)
    if not by_leaf:
        return in_base_type(plan, whole(), (heads or model).axes, settings)
    found = set(quantized_weights.kernels(model.axes))

    def each(path: tuple[str, ...], leaf: Array) -> Any:
        if path not in found:
            return leaf
        one = {path[-1:]: model.axes[path]}
        return in_base_type(plan, {path[-1]: leaf}, one, settings)[path[-1]]

    return weights.load_params(plan, start, model, cfg.run.seed, each=each)


def _by_leaf(start: InitFrom, settings: Lora) -> bool:
    """Whether a base is quantized as it is read: a run's checkpoint is restored as a whole."""
    quantized = settings.base_weights in quantized_weights.KINDS
    return quantized and bool(start.origins) and all(origin.hf for origin in start.origins)


def in_base_type(plan: parallel.Plan, params: Params, axes: Axes, settings: Lora) -> Params:
    """All parameters f32[...] that training starts from, their kernels quantized where --base_weights says so.

    Shapes that `plan` gave become shapes.
    """
    kind = settings.base_weights
    if kind not in quantized_weights.KINDS:
        return params
    quantize = functools.partial(quantized_weights.quantize, axes=axes, kind=kind)
    shapes = isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct)
    make = plan.abstract if shapes else plan.init
    return make(quantize, quantized_weights.quantized_axes(axes, kind), params)


def described(base: Params, settings: Lora) -> str:
    """The preflight's words on the frozen parameters: their number, type and bytes."""
    mib = sum(preflight.leaf_bytes(leaf) for leaf in jax.tree.leaves(base)) / 2**20
    kind = f"kernels in {settings.base_weights}" if settings.base_weights != "float32" else "float32"
    return f"{quantized_weights.count(base):,}, {kind}, {mib:,.1f} MiB, the adapters' base"
