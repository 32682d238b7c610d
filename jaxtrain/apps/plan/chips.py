"""What a chip of a kind can do: FLOP/s, memory, links. Peaks, which bound a step's time from below.

TPUs: https://cloud.google.com/tpu/docs/v4 (v5e, v5p, v6e), whose bandwidths between chips are over all links, and in
both directions together on some pages; the memory that a program may use is what libtpu states when one does not fit
(15.75 of v5e's 16 GiB). GPUs: NVIDIA's data sheets of the SXM boards, NVLink in one direction, and a network card of
400 Gb/s (A100: 200) for each GPU; jax takes XLA_PYTHON_CLIENT_MEM_FRACTION, by default 75 %, of a GPU's memory.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from jaxtrain.apps.plan.topologies import Topology
from jaxtrain.train.metrics import peak_flops

GIB = 2**30
GPU_SHARE = 0.75  # of a GPU's memory, that jax takes by default
GPU_MOST = 0.92  # that it can take: the driver and the libraries need the rest
INTEGERS, FLOATS = ("s8",), ("f8e4m3fn", "f8e5m2")


class ChipPeaks(NamedTuple):
    """One device. Bandwidths in bytes/s."""

    device_kind: str  # as jax names it
    usable: int  # bytes of HBM that a program may use
    hbm: float  # bandwidth of HBM
    link: float  # of one link to a neighbour, one direction; of a GPU, of all its NVLinks
    network: float  # a device's share of its host's network
    torus: int = 0  # least side of a slice at which its links close to a ring; 0: a switch, not a torus
    fast_domain: int = 0  # GPUs that NVLink joins; 0: all chips of a slice
    doubled: tuple[
        str, ...
    ] = ()  # types of operands, as HLO has them, whose products run at twice bf16's rate

    @property
    def flops(self) -> float:
        """Peak dense bf16 FLOP/s. Raises KeyError where train/metrics.py does not know the device."""
        peak = peak_flops(self.device_kind)
        if peak is None:
            raise KeyError(f"no peak FLOP/s is known of {self.device_kind!r}: add it to train/metrics.py")
        return peak


def _tpu(kind: str, usable: float, hbm: float, link: float, network: float, torus: int) -> ChipPeaks:
    doubled = () if kind == "v4" else INTEGERS  # none of them has units for 8-bit floats
    return ChipPeaks(f"TPU {kind}", int(usable * GIB), hbm, link, network, torus, doubled=doubled)


def _gpu(kind: str, memory: float, hbm: float, nvlink: float, network: float) -> ChipPeaks:
    doubled = INTEGERS if kind == "A100" else (*INTEGERS, *FLOATS)
    usable = int(memory * GPU_SHARE)
    return ChipPeaks(f"NVIDIA {kind}", usable, hbm, nvlink, network, fast_domain=8, doubled=doubled)


CHIPS: Mapping[str, ChipPeaks] = {
    "v4": _tpu("v4", 30.75, 1228e9, 50e9, 6.25e9, 4),
    "v5e": _tpu("v5e", 15.75, 819e9, 50e9, 3.125e9, 16),
    "v5p": _tpu("v5p", 95.74, 2765e9, 100e9, 6.25e9, 4),
    "v6e": _tpu("v6e", 31.25, 1640e9, 100e9, 12.5e9, 16),
    "a100": _gpu("A100", 85.1e9, 2039e9, 300e9, 25e9),
    "h100": _gpu("H100", 84.9e9, 3350e9, 450e9, 50e9),
    "h200": _gpu("H200", 150e9, 4800e9, 450e9, 50e9),
    "b200": _gpu("B200", 192e9, 8000e9, 900e9, 50e9),
}


class Interconnect(NamedTuple):
    """The links of the devices of one --chip."""

    fast: float  # bytes/s that a device can send over them, at most
    domain: int  # devices that they join
    network: float  # bytes/s beyond that domain, a device's share


def interconnect(topology: Topology) -> Interconnect:
    """The links of the devices that --chip names.

    In a torus a device has two links along each axis that closes to a ring. Along an open one the devices at the ends
    have one, and a collective is as slow as they are; so it is on an axis of two.
    """
    peaks = CHIPS[topology.kind]
    sides = [int(side) for side in topology.size.split("x")]
    if not peaks.torus:
        return Interconnect(peaks.link, min(sides[-1], peaks.fast_domain), peaks.network)

    def closed(side: int) -> bool:  # three axes close in whole cubes alone, two each for itself
        return all(each % peaks.torus == 0 for each in (sides if len(sides) == 3 else [side]))

    links = sum(2 if closed(side) else 1 for side in sides if side > 1)
    return Interconnect(peaks.link * max(1, links), math.prod(sides), peaks.network)
