"""Where a model comes from: Hugging Face folders, the Hub, PEFT adapters; and which tokens end its completions."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data import chat
from jaxtrain.models import hf
from jaxtrain.stages import init_from, session, weights
from jaxtrain.train import parallel
from tests import hf_folders, tiny
from tests.hub import hub  # noqa: F401

MODULE = "base_model.model.model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A chat model whose generation_config.json lists two ends."""
    folder = tmp_path_factory.mktemp("base") / "hf"
    return hf_folders.write(folder, generation={"eos_token_id": [258, 256], "temperature": 0.6})


def adapter(folder, base, **changes):
    """A PEFT adapter of one kernel."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        f"{MODULE}.lora_A.weight": rng.standard_normal((2, 32), np.float32),
        f"{MODULE}.lora_B.weight": rng.standard_normal((48, 2), np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return tensors


def params(start):
    model = tiny.model(start.arch)
    return weights.load_params(parallel.make(config.Run(), jax.devices()[:1]), start, model, 0)


def test_the_ends_are_the_templates_and_those_of_the_folder(base, tmp_path):
    start = init_from.load_run(f"hf:{base}")
    template = chat.load_template("auto", start.tokenizer)
    assert init_from.end_ids(start, template.ends) == (258, 256)
    assert init_from.end_ids(start, (257,)) == (257, 258, 256)
    bare = init_from.load_run(f"hf:{hf_folders.write(tmp_path / 'bare')}")
    assert bare.generation == {} and init_from.end_ids(bare, template.ends) == (258,)
    listed = hf_folders.write(tmp_path / "listed", config={"eos_token_id": [258, 257]})
    assert init_from.end_ids(init_from.load_run(f"hf:{listed}"), (258,)) == (258, 257)


def test_a_tokenizer_larger_than_the_embedding_is_refused_under_the_flag_that_names_it(tmp_path):
    more = (*(f"<|extra_{i}|>" for i in range(20)), *hf_folders.IM)
    folder = hf_folders.write(tmp_path / "more", specials=more)
    for flag in ("init_from", "teacher", "judge", "model"):
        with pytest.raises(ConfigError) as error:
            init_from.load_run(f"hf:{folder}", flag)
        assert (
            f"--{flag}=hf:{folder}: the tokenizer has 279 tokens, but the model's embedding 264 rows"
            in str(error.value)
        )
        assert "resize_token_embeddings" in str(error.value)


def test_an_embedding_larger_than_the_tokenizer_is_right_and_its_spare_rows_have_no_text(base):
    tokenizer = init_from.load_run(f"hf:{base}").tokenizer
    assert tokenizer.vocab_size == 259
    assert tokenizer.decode([72, 105, 263, 260]) == tokenizer.decode([72, 105])


def test_an_adapter_is_merged_into_the_base_that_it_names_and_keeps_its_ends(base, tmp_path):
    tensors = adapter(tmp_path / "adapter", base)
    start = init_from.load_run(f"hf:{tmp_path / 'adapter'}")
    assert start.generation["eos_token_id"] == [258, 256] and start.tokenizer.chat_template
    assert start.lineage["origin"] == f"hf:{tmp_path / 'adapter'}"
    merged, plain = params(start), params(init_from.load_run(f"hf:{base}"))
    up = merged["layers"]["mlp"]["up"]["kernel"][0] - plain["layers"]["mlp"]["up"]["kernel"][0]
    product = 3.0 * tensors[f"{MODULE}.lora_B.weight"] @ tensors[f"{MODULE}.lora_A.weight"]
    np.testing.assert_allclose(up, product.T, atol=1e-5)
    np.testing.assert_array_equal(merged["embed"], plain["embed"])


def test_an_adapters_own_tokenizer_counts(base, tmp_path):
    adapter(tmp_path / "adapter", base)
    (tmp_path / "adapter/tokenizer.json").write_text(hf_folders.tokenizer_json())
    (tmp_path / "adapter/tokenizer_config.json").write_text(json.dumps(hf_folders.CHAT))
    (tmp_path / "adapter/chat_template.jinja").write_text(hf_folders.CHATML + "{# its own #}")
    start = init_from.load_run(f"hf:{tmp_path / 'adapter'}")
    assert start.tokenizer.chat_template.endswith("{# its own #}")


def test_an_adapter_without_its_base_or_of_an_adapter_is_refused(base, tmp_path):
    adapter(tmp_path / "lost", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"nowhere/config\.json: no such file"):
        init_from.load_run(f"hf:{tmp_path / 'lost'}")
    adapter(tmp_path / "first", base)
    adapter(tmp_path / "second", tmp_path / "first")
    with pytest.raises(
        ConfigError, match=r"--init_from=.*second: its base model .*first is an adapter itself"
    ):
        init_from.load_run(f"hf:{tmp_path / 'second'}")


def test_a_model_and_an_adapter_of_the_hub_are_read_and_named_by_their_commits(hub, base, tmp_path):  # noqa: F811
    hub.add("org/base", base)
    adapter(tmp_path / "adapter", "org/base", revision="main")
    hub.add("org/adapter", tmp_path / "adapter")
    start = init_from.load_run("hf:org/adapter", "teacher")
    assert "model.safetensors" not in hub.downloads()
    assert start.lineage["origin"] == f"hf:org/adapter@{hub.sha('org/adapter', 'main')}"
    local = init_from.load_run(f"hf:{base}")
    merged, plain = params(start), params(local)
    assert {"model.safetensors", "adapter_model.safetensors"} <= set(hub.downloads())
    np.testing.assert_array_equal(merged["embed"], plain["embed"])
    assert np.abs(merged["layers"]["mlp"]["up"]["kernel"] - plain["layers"]["mlp"]["up"]["kernel"]).max() > 1
    again = init_from.load_run(start.lineage["origin"])
    assert again.origins == start.origins


def test_a_run_that_is_resumed_starts_from_the_commit_that_it_recorded(hub, base, tmp_path):  # noqa: F811
    hub.add("org/base", base)
    first = init_from.load_run("hf:org/base")
    record = {"stage": "sft", "config": {}, "data": None, "resumed": [], "parent": dict(first.lineage)}
    hub.add("org/base", base, "then")
    hub.repositories["org/base"]["main"] |= {"README.md": b"a later commit"}
    later = init_from.load_run("hf:org/base")
    assert later.origins != first.origins
    assert session.pinned_start(tmp_path, later) == later  # it has only begun
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert session.pinned_start(tmp_path, later).origins == first.origins
    local = init_from.load_run(f"hf:{base}")
    assert session.pinned_start(tmp_path, local) == local
    pinned = session.pinned_run(tmp_path, "teacher", "hf:org/base")
    assert pinned == f"hf:org/base@{hub.sha('org/base', 'main')}"
    assert session.pinned_run(tmp_path, "teacher", f"hf:{base}") == f"hf:{base}"


def test_a_folder_that_is_none_and_a_repository_that_is_none_are_named(hub, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match=r"nowhere/config\.json: no such file; name a folder"):
        init_from.load_run(f"hf:{tmp_path}/nowhere")
    with pytest.raises(
        ConfigError, match=r"--judge=hf:org/nothing: no folder of this machine, and no repository"
    ):
        init_from.load_run("hf:org/nothing", "judge")


def test_weights_of_a_run_are_hf_reads(base):
    start = init_from.load_run(f"hf:{base}")
    model = tiny.model(start.arch)
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params(start), hf.read(base, start.arch, abstract))
