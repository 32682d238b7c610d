"""Whether a model's training state has room on the devices, before any of it is made."""

import math
from typing import Any

import jax

from jaxtrain.config import ConfigError
from jaxtrain.train import device_memory, host, parallel, preflight

GIB = 2**30
FULL = (
    0.7  # the part of a device that the state may take where the remedy counts devices: a step needs the rest
)


def of_a_device(plan: parallel.Plan) -> int | None:
    """Bytes, where they are known; the devices of a CPU share the memory of the machine."""
    if plan.platform != "cpu":
        return device_memory.capacity(plan.devices)
    memory = host.memory()
    return memory and memory * plan.process[1] // len(plan.devices)


def require_room(plan: parallel.Plan, state: Any, what: str) -> None:
    """Raises ConfigError, with the estimate and the remedy, where shapes take more than a device has.

    `state` is a tree of jax.ShapeDtypeStruct with shardings, `what` what it is: parameters, moments and averages of
    training, or the parameters under adapters. Activations, gradients and other models come on top.
    """
    there = of_a_device(plan)
    leaves = jax.tree.leaves(state)
    needed = sum(preflight.leaf_bytes(leaf, shard=True) for leaf in leaves)
    if there is None or needed <= there:
        return
    total = sum(preflight.leaf_bytes(leaf) for leaf in leaves)
    devices = math.ceil(total / (FULL * there))
    raise ConfigError(
        f"{what} takes {total / GIB:,.1f} GiB, {needed / GIB:,.1f} GiB on each of {len(plan.devices)} devices "
        f"({plan.devices[0].device_kind}), which has {there / GIB:,.1f}; a step needs more. {devices} such devices "
        "have room with --mesh=fsdp:-1, which splits it; --lora_rank=16 trains adapters alone, over kernels of 4 bits "
        "with --base_weights=nf4; ./launch/run plan --chip=CHIP says what a step needs on devices that are not here"
    )
