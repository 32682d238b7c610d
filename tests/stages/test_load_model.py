"""Models as a plan's devices compute them."""

import pytest

from jaxtrain import config
from jaxtrain.stages import load_model
from jaxtrain.train import parallel
from tests import tiny


@pytest.mark.parametrize(
    ("device", "has"),
    [
        (("gpu", "NVIDIA A100-SXM4-80GB", "8.0"), False),
        (("gpu", "NVIDIA L4", "8.9"), True),
        (("gpu", "NVIDIA H100 80GB HBM3", "9.0"), True),
        (("gpu", "NVIDIA B200", "10.0"), True),
        (("tpu", "TPU v5 lite", ""), False),
        (("tpu", "TPU v6 lite", ""), False),
        (("tpu", "TPU7x", ""), True),
        (("cpu", "cpu", ""), True),
    ],
)
def test_devices_without_units_for_fp8_are_known(device, has):
    assert load_model.has_fp8(*device) == has


def test_fp8_without_units_is_computed_and_said_once(monkeypatch):
    said, plan = [], parallel.make(config.Run())
    monkeypatch.setattr(load_model, "has_fp8", lambda *_: False)
    monkeypatch.setattr(load_model.logging, "warning", lambda text, *values: said.append(text % values))
    load_model._warn_of_fp8.cache_clear()
    arch = tiny.shrink("llama3.1-8b", layers=1)
    for _ in range(2):
        load_model.build_model(plan, arch, config.Model(matmul_dtype="fp8"))
    assert len(said) == 1 and said[0].startswith("--matmul_dtype=fp8: cpu has no units for it")
    load_model.build_model(plan, arch, config.Model(matmul_dtype="int8"))
    assert len(said) == 1
