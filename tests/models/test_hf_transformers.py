"""Hugging Face weights against transformers itself, on tiny random models of every family."""

import importlib
import json
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxtrain.generate import sampler
from jaxtrain.models import hf, hf_config
from jaxtrain.ops.logprobs import logits
from tests import tiny
from tests.generate.sampling import sample_fn

for package in ("torch", "transformers"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'jaxtrain[hf-test]'")
hf_models = importlib.import_module("tests.models.hf_models")

T = 40  # longer than every window
TOKENS = np.random.default_rng(0).integers(0, 64, (2, T)).astype(np.int32)
BATCH = {
    "tokens": TOKENS,
    "positions": np.tile(np.arange(T, dtype=np.int32), (2, 1)),
    "segments": np.ones((2, T), np.int32),
}

# The same models as transformers 4 writes them.
OLD = {
    "torch_dtype": "float32",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,
    "rms_norm_eps": 1e-6,
}
OLD_CONFIGS = {
    "llama3": {
        **OLD,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 4.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 16,
            "rope_type": "llama3",
        },
    },
    "mistral": {
        **OLD,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
        "sliding_window": 5,
    },
    "gemma3": {
        **OLD,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 12,
        "query_pre_attn_scalar": 10,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 5,
        "sliding_window_pattern": 2,
    },
    "llama_yarn": {
        **OLD,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    },
    "llama_dynamic": {
        **OLD,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 32,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "dynamic", "factor": 3.0},
    },
    "qwen2_upper": {
        **OLD,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rope_theta": 10000.0,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "phi4_mini": {
        **OLD,
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 24,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.5], "long_factor": [1.0, 2.5, 6.0]},
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    },
    "mixtral": {
        **OLD,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "sliding_window": 5,
        "router_jitter_noise": 0.0,
        "output_router_logits": False,
    },
    "qwen3_moe": {
        **OLD,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "rope_theta": 10000.0,
        "head_dim": 12,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "norm_topk_prob": True,
        "max_window_layers": 3,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "olmoe": {
        **OLD,
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "clip_qkv": None,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
    },
    "gpt_oss": {  # as published, in bfloat16
        **OLD,
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "experts_per_token": 2,
        "head_dim": 12,
        "hidden_act": "silu",
        "initial_context_length": 4096,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_experts_per_tok": 2,
        "num_local_experts": 6,
        "output_router_logits": False,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 5,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
    },
    "neox_serial": {
        **OLD,
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "num_attention_heads": 2,
        "layer_norm_eps": 1e-3,
        "tie_word_embeddings": True,
        "use_parallel_residual": False,
        "hidden_act": "gelu_new",
        "rotary_emb_base": 500,
        "rotary_pct": 0.5,
        "rope_scaling": {"type": "linear", "factor": 2.0},
    },
}
for key in ("num_key_value_heads", "rms_norm_eps"):
    del OLD_CONFIGS["neox_serial"][key]


class Case(NamedTuple):
    kind: str
    theirs: Any  # the model of transformers
    folder: Any
    arch: Any
    ours: Any
    params: Any
    logits: np.ndarray  # theirs, of TOKENS


def read(folder, arch):
    return hf.read(folder, arch, jax.eval_shape(tiny.model(arch).init, jax.random.key(0)))


@pytest.fixture(scope="module", params=hf_models.CONFIGS)
def case(request, tmp_path_factory):
    theirs = hf_models.make(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    arch = hf_config.read(folder)
    want = hf_models.logits(theirs, TOKENS)
    # Scanned layers compile in half the time.
    return Case(request.param, theirs, folder, arch, tiny.model(arch, scan=True), read(folder, arch), want)


def test_logits_agree(case):
    def forward(params):
        return logits(case.ours.hidden(params, BATCH), case.ours.head(params))

    np.testing.assert_allclose(jax.jit(forward)(case.params), case.logits, atol=1e-4, rtol=0)
    assert case.logits.std() > 0.5  # the logits say something


def test_what_is_exported_computes_the_same_and_reads_back_to_the_bit(case, tmp_path):
    hf.write(tmp_path / "out", case.params, case.arch)
    np.testing.assert_array_equal(hf_models.logits(hf_models.load(tmp_path / "out"), TOKENS), case.logits)
    arch = hf_config.read(tmp_path / "out")
    assert arch == case.arch
    jax.tree.map(np.testing.assert_array_equal, read(tmp_path / "out", arch), case.params)


def test_greedy_generation_agrees_token_for_token(case):
    # transformers goes over to LongRoPE's long table in the middle of a text, ours has it from the start; under dynamic
    # scaling the 32 tokens are the original length.
    rows, count = TOKENS[:, : 28 if case.arch.rope_factors else 8], 24
    sample = sample_fn(case.ours, max_new=count, ends=(), temperature=0.0)
    done = jax.jit(sample)(case.params, None, sampler.prompt_batch(rows, 0, bucket=rows.shape[1]))
    np.testing.assert_array_equal(done.tokens, hf_models.greedy(case.theirs, rows, count))


@pytest.mark.parametrize("case", OLD_CONFIGS, indirect=True)
def test_a_config_of_transformers_4_is_the_same_model(case, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(case.folder, folder)
    (folder / "config.json").write_text(json.dumps(OLD_CONFIGS[case.kind]))
    assert hf_config.read(folder) == case.arch
    np.testing.assert_array_equal(hf_models.logits(hf_models.load(folder), TOKENS), case.logits)
