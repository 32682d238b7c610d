"""Where each device stands in a mesh: along a TPU slice's network, data across slices, all other axes inside."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jax.experimental import mesh_utils

from jaxtrain import config
from jaxtrain.config import ConfigError


def arrange(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """object[*MESH_AXES], the devices at their places in a mesh of these sizes, -1 for the rest.

    Neighbours in it are neighbours in the network. Raises ConfigError, with the meshes that fit, where it takes more or
    fewer devices than there are, or does not divide over the slices.
    """
    count, slices = len(devices), _slices(devices)
    flag = "--mesh=" + ",".join(f"{axis}:{size}" for axis, size in sizes.items())
    known = math.prod(size for size in sizes.values() if size != -1)
    shape = [count // known if size == -1 else size for size in (sizes.get(a, 1) for a in config.MESH_AXES)]
    if math.prod(shape) != count:
        raise ConfigError(
            f"{flag} takes {'a multiple of ' * ('-1' in flag)}{known} devices, there are {count}: "
            f"use {_nearest_meshes(sizes, count, slices)}"
        )
    across = _across_slices(shape, slices)
    if across is None:
        raise ConfigError(
            f"{flag}: data x fsdp must be a multiple of the {slices} slices, as all other axes lie inside one: "
            f"use {_nearest_meshes(sizes, count, slices)}"
        )
    if across[1] > 1:
        logging.warning(
            "%s: fsdp lies across %d slices, whose network every layer's parameters pass: data:%d,fsdp:-1 is faster",
            flag, across[1], slices,
        )  # fmt: skip
    if slices > 1:
        within = [size // parts for size, parts in zip(shape, across, strict=True)]
        return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _slices(devices: Sequence[Any]) -> int:
    """The number of TPU slices. On a GPU `slice_index` is the machine's, and no mesh has to follow it."""
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", None) or 0 for device in devices})


def _across_slices(shape: Sequence[int], slices: int) -> list[int] | None:
    """How many slices each axis lies across: data as many as it can, fsdp the rest; None where that does not divide."""
    data, fsdp, *inside = shape
    over_data = math.gcd(data, slices)
    over_fsdp = slices // over_data
    return None if fsdp % over_fsdp else [over_data, over_fsdp, *(1 for _ in inside)]


def _nearest_meshes(sizes: Mapping[str, int], count: int, slices: int, most: int = 3) -> str:
    """The meshes of all devices that are nearest to one which does not divide, as --mesh takes them."""

    def distance(shape: tuple[int, ...]) -> tuple[float, ...]:
        wanted = [sizes.get(axis, 1) for axis in config.MESH_AXES]
        factors = [abs(math.log(n / w)) for n, w in zip(shape, wanted, strict=True) if w != -1]
        return (round(sum(factors), 6), *reversed(shape))

    divisors = [n for n in range(1, count + 1) if count % n == 0]
    fitting = [
        (*outer, count // math.prod(outer))
        for outer in itertools.product(divisors, repeat=len(config.MESH_AXES) - 1)
        if count % math.prod(outer) == 0 and _across_slices(outer, slices)
    ]
    texts = [
        ",".join(f"{axis}:{size}" for axis, size in zip(config.MESH_AXES, shape, strict=True) if size > 1)
        or "data:1"
        for shape in sorted(fitting, key=distance)[:most]
    ]
    return f"--mesh={' or '.join(texts)}"
