"""TPU slices as data: devices with the attributes that jax's mesh_utils and a mesh of devices read.

The rule by which hosts, ids and coordinates go together is that of the descriptions which libtpu 0.0.42 gives through
jax.experimental.topologies for v4, v5e, v5p and v6e: a host has 2 x 2 chips of one layer; hosts are numbered along x,
then y, then z, ids likewise over the whole slice; devices come by host, and slice after slice. test_device_grid.py
compares it with the descriptions themselves where libtpu is installed.
"""

import itertools
import math
from dataclasses import dataclass

KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
# (generation, chips along x, y and z, slices); each has several hosts
TOPOLOGIES = [
    *(("v4", chips, 1) for chips in ("2x2x2", "2x2x4", "4x4x4")),
    *(("v5e", chips, 1) for chips in ("2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
    *(("v6e", chips, 1) for chips in ("2x4", "4x4", "4x8", "8x8", "16x16")),
    *(("v5p", chips, 1) for chips in ("2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "8x8x8")),
    ("v5e", "4x4", 2),
    ("v5e", "16x16", 2),
    ("v5p", "4x4x4", 2),
    ("v6e", "8x8", 4),
]


@dataclass(frozen=True)
class Device:
    """A chip."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    slice_index: int
    device_kind: str
    core_on_chip: int = 0
    platform: str = "tpu"


def devices(generation: str, chips: str, slices: int = 1) -> list[Device]:
    """The devices of a topology, in the order of jax.devices()."""
    x, y, z = [*map(int, chips.split("x")), 1][:3]
    hosts = list(itertools.product(range(z), range(0, y, 2), range(0, x, 2)))
    found = []
    for number, (host, (k, j, i)) in itertools.product(range(slices), enumerate(hosts)):
        for dj, di in itertools.product(range(2), range(2)):
            at = (i + di, j + dj, k)
            chip = at[0] + x * (at[1] + y * at[2])
            first = 100_000 * (number + 1) * (slices > 1)
            found.append(Device(first + chip, number * len(hosts) + host, at, number, KINDS[generation]))
    assert len(found) == math.prod((x, y, z)) * slices
    return found
