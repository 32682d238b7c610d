"""Every TPU slice trains under every mesh: each host supplies the rows that its devices hold, and no row is missing."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.train import device_grid, parallel
from tests.train import tpu_slices
from tests.train.tpu_slices import TOPOLOGIES

MESHES = (
    "data:-1", "fsdp:-1", "data:2,fsdp:-1", "data:4,fsdp:-1", "fsdp:-1,tensor:2", "fsdp:-1,tensor:4",
    "fsdp:-1,tensor:8", "data:2,fsdp:-1,tensor:2", "data:2,fsdp:-1,tensor:4", "data:4,fsdp:-1,tensor:4",
    "fsdp:-1,expert:4", "fsdp:-1,context:2", "fsdp:-1,context:8", "data:4,context:-1", "fsdp:-1,context:4,tensor:2",
)  # fmt: skip
NAMES = [f"{generation}:{chips}" + f"x{slices}" * (slices > 1) for generation, chips, slices in TOPOLOGIES]


def mesh_of(text, devices):
    grid = device_grid.arrange(config.parse_mesh(text), devices)
    return Mesh(grid, config.MESH_AXES, axis_types=(AxisType.Auto,) * grid.ndim)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=NAMES)
def test_every_row_is_supplied_to_the_devices_that_hold_it(topology):
    devices = tpu_slices.devices(*topology)
    for text in MESHES:
        if len(devices) % np.prod([size for size in config.parse_mesh(text).values() if size != -1]):
            with pytest.raises(ConfigError, match="devices, there are"):
                mesh_of(text, devices)
            continue
        mesh = mesh_of(text, devices)
        assert set(mesh.devices.flat) == set(devices)
        data, fsdp, expert, *inside = mesh.devices.shape
        rows = 2 * data * fsdp * expert
        by_host = {
            host: parallel.rows_of_host(mesh, host, rows) for host in {d.process_index for d in devices}
        }
        # A device at (i, j, e) of them has the rows of part (i * fsdp + j) * expert + e, whatever its other places.
        wanted = {host: set() for host in by_host}
        for i, j, e, *place in np.ndindex(data, fsdp, expert, *inside):
            part = (i * fsdp + j) * expert + e
            wanted[mesh.devices[i, j, e, *place].process_index] |= {2 * part, 2 * part + 1}
        assert {host: set(found.tolist()) for host, found in by_host.items()} == wanted, text
        assert set().union(*wanted.values()) == set(range(rows))
        assert all((np.diff(found) > 0).all() for found in by_host.values())
        assert len({len(found) for found in by_host.values()}) == 1, "hosts have equal loads"


def slices_of(mesh):
    return np.vectorize(lambda device: device.slice_index)(mesh.devices)


def test_the_slices_lie_along_data_as_far_as_it_goes_and_context_and_tensor_inside_one(caplog):
    devices = tpu_slices.devices("v6e", "8x8", 4)
    with caplog.at_level("WARNING", logger="absl"):
        assert (
            slices_of(mesh_of("data:8,fsdp:-1,tensor:4", devices))
            == np.arange(8).reshape(-1, 1, 1, 1, 1) // 2
        ).all()
        assert (
            slices_of(mesh_of("data:4,context:-1,tensor:4", devices)) == np.arange(4).reshape(-1, 1, 1, 1, 1)
        ).all()
    assert not caplog.messages
    with caplog.at_level("WARNING", logger="absl"):
        found = slices_of(mesh_of("data:2,fsdp:-1,tensor:2", devices))
    assert (found == found[..., :1]).all()
    assert (found[0] < 2).all() and (found[1] >= 2).all() and (np.diff(found[0, :, 0, 0, 0]) >= 0).all()
    assert caplog.messages == [
        "--mesh=data:2,fsdp:-1,tensor:2: fsdp lies across 2 slices, whose network every layer's parameters pass: "
        "data:4,fsdp:-1 is faster"
    ]
    two = tpu_slices.devices("v5e", "4x4", 2)
    with pytest.raises(
        ConfigError, match=r"data x fsdp must be a multiple of the 2 slices.* use --mesh=data:2,tensor:16 or "
    ):
        mesh_of("tensor:32", two)
    with pytest.raises(ConfigError, match=r"takes a multiple of 3 devices, there are 32: use --mesh=.*fsdp"):
        mesh_of("fsdp:-1,data:3", two)


def test_a_gpu_has_no_slices_that_a_mesh_must_follow():
    """A GPU's slice_index is its machine's: fsdp crosses machines as any axis does."""
    gpus = [tpu_slices.Device(i, i // 8, (0, 0, 0), i // 8, "NVIDIA H100", platform="gpu") for i in range(16)]
    assert (slices_of(mesh_of("fsdp:-1", gpus))[0, :, 0, 0, 0] == np.arange(16) // 8).all()
    assert mesh_of("tensor:16", gpus).shape["tensor"] == 16


DESCRIBE = """
import json, sys
from jax.experimental import topologies
for generation, chips, slices in json.loads(sys.argv[1]):
    how = {"num_slices": slices} if slices > 1 else {}
    if generation == "v4":
        how["chip_config_name"] = "megacore"
    found = topologies.get_topology_desc(platform="tpu", topology_name=f"{generation}:{chips}", **how).devices
    rows = [[d.id, d.process_index, list(d.coords), getattr(d, "slice_index", None) or 0, d.device_kind,
             d.core_on_chip, d.platform] for d in found]
    print(json.dumps(rows))
"""


def test_the_slices_are_those_that_libtpu_describes():
    pytest.importorskip("libtpu")
    env = {
        **os.environ, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-c", DESCRIBE, json.dumps(TOPOLOGIES)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    described = list(map(json.loads, done.stdout.splitlines()))
    for topology, rows in zip(TOPOLOGIES, described, strict=True):
        for row in rows:
            row[2] = tuple(row[2])
        assert rows == [list(dataclasses.asdict(d).values()) for d in tpu_slices.devices(*topology)], topology


def test_rows_of_one_host_are_all_rows():
    mesh = mesh_of("data:2,fsdp:2,tensor:2", jax.devices())
    assert parallel.rows_of_host(mesh, 0, 8).tolist() == list(range(8))
