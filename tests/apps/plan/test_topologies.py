"""What --chip may be, and what those topologies are to the compiler."""

import json
import os
import subprocess
import sys

import pytest

from jaxtrain.apps.plan import topologies
from jaxtrain.config import ConfigError

DESCRIBED = """
import json, sys
from jaxtrain.apps.plan import topologies
found = {}
for name in sys.argv[1:]:
    devices = topologies.describe(topologies.parse(name))
    slices = {getattr(device, "slice_index", 0) or 0 for device in devices}
    found[name] = [len(devices), devices[0].platform, len({d.process_index for d in devices}), len(slices)]
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "text, devices",
    [
        ("v5e:1x1", 1),
        ("v5e:4x4", 16),
        ("2xv5e:4x4", 32),
        ("v5p:4x4x4", 64),
        ("v5p:4x4x12", 192),
        ("h100:8", 8),
        ("h100:4x8", 32),
    ],
)
def test_a_chip_has_its_number_of_devices(text, devices):
    topology = topologies.parse(text)
    assert (topology.name, topologies.devices(topology)) == (text, devices)


@pytest.mark.parametrize(
    "text, message",
    [
        ("v5e:3x3", "there is no v5e:3x3; the sizes are 1x1, 2x2, 2x4, 4x4"),
        ("v5p:8x4x4", "there is no v5p:8x4x4; .*multiples of 4, A <= B <= C"),
        ("v5p:16x16x28", "at most 6144 chips"),
        ("v5p:4x4", "there is no v5p:4x4"),
        ("h100:3", r"there is no h100:3; .*\(HOSTSx8"),
        ("2xh100:8", "write h100:HOSTSx8"),
        ("0xv5e:4x4", "from 1 to 256 slices"),
        ("a100:8", "write CHIP:SIZE, such as .*h100:"),
        ("v5e", "write CHIP:SIZE"),
        ("v5e:4x4x", "write CHIP:SIZE"),
        ("", "write CHIP:SIZE"),
    ],
)
def test_a_chip_that_does_not_exist_is_refused_with_those_that_do(text, message):
    with pytest.raises(ConfigError, match=message):
        topologies.parse(text)


@pytest.mark.parametrize("chip, extra", [("v5e:4x4", "aot"), ("h100:8", "aot-gpu")])
def test_a_missing_compiler_is_refused_with_its_install(monkeypatch, chip, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf'pip install "jaxtrain\[{extra}\]"'):
        topologies.require(topologies.parse(chip))


def test_the_environment_is_that_of_another_process(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    own = topologies.environment(topologies.parse("v5e:4x4"))
    assert (own["JAX_PLATFORMS"], own["TPU_SKIP_MDS_QUERY"], own["HOME"]) == ("cpu", "1", "/home/x")
    assert "TPU_SKIP_MDS_QUERY" not in os.environ
    assert topologies.environment(topologies.parse("h100:8"))["CUDA_VISIBLE_DEVICES"] == "-1"


def test_every_topology_of_the_list_is_one_to_its_compiler():
    tpus = {kind: chip for kind, chip in topologies.CHIPS.items() if chip.platform == "tpu"}
    one = topologies.parse("v5e:2x2")
    try:
        topologies.require(one)
    except ConfigError as error:
        pytest.skip(str(error))
    names = [f"{kind}:{size}" for kind, chip in tpus.items() for size in chip.sizes] + [
        "2xv5e:4x4",
        "v5p:4x4x12",
    ]
    command = [sys.executable, "-P", "-c", DESCRIBED, *names]
    done = subprocess.run(command, env=topologies.environment(one), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in names:
        topology = topologies.parse(name)
        count = topologies.devices(topology)
        hosts = max(1, count // 4)
        assert found[name] == [count, "tpu", hosts, topology.slices], name
