"""Settings of config.json that are easy to read wrongly: what transformers makes of each, or a refusal."""

import importlib
import json

import jax
import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.models import hf, hf_config
from tests import tiny
from tests.models import reference

for package in ("torch", "transformers"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'jaxtrain[hf-test]'")
hf_models = importlib.import_module("tests.models.hf_models")

T = 30  # longer than every window and original length
TOKENS = np.random.default_rng(0).integers(0, 64, (1, T)).astype(np.int32)
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "initializer_range": 0.3, "bos_token_id": None,
    "eos_token_id": None, "pad_token_id": None}  # fmt: skip
NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.0, 2.5, 6.0, 9.0]}
FULL, SLIDING = "full_attention", "sliding_attention"

READ = [
    ("llama", {"rope_scaling": YARN, "original_max_position_embeddings": 24}),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": 32}),
    ("llama", {"rope_scaling": {**LLAMA3, "rope_theta": 50.0}, "max_position_embeddings": 40}),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 16}),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": T}),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 0.5}, "max_position_embeddings": 20}),
    ("llama", {"rope_parameters": {"rope_type": "default"}, "rope_theta": 50.0}),
    ("llama", {"sliding_window": 4, "tie_word_embeddings": True}),
    ("mistral", {"sliding_window": None, "num_key_value_heads": 1}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 0}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "layer_types": [SLIDING, SLIDING, FULL]}),
    ("gemma2", {"sliding_window": 4, "sliding_window_pattern": 3, "attn_logit_softcapping": None}),
    ("gemma2", {"sliding_window": 4, "hidden_act": "gelu"}),
    ("gemma3_text", {"sliding_window": 4, "sliding_window_pattern": 3, "rope_local_base_freq": 77.0}),
    (
        "gemma3_text",
        {"sliding_window": 4, "original_max_position_embeddings": 32, "layer_types": [FULL, SLIDING, FULL],
            "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}},
    ),
    (
        "gemma3_text",
        {"sliding_window": 4, "max_position_embeddings": 16,
            "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    ),
    ("olmo3", {"sliding_window": 4, "rope_scaling": YARN, "rope_theta": 5e5}),
    ("phi3", {"rope_scaling": LONGROPE, "original_max_position_embeddings": 20}),
    ("phi3", {"rope_scaling": LONGROPE, "original_max_position_embeddings": 64}),
    ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 100, "use_parallel_residual": False}),
    (
        "gpt_neox",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rotary_pct": 0.5, "max_position_embeddings": 8},
    ),
    ("gpt_neox", {"rope_parameters": {**YARN, "partial_rotary_factor": 0.5}, "attention_bias": False}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), READ, ids=[f"{k}-{'-'.join(c)}" for k, c in READ])
def test_a_setting_that_is_read_is_what_transformers_makes_of_it(kind, changes, tmp_path):
    sizes = NEOX if kind == "gpt_neox" else SIZES
    raw = json.dumps({"model_type": kind, **sizes, **changes})
    (tmp_path / "config.json").write_text(raw)
    theirs = hf_models.of_folder(tmp_path)
    wanted = hf_models.logits(theirs, TOKENS)[0]
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(raw)
    arch = hf_config.read(tmp_path)
    params = hf.read(tmp_path, arch, jax.eval_shape(tiny.model(arch).init, jax.random.key(0)))
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    found = reference.logits(arch, exact, TOKENS[0], np.arange(T), np.ones(T, np.int32))
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=0)
    assert wanted.std() > 0.5


# transformers takes these in silence, and computes something else than the key says, or than another release.
REFUSED = [
    ("llama", {"is_causal": False}, "is_causal"),
    (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16}},
        "original_max_position_embeddings=16 must be max_position_embeddings=96",
    ),
    ("gemma3_text", {"attn_logit_softcapping": 2.0}, "attn_logit_softcapping"),
    ("gemma3_text", {"rope_scaling": {"type": "linear", "factor": 3.0}}, "write rope_type"),
    ("gpt_neox", {"rope_theta": 100.0}, "disagree"),
]


@pytest.mark.parametrize(
    ("kind", "changes", "named"), REFUSED, ids=[f"{k}-{'-'.join(c)}" for k, c, _ in REFUSED]
)
def test_a_setting_that_is_taken_in_silence_is_refused(kind, changes, named, tmp_path):
    sizes = NEOX if kind == "gpt_neox" else SIZES
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **sizes, **changes}))
    hf_models.of_folder(tmp_path)
    with pytest.raises(ConfigError, match=named):
        hf_config.read(tmp_path)
