"""The memory of a device, and over how many devices a model is split to decode."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxtrain.train import metrics

GIB = 2**30

# GiB of one device by the start of jax's `device_kind`, where a kind is sold with one size.
GIB_OF_KIND = {
    "NVIDIA H100": 80,
    "NVIDIA H100 NVL": 94,
    "NVIDIA H200": 141,
    "NVIDIA L4": 24,
    "NVIDIA L40S": 48,
    "TPU v4": 32,
    "TPU v5": 95,  # v5p
    "TPU v5p": 95,
    "TPU v5 lite": 16,
    "TPU v5e": 16,
    "TPU v6 lite": 32,
    "TPU v6e": 32,
}
SHARE = 3  # parameters may take this part of a device: training state, KV cache and activations have the rest


def capacity(devices: Sequence[Any]) -> int | None:
    """Bytes of memory of each of the devices, which are of one kind; None where it is not known, as on a CPU.

    The table comes first, so that all hosts, and a compiler without a device, have the same.
    """
    if gib := metrics.of_kind(GIB_OF_KIND, devices[0].device_kind):
        return int(gib * GIB)
    own = [device for device in devices if device.process_index == jax.process_index()]
    stats = own[0].memory_stats() if own else None
    return stats.get("bytes_limit") if stats else None


def split_to_decode(size: int, devices: Sequence[Any], tensor: int) -> int:
    """Over how many of the devices parameters of `size` bytes are split to decode; 0: as training splits them.

    Over `tensor`, the axis of the mesh, where they take at most a third of a device, or where its memory is not known.
    Else over as few as have that room, since a split product ends in a sum over its devices, twice a layer in every
    token; but a tensor axis of several is not widened, as that would replicate each array on the way.
    """
    memory = capacity(devices)
    if memory is None or size / tensor <= memory / SHARE:
        logging.info("decoding: each %d of %d devices have all parameters", tensor, len(devices))
        return tensor
    take = f"decoding: parameters of {size / GIB:.1f} GiB take more than a third of {tensor} x {memory / GIB:.0f} GiB"
    if tensor > 1:
        logging.warning("%s: every token gathers them over fsdp, which a larger tensor axis avoids", take)
        return 0
    counts = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
    parts = next((n for n in counts if size / n <= memory / SHARE), counts[-1])
    logging.warning("%s: they are split over %d devices", take, parts)
    return parts


def decoding_grid(fn: Callable[[], Any], devices: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """object[*axes], the devices of a mesh regrouped to decode with the parameters that fn() gives.

    Each group of the tensor axis has all of them, so that no token waits for a gather, and all other axes are rows.
    """
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(fn)))
    parts = split_to_decode(size, list(devices.flat), devices.shape[axes.index("tensor")])
    sizes = (
        {"data": devices.size // parts, "tensor": parts}
        if parts
        else dict(zip(axes, devices.shape, strict=True))
    )
    return devices.reshape([sizes.get(axis, 1) for axis in axes])
