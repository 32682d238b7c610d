"""Whether a process joins others."""

import jax
import pytest

from jaxtrain.train import processes


@pytest.mark.parametrize(
    ("env", "joins"),
    [
        ({}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "2"}, True),  # two slices of one host each
        ({"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "1"}, False),
    ],
)
def test_processes_are_joined_where_the_machine_says_that_there_are_several(monkeypatch, env, joins):
    for name in ("JAXTRAIN_COORDINATOR", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda: joined.append(True))
    monkeypatch.setattr(processes.sys, "excepthook", None)
    processes.initialize()
    assert bool(joined) == joins
