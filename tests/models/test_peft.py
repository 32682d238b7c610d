"""PEFT's adapters read: merged by hand in float64, against the peft package, sharded, and refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.models import hf, peft
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import parallel
from tests import tiny

LLAMA = tiny.shrink("llama2-7b", layers=2, kv_heads=2, vocab=40)
GPT2 = tiny.shrink("gpt2", layers=2, vocab=40)
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "bias": "none"}
MODEL, GPT = "base_model.model.model.", "base_model.model.transformer."
Q0, DOWN1 = f"{MODEL}layers.0.self_attn.q_proj", f"{MODEL}layers.1.mlp.down_proj"


def rng(seed=0):
    return np.random.default_rng(seed)


def pair(module, inputs, outputs, rank=3, seed=0):
    draw = rng(seed).standard_normal
    a, b = draw((rank, inputs), np.float32), draw((outputs, rank), np.float32)
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


def adapter(folder, tensors, **changes):
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def abstract(arch):
    return jax.eval_shape(tiny.model(arch).init, jax.random.key(0))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of models of random weights, by architecture."""
    folder = tmp_path_factory.mktemp("bases")
    for arch in (LLAMA, GPT2):
        hf.write(folder / arch.positions, tiny.model(arch).init(jax.random.key(0)), arch)
    return folder


def merged(bases, arch, *adapters):
    """The tensors of the model with the adapters, as an export of it has them."""
    params = hf.read(bases / arch.positions, arch, abstract(arch), adapters)
    return {name: hf.joined(parts) for name, parts in _parts(params, arch).items()}


def _parts(params, arch):
    parts = {}
    for leaf, value in zip(hf.hf_layout.leaves(params, arch), jax.tree.leaves(params), strict=True):
        for layer, name in enumerate(leaf.tensors):
            array = np.asarray(value[layer] if leaf.path[0] == "layers" else value)
            parts.setdefault(hf.full_name(name, arch), []).append((leaf, array))
    return parts


@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (6 / 3**0.5, 6 / 3**0.5)),
        ({"alpha_pattern": {"layers.1.mlp.down_proj": 12}}, (2.0, 4.0)),
        ({"alpha_pattern": {r"layers\.[01]\.self_attn\.\w_proj": 3, "down_proj": 9}}, (1.0, 3.0)),
        (
            {"alpha_pattern": {"proj": 3}},
            (2.0, 2.0),
        ),  # a pattern matches a whole name, or its end after a dot
    ],
)
def test_products_are_added_to_the_tensors_that_the_file_names_and_to_no_other(
    changes, scales, bases, tmp_path
):
    tensors = pair(Q0, 32, 32) | pair(DOWN1, 48, 32, seed=1)
    found = merged(bases, LLAMA, adapter(tmp_path / "a", tensors, **changes))
    before = load_file(bases / "rope/model.safetensors")
    for module, scale in zip((Q0, DOWN1), scales, strict=True):
        a, b = (tensors[f"{module}.lora_{name}.weight"].astype(np.float64) for name in "AB")
        name = f"{module.removeprefix('base_model.model.')}.weight"
        np.testing.assert_allclose(found.pop(name), before.pop(name) + scale * b @ a, rtol=1e-6, atol=1e-6)
    assert found.keys() == before.keys()
    assert all(np.array_equal(found[name], before[name]) for name in found)


def test_ranks_differ_by_pattern_and_adapters_are_merged_in_order(bases, tmp_path):
    first = adapter(tmp_path / "a", pair(Q0, 32, 32, rank=5), rank_pattern={"q_proj": 5})
    second = adapter(tmp_path / "b", pair(Q0, 32, 32, seed=3))
    name = "model.layers.0.self_attn.q_proj.weight"
    deltas = [
        scale * tensors[f"{Q0}.lora_B.weight"] @ tensors[f"{Q0}.lora_A.weight"]
        for scale, tensors in ((6 / 5, pair(Q0, 32, 32, rank=5)), (2.0, pair(Q0, 32, 32, seed=3)))
    ]
    before = load_file(bases / "rope/model.safetensors")[name]
    np.testing.assert_allclose(merged(bases, LLAMA, first, second)[name], before + sum(deltas), atol=1e-5)


def test_gpt2s_kernels_are_stored_the_other_way_round(bases, tmp_path):
    module = f"{GPT}h.1.attn.c_attn"
    tensors = pair(module, 32, 96)
    found = merged(bases, GPT2, adapter(tmp_path / "a", tensors, fan_in_fan_out=True))
    name = "transformer.h.1.attn.c_attn.weight"
    delta = 2.0 * tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
    before = load_file(bases / "learned/model.safetensors")[name]
    np.testing.assert_allclose(found[name], before + delta.T, atol=1e-5)


def test_an_embedding_and_modules_that_were_saved_whole(bases, tmp_path):
    draw = rng(4).standard_normal
    a, b = draw((3, 40), np.float32), draw((32, 3), np.float32)
    head, norm = draw((40, 32), np.float32), draw(32, np.float32)
    found = merged(
        bases,
        LLAMA,
        adapter(
            tmp_path / "a",
            {
                f"{MODEL}embed_tokens.lora_embedding_A": a,
                f"{MODEL}embed_tokens.lora_embedding_B": b,
                "base_model.model.lm_head.weight": head,
                f"{MODEL}norm.modules_to_save.weight": norm,
            },
            modules_to_save=["lm_head", "norm"],
        ),
    )
    before = load_file(bases / "rope/model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_allclose(found["model.embed_tokens.weight"], before + 2.0 * (b @ a).T, atol=1e-5)
    assert np.array_equal(found["lm_head.weight"], head) and np.array_equal(found["model.norm.weight"], norm)


def test_a_tied_embedding_changes_on_both_sides_or_is_refused(bases, tmp_path):
    table = rng().standard_normal((40, 32), np.float32)
    both = {f"{GPT}wte.weight": table, "base_model.model.lm_head.weight": table.copy()}
    found = merged(bases, GPT2, adapter(tmp_path / "a", both, modules_to_save=["wte", "lm_head"]))
    assert np.array_equal(found["transformer.wte.weight"], table)
    for name, tensors in (
        ("b", {f"{GPT}wte.weight": table}),
        ("c", both | {"base_model.model.lm_head.weight": table + 1}),
        ("d", pair("base_model.model.lm_head", 32, 40)),
    ):
        with pytest.raises(ConfigError, match="tie_word_embeddings"):
            merged(bases, GPT2, adapter(tmp_path / name, tensors))


@pytest.mark.parametrize("mesh", ["fsdp:4,tensor:2", "data:8"])
def test_adapters_are_merged_into_sharded_parameters(mesh, bases, tmp_path):
    tensors = pair(Q0, 32, 32) | pair(DOWN1, 48, 32) | pair(f"{MODEL}layers.1.self_attn.o_proj", 32, 32)
    folder = adapter(tmp_path / "a", tensors)
    model, plan = tiny.model(LLAMA), parallel.make(config.Run(mesh=mesh))
    structs = plan.abstract(lambda: model.init(jax.random.key(0)), model.axes)
    sharded = hf.read(bases / "rope", LLAMA, structs, [folder])
    whole = hf.read(bases / "rope", LLAMA, abstract(LLAMA), [folder])
    assert jax.tree.map(lambda x: x.sharding, sharded) == jax.tree.map(lambda x: x.sharding, structs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plan.get(sharded), whole)


REFUSED = {
    "DoRA": ({"use_dora": True}, "use_dora=true is not read"),
    "IA3": ({"peft_type": "IA3"}, 'peft_type="IA3" is not read, only "LORA"'),
    "a classifier": ({"task_type": "SEQ_CLS"}, 'task_type="SEQ_CLS"'),
    "biases": ({"bias": "lora_only"}, 'bias="lora_only"'),
    "a bias of B": ({"lora_bias": True}, "lora_bias=true"),
    "PiSSA": ({"init_lora_weights": "pissa"}, 'init_lora_weights="pissa"'),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    "of another release": ({"quantum": 0.5}, "quantum=0.5 is not read"),
    "another rank": ({"r": 8}, "the rank of model.layers.0.self_attn.q_proj is 8, that of its tensors 3"),
    "no alpha": ({"lora_alpha": "six"}, "lora_alpha='six' must be a number"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_another_function_is_refused_with_its_key(kind, bases, tmp_path):
    changes, message = REFUSED[kind]
    folder = adapter(tmp_path / "a", pair(Q0, 32, 32), **changes)
    with pytest.raises(ConfigError) as error:
        merged(bases, LLAMA, folder)
    assert message in str(error.value) and str(folder / "adapter_config.json") in str(error.value)


TENSORS = {
    "no B": ({f"{Q0}.lora_A.weight": np.zeros((3, 32), np.float32)}, "has no lora_B"),
    "no A": ({f"{Q0}.lora_B.weight": np.zeros((32, 3), np.float32)}, "has no lora_A"),
    "of a larger model": (pair(Q0, 64, 64), r"changes a tensor \(64, 64\), and the base model has it as \(32, 32\)"),
    "of a longer one": (pair(f"{MODEL}layers.2.self_attn.q_proj", 32, 32), "the base model has no such tensor"),
    "of a larger vocabulary": (
        {"base_model.model.lm_head.weight": np.zeros((48, 32), np.float32)},
        r"\(48, 32\), and the base model has it as \(40, 32\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_refused_with_their_names(kind, bases, tmp_path):
    tensors, message = TENSORS[kind]
    with pytest.raises(ConfigError, match=rf"adapter_model\.safetensors.*{message}"):
        merged(bases, LLAMA, adapter(tmp_path / "a", tensors))


def test_a_missing_or_broken_file_is_named(bases, tmp_path):
    folder = adapter(tmp_path / "a", pair(Q0, 32, 32))
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        merged(bases, LLAMA, folder)
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"no such file \(adapter_model\.bin is there\)"):
        merged(bases, LLAMA, folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"adapter_config\.json: cannot be read as JSON"):
        peft.open_adapter(folder)


def test_the_base_model_is_a_repository_a_folder_or_beside_the_adapter(tmp_path):
    folder = adapter(tmp_path / "a", pair(Q0, 32, 32), base_model_name_or_path="org/base", revision="v1")
    assert peft.is_adapter(folder) and peft.open_adapter(folder).base == "hf:org/base@v1"
    (folder / "org/base").mkdir(parents=True)
    assert peft.open_adapter(folder).base == f"hf:{folder}/org/base"
    nameless = adapter(tmp_path / "b", pair(Q0, 32, 32))
    with pytest.raises(ConfigError, match="base_model_name_or_path=None"):
        assert peft.open_adapter(nameless).base
    assert not peft.is_adapter(tmp_path)


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        (LLAMA, {"target_modules": "all-linear", "use_rslora": True}),
        (LLAMA, {"target_modules": r".*\.(q|v|o)_proj", "rank_pattern": {"o_proj": 2}, "alpha_pattern": {"v_proj": 5}}),
        (LLAMA, {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]}),
        (GPT2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    ],
    ids=["all-linear", "patterns", "embedding", "gpt2"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # those of the package itself
def test_logits_are_those_of_peft(arch, settings, bases, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    package = pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(bases / arch.positions)
    lora = package.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    theirs = package.get_peft_model(base, lora).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            if weight.requires_grad:
                weight.copy_(torch.randn_like(weight) * 0.2)
    theirs.save_pretrained(tmp_path / "a")
    ids = np.arange(24, dtype=np.int32).reshape(2, 12) % arch.vocab
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    params = hf.read(bases / arch.positions, arch, abstract(arch), [tmp_path / "a"])
    model = tiny.model(arch)
    positions = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    batch = {"tokens": ids, "positions": positions, "segments": np.ones_like(positions)}
    found = logits(model.hidden(params, batch), model.head(params))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    plain = hf.read(bases / arch.positions, arch, abstract(arch))
    assert np.abs(np.asarray(logits(model.hidden(plain, batch), model.head(plain))) - wanted).max() > 0.1
