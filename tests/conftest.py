"""Eight virtual CPU devices for every test; set before jax is imported.

JAXTRAIN_TEST_PLATFORM=cuda,cpu runs tests on a GPU instead: those of jaxtrain/apps/benchmark/device_tests.py mean to.
"""

import importlib.metadata
import os
import sys

import pytest

os.environ["JAX_PLATFORMS"] = os.environ.get("JAXTRAIN_TEST_PLATFORM", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# The emitters of XLA's fusions take half of the time to compile, and a tiny model gains nothing by them. Versions after
# 0.10 do not have this flag, and XLA ends the process on one that it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS = (*os.environ.get("XLA_FLAGS", "").split(), "--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys(_FLAGS))

pytest_plugins = ["tests.runs"]


def pytest_collection_modifyitems(items):
    """Tests that run whole commands come first: of several processes, none starts one when the others have finished."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/experiments/"))


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
