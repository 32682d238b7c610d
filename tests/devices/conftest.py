"""Stages compiled in one process that all tests of a session share, each when it is first asked for or before."""

from collections.abc import Callable

import pytest

from jaxtrain.apps.plan.types import CompiledStage
from tests.devices import cases

# (stage, chip) of the default tests, in the order in which they are compiled.
TPU = (
    *((name, "v5e:2x2") for name in cases.STAGES),
    ("pretrain", "v5p:2x2x1"),
    ("pretrain", "v6e:2x2"),
)
GPU = (("pretrain", "h100:4"), ("sample", "h100:4"), ("fp8", "h100:4"))
ONLY = {"grpo": ("train step",), "ppo": ("train step",)}  # the sampler is that of `sample`


def _stages(pairs: tuple[tuple[str, str], ...], only: dict) -> Callable[[str, str], CompiledStage]:
    done: dict[tuple[str, str], CompiledStage] = {}
    requests = [cases.request(name, chip, only=only.get(name, ())) for name, chip in pairs]
    answers = cases.compiled(requests)
    left = iter(pairs)

    def stage(name: str, chip: str) -> CompiledStage:
        while (name, chip) not in done:
            done[next(left)] = next(answers)
        return done[name, chip]

    return stage


@pytest.fixture(scope="session")
def tpu_stage() -> Callable[[str, str], CompiledStage]:
    """A function (stage, chip) -> what TPU has of it."""
    if why := cases.missing("v5e:2x2"):
        pytest.skip(why)
    return _stages(TPU, ONLY)


@pytest.fixture(scope="session")
def gpu_stage() -> Callable[[str, str], CompiledStage]:
    """A function (stage, chip) -> what GPU has of it."""
    if why := cases.missing("h100:8"):
        pytest.skip(why)
    return _stages(GPU, {})
