"""Accelerators that this machine has, by their device nodes and packages, without starting jax."""

from importlib.util import find_spec
from pathlib import Path

NVIDIA = "nvidia[0-9]*"
# A package that drives accelerators -> their device nodes; a package alone also compiles for devices that are not here.
NODES = {
    "jax_cuda12_plugin": (NVIDIA, "dxg"),
    "jax_cuda13_plugin": (NVIDIA, "dxg"),
    "libtpu": ("accel[0-9]*", "vfio/[0-9]*"),
}
DEVICES = Path("/dev")


def present(devices: Path = DEVICES) -> bool:
    """Whether there is a GPU or a TPU that jax can use."""
    driven = [nodes for name, nodes in NODES.items() if find_spec(name)]
    return any(any(devices.glob(node)) for nodes in driven for node in nodes)


def nvidia_gpus(devices: Path = DEVICES) -> int:
    """The number of NVIDIA GPUs."""
    return len([*devices.glob(NVIDIA)])


def jobs(devices: Path = DEVICES) -> int:
    """Trainings to run at once: 2 share a CPU's cores; an accelerator's memory is one process's."""
    return 1 if present(devices) else 2
