"""What lies under adapters: the parameters that a run starts from, in the type of --base_weights."""

import functools

import jax

from jaxtrain.config import Lora
from jaxtrain.models import quantized_weights
from jaxtrain.stages import state_memory
from jaxtrain.train import parallel, preflight
from jaxtrain.types import LM, Axes, Params


def require(plan: parallel.Plan, model: LM, settings: Lora) -> None:
    """Raises ConfigError where the devices have no room for the model, which is read in float32, or where
    --base_weights cannot hold one of its kernels."""
    frozen = plan.abstract(lambda: model.init(jax.random.key(0)), model.axes)
    in_base_type(plan, frozen, model.axes, settings)
    state_memory.require_room(plan, frozen, "the model under the adapters")


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
