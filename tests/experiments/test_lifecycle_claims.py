"""The whole lifecycle as a newcomer runs it: no target is missed on seeds 0, 1 and 2, however a machine rounds.

A rounding takes three times as long as ./launch/run lifecycle; -k names one: launch/test -m slow -k "lifecycle_claims
and jitter".
"""

import json
import os
import subprocess
import sys

import pytest

from tests.runs import ROOT

ROUNDINGS = {
    "default": ({}, ()),
    "sse4_2": ({"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"}, ()),
    "jitter": ({}, ("--jitter=1e-6",)),
}
OF_TESTS = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")  # what conftest.py sets


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_lifecycle_claims(rounding, tmp_path):
    variables, flags = ROUNDINGS[rounding]
    env = {name: value for name, value in os.environ.items() if name not in OF_TESTS}
    command = (
        sys.executable,
        "-m",
        "experiments.lifecycle",
        "--seeds=0,1,2",
        f"--workdir={tmp_path}",
        *flags,
    )
    subprocess.run(command, cwd=ROOT, env={**env, **variables}, check=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["seeds"] == [0, 1, 2]
    missed = {
        f"{stage['name']}: {claim['measure']} {claim['wanted']}": claim["value"]
        for stage in result["stages"]
        for claim in stage["claims"]
        if not claim["reached"]
    }
    assert missed == {}
