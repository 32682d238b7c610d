"""A run's adapters as PEFT reads them: names, numbers, and the package's own logits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxtrain import config
from jaxtrain.config import ConfigError, Lora
from jaxtrain.models import hf, lora, peft_export
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import parallel
from tests import tiny

LLAMA = tiny.shrink("llama2-7b", layers=2, kv_heads=2, vocab=40)
GPT2 = tiny.shrink("gpt2", layers=2, vocab=40)
# q, k and v in one tensor: side by side, gate and up too; and a head of each in turn.
ARCHS = {
    "llama": LLAMA,
    "gpt2": GPT2,
    "phi3": tiny.shrink("phi4-mini", layers=2, vocab=40),
    "gpt_neox": tiny.shrink("pythia-160m", layers=2, vocab=40),
}
LORA = Lora(lora_rank=3, lora_alpha=6.0)
BASE = ("org/base", "")


def trained(arch, settings):
    """(parameters of a base model, adapters of them that change something)."""
    model = tiny.model(arch)
    base = model.init(jax.random.key(0))
    fresh = lora.init(base, jax.random.key(1), model.axes, settings)
    keys = iter(jax.random.split(jax.random.key(2), 99))
    return base, jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), fresh)


def write(folder, arch, settings, adapters, base, **options):
    axes = tiny.model(arch).axes
    peft_export.write(folder, adapters, base, arch, axes, settings, base=BASE, **options)
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("targets", ["attention,mlp", "attention/q,attention/v", "mlp/down", "attention/out"])
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_what_is_written_and_read_again_is_the_merged_model(arch, targets, tmp_path):
    settings = dataclasses.replace(LORA, lora_targets=targets)
    base, adapters = trained(arch, settings)
    hf.write(tmp_path / "base", base, arch)
    write(tmp_path / "adapter", arch, settings, adapters, base)
    found = hf.read(tmp_path / "base", arch, jax.eval_shape(lambda: base), [tmp_path / "adapter"])
    wanted = lora.merge(base, adapters, tiny.model(arch).axes, settings)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), found, base))) > 0.05


def test_names_and_shapes_are_pefts(tmp_path):
    settings = dataclasses.replace(LORA, lora_targets="attention/q,mlp/down")
    base, adapters = trained(LLAMA, settings)
    written = write(tmp_path / "a", LLAMA, settings, adapters, base, extra={"README.md": b"card"})
    tensors = load_file(tmp_path / "a/adapter_model.safetensors")
    shapes = {"self_attn.q_proj": ((3, 32), (32, 3)), "mlp.down_proj": ((3, 48), (32, 3))}
    assert {name: x.shape for name, x in tensors.items()} == {
        f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight": shape
        for layer in range(2)
        for module, both in shapes.items()
        for side, shape in zip("AB", both, strict=True)
    }
    q = adapters["layers"]["attention"]["q"]["kernel"]
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(tensors[name], np.asarray(q["a"])[1].T)
    assert written["target_modules"] == ["mlp.down_proj", "self_attn.q_proj"]
    assert (written["r"], written["lora_alpha"], written["base_model_name_or_path"]) == (3, 6, "org/base")
    assert (tmp_path / "a/README.md").read_bytes() == b"card"


def test_kernels_that_share_a_tensor_share_an_adapter_of_the_sum_of_their_ranks(tmp_path):
    settings = dataclasses.replace(LORA, lora_targets="attention/q,attention/v,attention/out")
    base, adapters = trained(GPT2, settings)
    written = write(tmp_path / "a", GPT2, settings, adapters, base)
    assert written["rank_pattern"] == {"attn.c_attn": 6} and written["alpha_pattern"] == {"attn.c_attn": 12}
    assert written["fan_in_fan_out"] and written["target_modules"] == ["attn.c_attn", "attn.c_proj"]
    b = load_file(tmp_path / "a/adapter_model.safetensors")[
        "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"
    ]
    assert b.shape == (96, 6) and not b[32:64].any()  # k has none
    assert not b[:32, 3:].any() and not b[64:, :3].any() and b[:32, :3].all() and b[64:, 3:].all()


def test_adapters_that_lie_on_several_devices_are_written_the_same(tmp_path):
    base, adapters = trained(LLAMA, LORA)
    model, plan = tiny.model(LLAMA), parallel.make(config.Run(mesh="fsdp:4,tensor:2"))
    sharded = plan.init(lambda tree: tree, lora.adapter_axes(model.axes, LORA), adapters)
    write(tmp_path / "one", LLAMA, LORA, adapters, base)
    write(tmp_path / "many", LLAMA, LORA, sharded, base, fetch=plan.get)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_what_peft_cannot_hold_and_a_full_folder_are_refused(tmp_path):
    settings = dataclasses.replace(LORA, dora=True)
    base, adapters = trained(LLAMA, settings)
    with pytest.raises(ConfigError, match="DoRA's norms are not written"):
        write(tmp_path / "a", LLAMA, settings, adapters, base)
    experts = tiny.shrink("mixtral-8x7b", layers=2)
    base, adapters = trained(experts, LORA)
    with pytest.raises(ConfigError, match=r"on single experts.*lora_targets=attention"):
        write(tmp_path / "a", experts, LORA, adapters, base)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.txt").write_text("keep")
    base, adapters = trained(LLAMA, LORA)
    with pytest.raises(ConfigError, match="exists already"):
        write(tmp_path / "a", LLAMA, LORA, adapters, base)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine.txt"]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # those of the package itself
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_peft_computes_our_logits(arch, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    package = pytest.importorskip("peft")
    base, adapters = trained(arch, LORA)
    hf.write(tmp_path / "base", base, arch)
    write(tmp_path / "adapter", arch, LORA, adapters, base)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = package.PeftModel.from_pretrained(loaded, tmp_path / "adapter").eval()
    ids = np.arange(24, dtype=np.int32).reshape(2, 12) % arch.vocab
    with torch.no_grad():
        found = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    model = tiny.model(arch)
    merged = lora.merge(base, adapters, model.axes, LORA)
    positions = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    batch = {"tokens": ids, "positions": positions, "segments": np.ones_like(positions)}
    wanted = np.asarray(logits(model.hidden(merged, batch), model.head(merged)))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    plain = np.asarray(logits(model.hidden(base, batch), model.head(base)))
    assert np.abs(plain - wanted).max() > 0.1
