"""The TPU slices and GPU machines that --chip names, as data; and their devices, described without one at hand.

Nothing of jax is imported before `describe`, which must run in a process of its own: `environment` is that process's.
"""

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError

GPUS = "cuda"  # the platform, as jax's plug-in calls it


class Chip(NamedTuple):
    """A kind of chip and the sizes that it is sold in."""

    platform: str  # tpu or cuda
    extra: str  # of setup.py: what has its compiler
    sizes: tuple[str, ...]  # the usual ones
    most: int = 0  # chips of the largest slice AxBxC of multiples of 4, A <= B <= C; 0: the usual sizes alone
    options: Mapping[str, Any] = {}  # of get_topology_desc


class Topology(NamedTuple):
    """What --chip names."""

    name: str  # v5p:4x4x4, 2xv5e:4x4, h100:8
    chip: Chip
    kind: str  # v5p
    size: str  # 4x4x4
    slices: int


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
# https://cloud.google.com/tpu/docs has a page for each version; a v4 chip is one device, its two cores together.
CHIPS: Mapping[str, Chip] = {
    "v4": Chip("tpu", "aot", _CUBES, most=3072, options={"chip_config_name": "megacore"}),
    "v5e": Chip("tpu", "aot", _FLAT),
    "v5p": Chip("tpu", "aot", _CUBES, most=6144),
    "v6e": Chip("tpu", "aot", _FLAT),
    "h100": Chip(GPUS, "aot-gpu", ("1", "2", "4", "8", "2x8", "4x8", "8x8", "16x8", "32x8", "64x8", "128x8")),
}
# The package that has a compiler, and how a process finds out whether it is there.
_COMPILERS = {"tpu": ("libtpu", "libtpu"), GPUS: ("jax_cuda12_plugin", "jax-cuda12-plugin")}


def parse(text: str) -> Topology:
    """`v5p:4x4x4`, `h100:8` or `2xv5e:4x4` as a Topology. Raises ConfigError, with those that exist, for another."""
    found = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*):(\d+(?:x\d+)*)", text)
    if not found or found[2] not in CHIPS:
        kinds = ", ".join(f"{kind}:{chip.sizes[-4]}" for kind, chip in CHIPS.items())
        raise ConfigError(
            f"--chip={text}: write CHIP:SIZE, such as {kinds}, or 2xv5e:4x4 for two slices of it"
        )
    slices, kind, size = int(found[1] or 1), found[2], found[3]
    chip = CHIPS[kind]
    if size not in chip.sizes and not _custom(size, chip.most):
        custom = (
            f"; from 4x4x4 on also AxBxC of multiples of 4, A <= B <= C, of at most {chip.most} chips"
            * bool(chip.most)
        )
        hosts = " (HOSTSx8 for several machines)" * (chip.platform == GPUS)
        raise ConfigError(
            f"--chip={text}: there is no {kind}:{size}; the sizes are {', '.join(chip.sizes)}{custom}{hosts}"
        )
    if slices > 1 and chip.platform == GPUS:
        raise ConfigError(f"--chip={text}: GPUs have no slices; write {kind}:HOSTSx8, such as {kind}:2x8")
    if not 1 <= slices <= 256:
        raise ConfigError(f"--chip={text}: from 1 to 256 slices")
    return Topology(text, chip, kind, size, slices)


def _custom(size: str, most: int) -> bool:
    sides = [int(side) for side in size.split("x")]
    if len(sides) != 3 or any(side % 4 or not side for side in sides) or sides != sorted(sides):
        return False
    return sides[0] * sides[1] * sides[2] <= most


def devices(topology: Topology) -> int:
    """The number of devices."""
    count = topology.slices
    for side in topology.size.split("x"):
        count *= int(side)
    return count


def require(topology: Topology) -> None:
    """Raises ConfigError, with what to install, where the compiler of a topology's chip is not there."""
    module, package = _COMPILERS[topology.chip.platform]
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"--chip={topology.name}: its compiler, {package}, is not installed: "
            f'pip install "jaxtrain[{topology.chip.extra}]" '
            f"(in a checkout: JAXTRAIN_EXTRAS={topology.chip.extra} ./launch/run plan ...)"
        )


def environment(topology: Topology) -> dict[str, str]:
    """The environment of a process that compiles for a topology: this one's, and what the compiler needs.

    libtpu looks for a TPU, for the other workers of its slice and for a lock that one process of a machine may hold;
    the CUDA plug-in for a GPU, whose libraries it would try and time.
    """
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    if topology.chip.platform == "tpu":
        own |= {
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
            "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        }
    else:
        own |= {
            "CUDA_VISIBLE_DEVICES": "-1",
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
            "XLA_FLAGS": "--xla_gpu_autotune_level=0",
        }
    return {**os.environ, **own}


def compiler_version(topology: Topology) -> str:
    """The version of the compiler's package."""
    return importlib.metadata.version(_COMPILERS[topology.chip.platform][1])


def describe(topology: Topology) -> list[Any]:
    """The devices of a topology, which compile and hold nothing. The process must have its `environment`."""
    from jax.experimental import topologies

    if topology.chip.platform == GPUS:
        from jaxtrain.apps.plan import cuda

        cuda.prepare()
        hosts, _, gpus = topology.size.rpartition("x")
        grid = f"1x{hosts or 1}x{gpus}"
        found = topologies.get_topology_desc(
            platform=GPUS, topology_name="", target_config=cuda.TARGETS[topology.kind], topology=grid
        )
        return list(found.devices)
    options = dict(topology.chip.options)
    if devices(topology) == topology.slices:  # a slice of one chip
        options["chips_per_host_bounds"] = [1, 1, 1]
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    name = f"{topology.kind}:{topology.size}"
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
