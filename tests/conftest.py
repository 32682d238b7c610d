"""Eight virtual CPU devices for every test; set before jax is imported.

JAXTRAIN_TEST_PLATFORM=cuda,cpu runs tests on a GPU instead: those of jaxtrain/apps/benchmark/device_tests.py mean to.
"""

import gc
import importlib.metadata
import os
import signal
import sys

import pytest

# A shell starts its background jobs with Ctrl-C ignored, and children inherit that: tests send it to theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["JAX_PLATFORMS"] = os.environ.get("JAXTRAIN_TEST_PLATFORM", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Code in one part takes a sixth less time to compile than in 32 parts side by side, of a program as small as these.
_FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
# The emitters of XLA's fusions take half of the time to compile, and a tiny model gains nothing by them. Versions after
# 0.10 do not have this flag, and XLA ends the process on one that it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*os.environ.get("XLA_FLAGS", "").split(), *_FLAGS]))

pytest_plugins = ["tests.runs"]


def pytest_collection_modifyitems(items):
    """Tests that run whole commands come first: of several processes, none starts one when the others have finished."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/experiments/"))


@pytest.fixture(scope="session", autouse=True)
def _quick_compiles():
    """XLA's dearer optimisations are off: a program takes a quarter of the time to compile."""
    if jax := sys.modules.get("jax"):
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def optimized():
    """For tests of what XLA makes of a program: it is optimised as in a run."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session", autouse=True)
def _seldom_collected():
    """Modules and tests stay for the whole session: the garbage collector need not look through them each time.

    Tracing makes objects by the thousand, which the default of 700 has looked through 50 times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def _forgotten_programs():
    """What a file compiled goes with it: programs hold memory maps, of which a process may have 65,530 on Linux."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
