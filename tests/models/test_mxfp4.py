"""Weights in MXFP4: numbers by hand, parts of a tensor, and a folder as gpt-oss is published."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxtrain.config import ConfigError
from jaxtrain.files.hf_hub import INDEX, SINGLE
from jaxtrain.models import hf, hf_config, mxfp4
from tests import tiny

# Two numbers a byte, E2M1: 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives.
TABLE = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


class Part:
    """What safetensors gives of a tensor."""

    def __init__(self, array):
        self.array = array

    def get_shape(self):
        return list(self.array.shape)

    def get_dtype(self):
        return {"uint8": "U8", "float32": "F32"}[self.array.dtype.name]

    def __getitem__(self, index):
        return self.array[index]


def drawn(experts=3, inputs=64, outputs=10, seed=0):
    """(blocks, scales, the tensor f32[E, I, O] that they stand for, a number at a time)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (experts, outputs, inputs // 32, 16)).astype(np.uint8)
    scales = rng.integers(120, 131, blocks.shape[:3]).astype(np.uint8)
    whole = np.zeros((experts, inputs, outputs), np.float32)
    for e, i, o in np.ndindex(whole.shape):
        byte = int(blocks[e, o, i // 32, i % 32 // 2])
        half = byte >> 4 if i % 2 else byte & 15
        whole[e, i, o] = TABLE[half] * 2.0 ** (int(scales[e, o, i // 32]) - 127)
    return blocks, scales, whole


def test_numbers_by_hand():
    blocks = np.array([[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 2], np.uint8)
    np.testing.assert_array_equal(mxfp4.numbers(blocks, np.array([128], np.uint8)), np.array(TABLE * 2) * 2)
    assert np.isnan(mxfp4.numbers(blocks, np.array([255], np.uint8))).all()


def test_a_slice_reads_what_the_whole_has_there():
    blocks, scales, whole = drawn()
    tensor = mxfp4.Mxfp4Tensor(Part(blocks), Part(scales))
    assert tensor.get_shape() == list(whole.shape) and tensor.get_dtype() == "BF16"
    for index in (np.s_[:, :, :], np.s_[1:3, 32:64, 2:9], np.s_[0:1, 5:41, 0:1], np.s_[2:3, 63:64, 9:10]):
        np.testing.assert_array_equal(tensor[index].astype(np.float32), whole[index])


@pytest.fixture
def folder(tmp_path):
    """(a folder whose experts are in MXFP4, blocks and scales in two files; the same in bfloat16)."""
    arch = tiny.shrink("gpt-oss-20b", width=32, ff=64)
    params = jax.tree.map(
        lambda x: np.random.default_rng(x.size).normal(size=x.shape).astype(np.float32),
        jax.eval_shape(tiny.model(arch).init, jax.random.key(0)),
    )
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    hf.write(plain, params, arch)
    tensors, second = load_file(plain / SINGLE), {}
    for number, name in enumerate(sorted(name for name in tensors if name.endswith("_proj"))):
        E, inputs, outputs = tensors.pop(name).shape
        blocks, scales, whole = drawn(E, inputs, outputs, seed=number)
        second[name] = whole
        tensors[name + "_blocks"], second[name + "_scales"] = blocks, scales
    packed.mkdir()
    wholes = {name: second.pop(name) for name in [name for name in second if name.endswith("_proj")]}
    files = {"model-00001-of-00002.safetensors": tensors, "model-00002-of-00002.safetensors": second}
    for file, held in files.items():
        save_file(held, packed / file, metadata={"format": "pt"})
    weights = {name: file for file, held in files.items() for name in held}
    (packed / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (packed / "config.json").write_text(json.dumps(config))
    save_file({**{k: v for k, v in tensors.items() if "_blocks" not in k}, **wholes}, plain / SINGLE)
    return packed, plain


def read(folder):
    arch = hf_config.read(folder)
    return hf.read(folder, arch, jax.eval_shape(tiny.model(arch).init, jax.random.key(0)))


def test_a_folder_in_mxfp4_is_read_as_what_it_stands_for(folder):
    packed, plain = folder
    assert hf_config.read(packed) == hf_config.read(plain)
    jax.tree.map(np.testing.assert_array_equal, read(packed), read(plain))


def edited(packed, change):
    for file in sorted(packed.glob("*.safetensors")):
        tensors = change(load_file(file))
        save_file(tensors, file, metadata={"format": "pt"})
    names = {name: f.name for f in sorted(packed.glob("*.safetensors")) for name in load_file(f)}
    (packed / INDEX).write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "1.mlp.experts.down_proj_scales" not in k},
            "has no tensor",
        ),
        (lambda t: {k: v[:, :-1] if "down_proj_scales" in k else v for k, v in t.items()}, "has shape"),
        (lambda t: {k: v.astype(np.int8) if "down_proj_scales" in k else v for k, v in t.items()}, "is I8"),
    ],
    ids=["a part is missing", "the parts do not fit", "another type"],
)
def test_damage_is_named(folder, change, said):
    packed, _ = folder
    edited(packed, lambda tensors: {k: np.ascontiguousarray(v) for k, v in change(tensors).items()})
    with pytest.raises(ConfigError, match=said) as error:
        read(packed)
    assert "experts.down_proj" in str(error.value)


def test_other_quantised_weights_are_refused(folder):
    packed, _ = folder
    edited(packed, lambda tensors: {k.replace("_blocks", ".qweight"): v for k, v in tensors.items()})
    with pytest.raises(ConfigError, match=r"gate_up_proj|down_proj"):
        read(packed)
