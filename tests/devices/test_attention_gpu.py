"""Attention layers compiled for an H100 without one, where the compiler (the extra aot-gpu) is installed."""

import json
import subprocess
import sys

import pytest

from jaxtrain.apps.plan import topologies
from jaxtrain.config import ConfigError
from tests.source import ROOT

# GiB of temporary memory, jax 0.10.2. cuDNN's own workspaces are not among it.
TEMP = {
    "packed": 0.502,
    "packed, odd": 0.658,
    "packed, window": 0.502,
    "soft cap": 0.201,
    "soft cap, window": 0.201,
}


@pytest.fixture(scope="module")
def programs():
    chip = topologies.parse("h100:1")
    try:
        topologies.require(chip)
    except ConfigError as error:
        pytest.skip(str(error))
    run = subprocess.run(
        [sys.executable, "-m", "tests.devices.attention_programs", *TEMP, "square"],
        cwd=ROOT, env=topologies.environment(chip), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", TEMP)
def test_no_array_is_as_large_as_the_square_of_a_row(programs, name):
    assert programs["square"]["square"] and not programs[name]["square"]
    assert programs[name]["temp"] == pytest.approx(TEMP[name], rel=0.05)


@pytest.mark.parametrize("name", [name for name in TEMP if "packed" in name])
def test_packed_rows_are_cudnns(programs, name):
    """The plain and the packed kernel, of which the rows decide; each stands once in either direction."""
    assert (programs[name]["forward"], programs[name]["backward"]) == (2, 2)
