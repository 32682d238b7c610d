"""Eight virtual CPU devices for every test; set before jax is imported."""

import os
import sys

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

pytest_plugins = ["tests.runs"]


@pytest.fixture
def quick_compiles():
    """For tests of many small programs: XLA's dearer optimisations are off, which halves the time to compile."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def _forgotten_programs():
    """What a file compiled goes with it: programs hold memory maps, of which a process may have 65,530 on Linux."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
