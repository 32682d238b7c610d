"""Weights in safetensors: read into sharded parameters, written, refused. No transformers is needed."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from absl import logging
from safetensors.numpy import load_file, save_file

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.models import hf, hf_config, hf_layout
from jaxtrain.models.zoo import ZOO, Arch
from jaxtrain.train import parallel
from tests import tiny

OURS = {
    "nano": dataclasses.replace(ZOO["nano"], layers=2, width=32, heads=4, ff=48, vocab=64),
    "nano-gpt2": dataclasses.replace(
        ZOO["nano-gpt2"], layers=2, width=32, heads=4, ff=48, vocab=64, max_len=32
    ),
    "biases": Arch(
        2, 32, 4, 48, kv_heads=2, vocab=64, qkv_bias=True, out_bias=True, mlp_bias=True, tied=False
    ),
}
ARCHS = {**OURS, **{name: tiny.shrink(name) for name in tiny.EXPORTED}}
STACKED = tiny.shrink("llama2-7b")


def abstract(arch):
    return jax.eval_shape(tiny.model(arch).init, jax.random.key(0))


def random_params(arch, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), abstract(arch))


def require_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder of one file, to be copied and damaged; and its parameters."""
    folder = tmp_path_factory.mktemp("checkpoint") / "hf"
    params = random_params(STACKED)
    hf.write(folder, params, STACKED)
    return folder, params


@pytest.fixture
def damaged(checkpoint, tmp_path):
    return shutil.copytree(checkpoint[0], tmp_path / "damaged")


@pytest.mark.parametrize("name", ARCHS)
def test_parameters_come_back_to_the_bit(name, tmp_path):
    arch, params = ARCHS[name], random_params(ARCHS[name])
    on_device = jax.tree.map(jnp.asarray, params)
    hf.write(
        tmp_path / "a" / "hf",
        on_device,
        arch,
        ids={"bos": None, "eos": 2, "pad": 0},
        extra={"note.txt": b"kept"},
    )
    again = hf.read(tmp_path / "a" / "hf", hf_config.read(tmp_path / "a" / "hf"), abstract(arch))
    require_equal(again, params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(again))
    assert json.loads((tmp_path / "a/hf/generation_config.json").read_text()) == {
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    assert (tmp_path / "a/hf/note.txt").read_bytes() == b"kept"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["hf"]  # nothing temporary is left


class Recorder:
    """A tensor that remembers what was read of it."""

    def __init__(self, array):
        self.array, self.read = array, 0

    def __getitem__(self, index):
        piece = self.array[index]
        self.read += piece.size
        return piece


@pytest.mark.parametrize("name", ["biases", "gpt2", "gemma3-1b", "phi4-mini", "pythia-160m", "olmo2-7b"])
def test_a_part_of_a_parameter_reads_that_part_alone(name):
    """Halves of each axis but the head's width, which no mesh cuts; q, k and v alternate in GPT-NeoX's tensor."""
    for leaf in hf_layout.leaves(abstract(ARCHS[name]), ARCHS[name]):
        array = np.arange(np.prod(leaf.shape), dtype=np.float32).reshape(leaf.shape)
        tensor = Recorder(np.full(leaf.source.whole(leaf.shape), -1.0, np.float32))
        leaf.source.put(tensor.array, array)
        assert (tensor.array >= 0).sum() == array.size
        for axis, size in enumerate(leaf.shape):
            index = tuple(
                slice(size // 2, size) if i == axis else slice(None) for i in range(len(leaf.shape))
            )
            tensor.read = 0
            np.testing.assert_array_equal(leaf.source.piece(tensor, leaf.shape, index), array[index])
            leads = any(group[0] == axis for group in leaf.source.axes)
            assert tensor.read == (array[index].size if leads else array.size) * leaf.source.parts


@pytest.mark.parametrize("mesh", ["fsdp:4,tensor:2", "data:2,fsdp:2,tensor:2", "data:8"])
@pytest.mark.parametrize("name", ["llama3.1-8b", "gpt2", "gemma3-1b", "phi4-mini", "pythia-160m"])
def test_parameters_are_born_sharded(name, mesh, tmp_path):
    arch, params = ARCHS[name], random_params(ARCHS[name])
    hf.write(tmp_path / "hf", params, arch, shard_bytes=20_000)
    model = tiny.model(arch)
    plan = parallel.make(config.Run(mesh=mesh))
    structs = plan.abstract(lambda: model.init(jax.random.key(0)), model.axes)
    made = hf.read(tmp_path / "hf", arch, structs)
    assert jax.tree.map(lambda x: x.sharding, made) == jax.tree.map(lambda x: x.sharding, structs)
    assert made["embed"].sharding.is_fully_replicated == (mesh == "data:8")
    require_equal(plan.get(made), params)
    hf.write(tmp_path / "again", made, arch, shard_bytes=20_000)
    for file in (tmp_path / "hf").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_shards_are_as_small_as_asked_and_their_index_is_whole(tmp_path):
    params = random_params(STACKED)
    hf.write(tmp_path / "hf", params, STACKED, shard_bytes=20_000)
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    sizes = [sum(array.nbytes for array in load_file(file).values()) for file in files]
    assert len(files) > 2 and max(sizes) <= 20_000
    index = json.loads((tmp_path / "hf" / hf.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(sizes) == sum(x.nbytes for x in jax.tree.leaves(params))
    assert {name: file.name for file in files for name in load_file(file)} == index["weight_map"]
    require_equal(hf.read(tmp_path / "hf", STACKED, abstract(STACKED)), params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_are_rounded_once(dtype, tmp_path):
    params = random_params(STACKED)
    hf.write(tmp_path / "hf", params, STACKED, dtype=dtype)
    assert json.loads((tmp_path / "hf/config.json").read_text())["dtype"] == dtype
    narrow = np.dtype(getattr(ml_dtypes, dtype, dtype))
    again = hf.read(tmp_path / "hf", STACKED, abstract(STACKED))
    require_equal(again, jax.tree.map(lambda x: x.astype(narrow).astype(np.float32), params))


def test_a_weight_too_large_for_its_type_is_refused_and_leaves_nothing(tmp_path):
    params = random_params(STACKED)
    params["layers"]["mlp"]["up"]["kernel"][1, 0, 0] = 1e6
    with pytest.raises(ConfigError, match=r"float16: model\.layers\.1\.mlp\.up_proj\.weight"):
        hf.write(tmp_path / "hf", params, STACKED, dtype="float16")
    assert not list(tmp_path.iterdir())


def test_an_export_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="exists already"):
        hf.write(tmp_path, random_params(STACKED), STACKED)
    with pytest.raises(ConfigError, match="dtype=int8"):
        hf.write(tmp_path / "hf", random_params(STACKED), STACKED, dtype="int8")
    assert (tmp_path / "mine.txt").read_text() == "keep"


def edit(folder, change, file=hf.SINGLE):
    """Rewrites a file's tensors as `change` leaves them."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)


def renamed(tensors, rule):
    for name in list(tensors):
        tensors[rule(name)] = tensors.pop(name)


@pytest.mark.parametrize(
    "rule",
    [
        lambda name: name.removeprefix("model."),
        lambda name: name if name == hf.HEAD else f"language_model.{name}",
        lambda name: name.replace("model.", "model.language_model."),
    ],
    ids=["bare", "inside a model of images", "the same in transformers 5"],
)
def test_prefixes_constants_and_images_do_not_matter(rule, checkpoint, damaged, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))

    def change(tensors):
        renamed(tensors, rule)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
        tensors["vision_tower.patch.weight"] = tensors["model.vision_tower.b"] = np.ones(4, np.float32)
        tensors["multi_modal_projector.norm.weight"] = np.ones(4, np.float32)

    edit(damaged, change)
    require_equal(hf.read(damaged, STACKED, abstract(STACKED)), checkpoint[1])
    assert len(said) == 1 and "3 tensors" in said[0]


def test_gpt2s_masks_and_a_second_copy_of_a_tied_embedding_do_not_matter(tmp_path):
    arch, params = ARCHS["gpt2"], random_params(ARCHS["gpt2"])
    hf.write(tmp_path / "hf", params, arch)

    def change(tensors):
        tensors[hf.HEAD] = tensors["transformer.wte.weight"].copy()
        renamed(tensors, lambda name: name.removeprefix("transformer."))
        tensors["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.uint8)
        tensors["h.0.attn.masked_bias"] = np.ones((), np.float32)

    edit(tmp_path / "hf", change)
    require_equal(hf.read(tmp_path / "hf", arch, abstract(arch)), params)
    edit(tmp_path / "hf", lambda tensors: tensors[hf.HEAD].__setitem__((3, 4), 9.0))
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        hf.read(tmp_path / "hf", arch, abstract(arch))


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop(UP), r"no tensor layers\.1\.mlp\.up_proj\.weight"),
        (lambda t: renamed(t, lambda n: n.replace("mlp", "ffn")), r"layers\.0\.mlp\.down_proj\.weight.* and 4 more"),
        (lambda t: t.update(score=np.ones(3, np.float32)), "safetensors: tensor score is none"),
        (lambda t: t.update({"model.layers.3.mlp.up_proj.weight": t[UP]}), r"layers\.3\.mlp\.up_proj"),
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}), r"q_proj\.bias"),
        (lambda t: t.update({UP: t[UP].T.copy()}), r"up_proj\.weight has shape \(32, 48\).*\(48, 32\)"),
        (
            lambda t: t.update({"model.embed_tokens.weight": np.ones((65, 32), np.float32)}),
            r"embed_tokens\.weight has shape \(65, 32\).*vocab_size",
        ),
        (lambda t: t.update({UP: t[UP].astype(np.int8)}), r"up_proj\.weight is I8.*quantised"),
        (lambda t: t.update({UP: t[UP].astype(ml_dtypes.float8_e4m3fn)}), r"up_proj\.weight is F8_E4M3.*quantised"),
        (lambda t: t.update({"layers.1.mlp.up_proj.weight": t[UP]}), r"is also .*up_proj\.weight"),
    ],
    ids=["missing", "all renamed", "extra", "a layer more", "a bias", "turned", "rows", "int8", "float8", "twice"],
)  # fmt: skip
def test_tensors_of_another_model_name_themselves(change, named, damaged):
    edit(damaged, change)
    with pytest.raises(ConfigError, match=named) as raised:
        hf.read(damaged, STACKED, abstract(STACKED))
    assert str(damaged) in str(raised.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: data[:7],
        lambda data: b"\xff" * 16 + data[16:],
        lambda data: data[:8] + b"!" + data[9:],
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 272123\n",
    ],
    ids=[
        "half",
        "a byte less",
        "a byte more",
        "empty",
        "no length",
        "wild length",
        "no json",
        "an lfs pointer",
    ],
)
def test_a_corrupt_shard_names_itself(damage, tmp_path):
    hf.write(tmp_path / "hf", random_params(STACKED), STACKED, shard_bytes=20_000)
    shard = sorted((tmp_path / "hf").glob("*.safetensors"))[1]
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ConfigError, match=shard.name) as raised:
        hf.read(tmp_path / "hf", STACKED, abstract(STACKED))
    assert "again" in str(raised.value)


def test_an_index_that_is_not_true_names_what_is_wrong(tmp_path):
    folder = tmp_path / "hf"
    hf.write(folder, random_params(STACKED), STACKED, shard_bytes=20_000)
    index = json.loads((folder / hf.INDEX).read_text())

    def require(weights, named):
        (folder / hf.INDEX).write_text(json.dumps({"weight_map": weights}))
        with pytest.raises(ConfigError, match=named):
            hf.read(folder, STACKED, abstract(STACKED))

    files = sorted(set(index["weight_map"].values()))
    require({**index["weight_map"], "model.ghost": files[0]}, f"{files[0]}: has no tensor model.ghost")
    require({**index["weight_map"], UP: "../away.safetensors"}, rf"{UP} in \.\./away\.safetensors")
    require(None, "no weight_map")
    (folder / files[1]).rename(folder / "moved")
    require(index["weight_map"], f"in {files[1]}, which is not there")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.safetensors", "model-Q4.gguf"])
def test_a_folder_without_safetensors_says_what_it_has(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"\({name}\).*save_pretrained"):
        hf.read(tmp_path, STACKED, abstract(STACKED))


def test_a_model_saved_without_its_head_says_so(tmp_path):
    """As AutoModel saves it: no head, and no prefix either. With tied embeddings nothing is missing."""
    for name in ("llama2-7b", "pythia-160m", "qwen3-0.6b"):
        arch, params = ARCHS[name], random_params(ARCHS[name])
        hf.write(tmp_path / name, params, arch)

        def change(tensors):
            for head in ("lm_head.weight", "embed_out.weight"):
                tensors.pop(head, None)
            renamed(tensors, lambda full: full.removeprefix("model.").removeprefix("gpt_neox."))

        edit(tmp_path / name, change)
        if arch.tied:
            require_equal(hf.read(tmp_path / name, arch, abstract(arch)), params)
            continue
        with pytest.raises(ConfigError, match=r"saved without its head.*AutoModelForCausalLM"):
            hf.read(tmp_path / name, arch, abstract(arch))


def test_gpt_neoxs_masks_and_the_newer_name_of_its_head_do_not_matter(tmp_path):
    arch, params = ARCHS["pythia-160m"], random_params(ARCHS["pythia-160m"])
    hf.write(tmp_path / "hf", params, arch)

    def change(tensors):
        tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
        tensors["gpt_neox.layers.0.attention.bias"] = np.ones((1, 1, 8, 8), np.uint8)
        tensors["gpt_neox.layers.0.attention.masked_bias"] = np.ones((), np.float32)
        tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = np.ones(2, np.float32)

    edit(tmp_path / "hf", change)
    require_equal(hf.read(tmp_path / "hf", arch, abstract(arch)), params)
    edit(
        tmp_path / "hf",
        lambda tensors: tensors.update({"gpt_neox.layers.0.attention.dense.scale": np.ones(2)}),
    )
    with pytest.raises(ConfigError, match=r"attention\.dense\.scale is none"):
        hf.read(tmp_path / "hf", arch, abstract(arch))
