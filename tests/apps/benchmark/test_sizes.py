import dataclasses

import pytest

from jaxtrain import config
from jaxtrain.apps.benchmark.config import GpuCheck
from jaxtrain.apps.benchmark.parts import PARTS
from jaxtrain.apps.benchmark.sizes import FULL, TINY
from jaxtrain.config import ConfigError
from jaxtrain.models import transformer, zoo


@pytest.mark.parametrize(("name", "millions"), [("125M", 125), ("350M", 355), ("1.3B", 1315)])
def test_the_sizes_are_gpt_3_s(name, millions):
    arch = zoo.resolve(FULL.pretrain[name].model)
    assert abs(transformer.parameters(arch) / 1e6 - millions) < 2
    assert arch.max_len >= FULL.pretrain[name].length and arch.vocab % 64 == 0


@pytest.mark.parametrize("sizes", [FULL, TINY], ids=["full", "tiny"])
def test_sizes_are_legal(sizes):
    for size in (*sizes.pretrain.values(), sizes.dpo):
        for settings in (*size.settings, *size.sweep):
            config.Model(
                **{key: value for key, value in settings.items() if key not in ("rows", "documents")}
            )
        assert zoo.resolve(size.model).max_len >= size.length
    assert zoo.resolve(sizes.parity).max_len >= sizes.parity_length > sizes.parity_prompt
    for size in (sizes.decode, sizes.ppo):
        assert zoo.resolve(size.model).max_len >= size.prompt + size.new
    assert sizes.ppo.completions % sizes.ppo.rows == 0
    assert {name for name, _, _ in sizes.torch_pretrain} <= set(sizes.pretrain)
    for case in sizes.attention.values():
        assert case.width == case.arch().C and case.kv_heads == case.arch().K


def test_tiny_has_every_field_of_full():
    """So that each part of the check runs on a CPU by the same code."""
    for field in dataclasses.fields(FULL):
        assert type(getattr(FULL, field.name)) is type(getattr(TINY, field.name))


def test_the_least_times_fit_the_budget_and_the_order_is_correctness_first():
    assert sum(part.least for part in PARTS.values()) <= GpuCheck().seconds
    assert list(PARTS)[:3] == ["device", "attention", "pretrain_125m"] and list(PARTS)[-1] == "sweep"
    assert all(part.least <= part.most for part in PARTS.values())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"parts": "device+nothing"}, "no part 'nothing'; one of device, "),
        ({"tiny": True}, "--out"),
        ({"tiny": True, "out": "x.json"}, "--page="),
        ({"seconds": -1}, "--seconds"),
    ],
)
def test_wrong_flags_are_refused(flags, words):
    with pytest.raises(ConfigError, match=words):
        GpuCheck(**flags)
    assert GpuCheck(parts="device+decode").names() == ["device", "decode"]
