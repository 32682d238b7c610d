"""config.json: read, written, refused. No transformers is needed."""

import dataclasses
import json

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.models import hf_config, zoo
from jaxtrain.models.zoo import ZOO, Arch
from tests import tiny

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
    "vocab_size": 128256, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
}  # fmt: skip
LLAMA3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"}  # fmt: skip
GEMMA3_1B = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attn_logit_softcapping": None,
    "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
    "intermediate_size": 6912, "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26,
    "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "sliding_window": 512,
    "vocab_size": 262144,
}  # fmt: skip
GEMMA3_4B_TEXT = {
    "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
}  # fmt: skip

# As the released checkpoints say it, in the form of transformers 4, and of 5 where both are here.
RELEASED = [
    ("gpt2", {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "layer_norm_epsilon": 1e-5, "n_ctx": 1024,
        "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    }),
    ("llama3.1-8b", {
        **LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": False,
    }),
    ("llama3.2-1b", {
        **LLAMA, "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}, "tie_word_embeddings": True,
    }),
    ("mistral-7b", {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32000,
    }),
    ("qwen2.5-7b", {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 3584,
        "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False, "use_sliding_window": False,
        "vocab_size": 152064,
    }),
    ("qwen3-0.6b", {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    }),
    ("gemma2-2b", {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 2304,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26,
        "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "sliding_window": 4096, "vocab_size": 256000,
    }),
    ("gemma3-1b", {
        **GEMMA3_1B, "rope_theta": 1000000, "rope_local_base_freq": 10000, "rope_scaling": None,
        "sliding_window_pattern": 6,
    }),
    ("gemma3-1b", {
        **GEMMA3_1B, "layer_types": ([*["sliding_attention"] * 5, "full_attention"] * 5)[:26],
        "rope_parameters": {
            "full_attention": {"rope_theta": 1000000, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000, "rope_type": "default"},
        },
    }),
    ("gemma3-4b", {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": GEMMA3_4B_TEXT,
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152}, "image_token_index": 262144,
    }),
    ("pythia-160m", {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 768,
        "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "num_attention_heads": 12,
        "num_hidden_layers": 12, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
        "use_parallel_residual": True, "vocab_size": 50304,
    }),
    ("pythia-160m", {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "attention_bias": True, "hidden_size": 768,
        "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 50304,
        "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 10000, "rope_type": "default"},
    }),
    ("olmo2-7b", {
        "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-6, "rope_scaling": None,
        "rope_theta": 500000, "tie_word_embeddings": False, "vocab_size": 100352,
    }),
    ("phi3-mini-4k", {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu", "hidden_size": 3072,
        "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}, "attention_bias": False,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False,
        "vocab_size": 32064,
    }),
    ("mixtral-8x7b", {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "attention_dropout": 0.0,
        "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "num_local_experts": 8, "output_router_logits": False, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000,
    }),
    ("qwen3-30b-a3b", {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False,
        "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
        "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False,
        "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
        "sliding_window": None, "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151936,
    }),
    ("olmoe-1b-7b", {
        "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "attention_bias": False, "clip_qkv": None,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 1024, "max_position_embeddings": 4096,
        "norm_topk_prob": False, "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
        "num_hidden_layers": 16, "num_key_value_heads": 16, "output_router_logits": False, "rms_norm_eps": 1e-5,
        "rope_scaling": None, "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": False,
        "vocab_size": 50304,
    }),
]  # fmt: skip


def meaning(arch: Arch) -> dict:
    """What an architecture computes, however its fields say it."""
    values = dataclasses.asdict(arch)
    unsaid = (
        "window",
        "global_every",
        "global_layers",
        "init_std",
        "dropout",
        "family",
        "expert_ff",
        "router_z_weight",
    )
    for field in unsaid:
        del values[field]
    windows = arch.windows()
    local = arch.rope_theta_local if any(windows) else 0.0
    scale = arch.query_scale or arch.C
    return values | {
        "kv_heads": arch.K, "head_width": arch.C, "rope_width": arch.R, "windows": windows, "query_scale": scale,
        "rope_theta_local": local, "ff": arch.F,
    }  # fmt: skip


def save(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "config"), RELEASED, ids=[f"{name}-{len(config)}" for name, config in RELEASED]
)
def test_released_configs_are_the_zoo(name, config, tmp_path):
    assert meaning(hf_config.read(save(tmp_path, config))) == meaning(ZOO[name])


# Beside the zoo: biases everywhere, layers of another number than the pattern's, a window on every layer.
OTHERS = {
    "biases": Arch(
        2, 32, 4, 48, vocab=64, max_len=96, qkv_bias=True, out_bias=True, mlp_bias=True, tied=False
    ),
    "attention biases": Arch(2, 32, 4, 48, vocab=64, max_len=96, qkv_bias=True, out_bias=True),
    "feed-forward biases": Arch(2, 32, 4, 48, vocab=64, max_len=96, mlp_bias=True),
    "linear": Arch(2, 32, 4, 48, vocab=64, max_len=96, rope_scaling=(4.0,)),
    "short gemma 3": dataclasses.replace(ZOO["gemma3-1b"], layers=4),
    "full gemma 3": dataclasses.replace(ZOO["gemma3-1b"], window=0),
    "windowed qwen 2": dataclasses.replace(ZOO["qwen2-0.5b"], window=64, global_every=3),
    "windowed qwen 3": dataclasses.replace(ZOO["qwen3-8b"], window=64),
    "untied gpt2": dataclasses.replace(ZOO["gpt2"], tied=False),
    **{
        name: dataclasses.replace(arch, vocab=512, max_len=arch.max_len or 4096) for name, arch in ZOO.items()
    },
    **{f"tiny {name}": tiny.shrink(name) for name in tiny.EXPORTED},
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_written_reads_back(name, tmp_path):
    written = hf_config.write(OTHERS[name], ids={"eos": 3})
    again = hf_config.read(save(tmp_path, written))
    assert meaning(again) == meaning(OTHERS[name])
    assert written["eos_token_id"] == 3 and written["bos_token_id"] is None
    old = {key: value for key, value in written.items() if key not in ("rope_parameters", "dtype")}
    new = {
        key: value
        for key, value in written.items()
        if key not in ("rope_theta", "rope_scaling", "rope_local_base_freq", "torch_dtype")
    }
    assert hf_config.read(save(tmp_path, old)) == hf_config.read(save(tmp_path, new)) == again


def test_a_model_without_a_bound_promises_a_context(tmp_path):
    assert hf_config.write(dataclasses.replace(ZOO["nano"], vocab=512))["max_position_embeddings"] == 4096


REFUSED = [
    ("llama3.1-8b", {"hidden_act": "gelu"}, "hidden_act"),
    ("llama3.1-8b", {"rope_scaling": {"type": "dynamic"}}, "factor"),
    ("llama3.1-8b", {"rope_scaling": {"type": "dynamic", "alpha": 1000.0}}, "alpha=1000.0"),
    ("phi3-mini-4k", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, 'rope_type="dynamic"'),
    ("llama3.1-8b", {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, "mrope"),
    ("llama3.1-8b", {"rope_scaling": {"factor": 8.0}}, "rope_type='default' with factor=8.0"),
    ("llama3.1-8b", {"rope_scaling": 8.0}, "rope_scaling=8.0 must be an object"),
    (
        "llama3.1-8b",
        {"rope_scaling": {**LLAMA3_ROPE, "llama_4_scaling_beta": 0.1}},
        "llama_4_scaling_beta=0.1",
    ),
    ("llama3.1-8b", {"rope_scaling": {**LLAMA3_ROPE, "factor": "8"}}, 'factor="8" must be a number'),
    ("llama3.1-8b", {"rope_scaling": {**LLAMA3_ROPE, "low_freq_factor": None}}, "low_freq_factor=null"),
    ("llama3.1-8b", {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": True}}, "beta_fast=true"),
    (
        "llama3.1-8b",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}},
        r"short_factor=\[1.0\] must be a",
    ),
    ("llama3.1-8b", {"rope_theta": "500000"}, 'rope_theta="500000" must be a number'),
    ("llama3.1-8b", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
    ("llama3.1-8b", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
    ("llama3.1-8b", {"logit_scale": 0.0625}, "logit_scale=0.0625"),
    ("llama3.1-8b", {"is_causal": False}, "is_causal=false"),
    ("llama3.1-8b", {"tie_word_embeddings": "false"}, 'tie_word_embeddings="false" must be true or false'),
    ("llama3.1-8b", {"attention_bias": "yes"}, 'attention_bias="yes"'),
    ("llama3.1-8b", {"hidden_act": ["silu"]}, r'hidden_act=\["silu"\]'),
    ("llama3.1-8b", {"layer_types": 5}, "layer_types=5"),
    ("llama3.1-8b", {"rope_parameters": []}, r"rope_parameters=\[\] must be an object"),
    ("llama3.1-8b", {"rope_scaling": {"rope_type": ["yarn"]}}, r'rope_type=\["yarn"\]'),
    ("llama3.1-8b", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor=0 must be a number above 0"),
    ("llama3.1-8b", {"rope_scaling": {**LLAMA3_ROPE, "high_freq_factor": 1.0}}, "high_freq_factor=1.0"),
    ("llama3.1-8b", {"rope_theta": 0}, "rope_theta=0 must be a number above 0"),
    ("llama3.1-8b", {"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0"),
    ("llama3.1-8b", {"head_dim": 0}, "head_dim=0"),
    ("llama3.1-8b", {"vocab_size": 0}, "vocab_size=0"),
    ("llama3.1-8b", {"intermediate_size": None}, "intermediate_size=null"),
    ("llama3.1-8b", {"no_rope_layers": [1, 1, 1, 0]}, "no_rope_layers"),
    ("llama3.1-8b", {"compression_config": {"format": "int-quantized"}}, "compression_config"),
    ("llama3.1-8b", {"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM.*want LlamaForCausalLM"),
    ("llama3.1-8b", {"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"]}, "llama4_text"),
    (
        "llama3.1-8b",
        {"model_type": "mllama", "architectures": ["MllamaForConditionalGeneration"]},
        "mllama.*MllamaFor",
    ),
    ("llama3.1-8b", {"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ("llama3.1-8b", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    (
        "llama3.1-8b",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary",
    ),
    ("llama3.1-8b", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "disagree"),
    ("llama3.1-8b", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one for all layers"),
    ("llama3.1-8b", {"layer_types": ["sliding_attention"] * 32}, "layer_types"),
    ("llama3.1-8b", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama3.1-8b", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    ("llama3.1-8b", {"hidden_size": "4096"}, "hidden_size"),
    ("llama3.1-8b", {"hidden_size": 4095}, "config.json"),
    ("llama3.1-8b", {"num_hidden_layers": ...}, "num_hidden_layers"),
    (
        "llama3.1-8b",
        {"model_type": "phimoe", "architectures": ["PhimoeForCausalLM"]},
        "phimoe.*PhimoeFor.*gemma2",
    ),
    ("llama3.1-8b", {"model_type": ...}, "model_type=None"),
    ("gpt2", {"activation_function": "relu"}, 'activation_function="relu"'),
    ("gpt2", {"num_attention_heads": 16}, "n_head=12 and num_attention_heads=16 disagree"),
    ("pythia-160m", {"rope_theta": 500.0}, r"rotary_emb_base=10000\.0 and rope_theta=500\.0 disagree"),
    ("gpt2", {"n_embd": "768"}, 'n_embd="768" must be a number'),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("mistral-7b", {"layer_types": ["full_attention"] * 32}, "layer_types"),
    ("mistral-7b", {"attention_bias": True}, "attention_bias"),
    ("qwen2.5-7b", {"max_window_layers": None}, "max_window_layers=null"),
    ("qwen2.5-7b", {"use_sliding_window": 1}, "use_sliding_window=1"),
    ("gemma3-1b", {"sliding_window_pattern": 0}, "sliding_window_pattern=0"),
    ("qwen2.5-7b", {"layer_types": ["linear_attention"] * 28}, "linear_attention"),
    ("qwen3-0.6b", {"mlp_bias": True}, "mlp_bias"),
    ("qwen3-0.6b", {"layer_types": ["sliding_attention"] * 28}, "sliding_window=None"),
    ("qwen3-0.6b", {"layer_types": ["full_attention"] * 27}, "28 layers"),
    ("gemma2-2b", {"sliding_window": None}, "sliding_window=None"),
    ("gemma2-2b", {"hidden_activation": "gelu"}, "hidden_activation"),
    ("gemma2-2b", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma3-1b", {"rope_parameters": {"rope_type": "default"}}, "one for each type of layer"),
    ("gemma3-1b", {"rope_scaling": {"type": "linear", "factor": 8.0}}, 'type="linear".*write rope_type'),
    ("gemma3-1b", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
    ("gemma3-1b", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    (
        "gemma3-1b",
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0, "truncate": False}}},
        "truncate=false",
    ),
    ("pythia-160m", {"hidden_act": "relu"}, 'hidden_act="relu"'),
    ("pythia-160m", {"rotary_emb_base": "10000"}, 'rotary_emb_base="10000"'),
    ("pythia-160m", {"layer_norm_eps": "1e-5"}, 'layer_norm_eps="1e-5"'),
    ("pythia-160m", {"head_dim": 128}, "head_dim=128"),
    ("olmo2-7b", {"clip_qkv": 8.0}, "clip_qkv=8.0"),
    ("olmo2-7b", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("olmo2-7b", {"num_local_experts": 8}, "num_local_experts=8"),
    ("mixtral-8x7b", {"num_experts_per_tok": 9}, "experts_per_token=9 must be from 1 to experts=8"),
    ("mixtral-8x7b", {"num_local_experts": 0}, "num_local_experts=0"),
    ("mixtral-8x7b", {"num_local_experts": 8.0}, "num_local_experts=8.0"),
    ("mixtral-8x7b", {"num_experts": 4}, "num_experts=4 and num_local_experts=8 disagree"),
    ("mixtral-8x7b", {"n_routed_experts": 4}, "n_routed_experts=4"),
    ("mixtral-8x7b", {"router_aux_loss_coef": -1}, "router_aux_loss_coef=-1"),
    ("qwen3-30b-a3b", {"num_local_experts": 64}, "num_experts=128 and num_local_experts=64 disagree"),
    ("qwen3-30b-a3b", {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
    ("qwen3-30b-a3b", {"mlp_only_layers": [0]}, "mlp_only_layers"),
    ("qwen3-30b-a3b", {"norm_topk_prob": 1}, "norm_topk_prob=1"),
    ("olmoe-1b-7b", {"clip_qkv": 8.0}, "clip_qkv=8.0"),
    ("phi3-mini-4k", {"layer_types": ["full_attention"] * 32}, "layer_types"),
    ("phi3-mini-4k", {"rope_scaling": {"type": "su", "short_factor": [1.0] * 48}}, "long_factor=null"),
    (
        "phi3-mini-4k",
        {"rope_scaling": {"type": "longrope", "long_mscale": 1.2}},
        "long_mscale=1.2",
    ),
    (
        "gemma3-1b",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default"},
                "sliding_attention": {"rope_type": "linear", "factor": 2.0},
            }
        },
        "sliding_attention are scaled",
    ),
]


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    REFUSED,
    ids=[f"{n}-{'-'.join(c)}-{i}" for i, (n, c, _) in enumerate(REFUSED)],
)
def test_what_an_arch_cannot_say_is_refused_by_name(name, changes, named, tmp_path):
    config = {**dict(RELEASED)[name], **changes}
    config = {key: value for key, value in config.items() if value is not ...}
    with pytest.raises(ConfigError, match=named) as raised:
        hf_config.read(save(tmp_path, config))
    assert str(tmp_path / "config.json") in str(raised.value)


ODD = (10**400, 10**9, -1, 0, 1.5, 1e308, float("nan"), "x", [], {}, None, True, [1, 2, 3], [[]])


@pytest.mark.parametrize("name", ["gpt2", "llama3.1-8b", "gemma3-4b", "qwen3-30b-a3b"])
def test_any_value_of_any_key_is_read_or_refused_by_name_before_anything_is_built(name, tmp_path):
    config, refused = dict(RELEASED)[name], 0
    for key in config:
        inner = list(config[key]) if isinstance(config[key], dict) else []
        for value in ODD:
            for changed in (value, *({**config[key], one: value} for one in inner)):
                folder = save(tmp_path, {**config, key: changed})
                try:
                    assert hf_config.read(folder).layers <= hf_config.MOST["num_hidden_layers"]
                except ConfigError as error:
                    assert str(folder) in str(error) and len(str(error)) < 2000
                    refused += 1
    assert refused > 4 * len(config)


@pytest.mark.parametrize("text", [None, "{", "[]", "\xff"], ids=["absent", "broken", "list", "not text"])
def test_a_file_that_is_no_config_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.json"):
        hf_config.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("nano", {"causal": False}, "causal"),
        ("nano", {"vocab": 0}, "vocab"),
        ("nano", {"norm": "layer"}, "norm=layer"),
        ("nano", {"mlp": "geglu"}, "mlp=geglu"),
        ("nano", {"logit_softcap": 30.0}, "logit_softcap"),
        ("nano", {"query_scale": 3.0}, "query_scale"),
        ("nano", {"out_bias": True}, "qkv_bias=False, out_bias=True"),
        ("nano", {"family": "llama5"}, "llama5 is none of gpt2, llama"),
        ("nano", {"parallel": True}, "parallel=True"),
        ("nano", {"rope_width": 16, "qk_norm": True}, "rope_width=16"),
        ("nano", {"mlp": "gelu_erf"}, "mlp=gelu_erf"),
        ("nano", {"qk_norm": True, "qk_norm_joint": True}, "qk_norm_joint"),
        ("mistral-7b", {"global_layers": (0,)}, "global_layers"),
        ("pythia-160m", {"kv_heads": 4}, "kv_heads=4"),
        ("gemma3-1b", {"attn_softcap": 50.0}, "attn_softcap=50.0"),
        ("nano", {"window": 8, "global_every": 2}, "global_every"),
        ("nano", {"window": 8, "rope_theta_local": 1e3}, "rope_theta_local"),
        ("nano", {"heads": 6, "head_width": 32, "kv_heads": 6}, "do not divide width"),
        ("gpt2", {"kv_heads": 4}, "kv_heads=4"),
        ("gpt2", {"head_width": 32}, "head_width=32"),
        ("gpt2", {"window": 8}, "window=8"),
        ("gemma3-4b", {"rope_theta_local": 0.0}, "rope_theta_local"),
        ("gemma2-2b", {"query_scale": 1.5}, "query_scale=1.5"),
        ("gemma2-2b", {"norm_offset": 0.0}, "norm_offset"),
        (
            "tinytown-moe",
            {"shared_experts": 1},
            "shared_experts=1 of the model: no architecture of transformers",
        ),
        ("tinytown-moe", {"router_bias": True}, "router_bias=True"),
        ("tinytown-moe", {"mlp_bias": True}, "mlp_bias=True"),
        ("tinytown-moe", {"norm_topk": False}, "norm_topk=False"),
        ("tinytown-moe", {"family": "llama"}, "experts=8"),
    ],
)
def test_what_no_architecture_has_is_not_written(name, changes, named):
    arch = dataclasses.replace(ZOO[name], **{"vocab": 512, **changes})
    with pytest.raises(ConfigError, match=named):
        hf_config.write(arch)


def test_old_runs_and_commands_name_the_biases_together():
    old = dataclasses.asdict(ZOO["gpt2"])
    for name in ("out_bias", "mlp_bias", "family", "pre_norms", "rope_factors", "global_layers"):
        del old[name]
    assert zoo.from_dict(json.loads(json.dumps({**old, "bias": True}))) == ZOO["gpt2"]
    resolved = zoo.resolve("nano,bias=true,global_layers=0/2,rope_scaling=4")
    assert resolved == dataclasses.replace(
        ZOO["nano"], out_bias=True, mlp_bias=True, global_layers=(0, 2), rope_scaling=(4.0,)
    )


def test_null_and_silence_are_the_familys_default(tmp_path):
    """What a file leaves out or sets to null is what transformers takes then."""
    config = {
        **dict(RELEASED)["phi3-mini-4k"],
        "rope_theta": 1e4,
        "sliding_window": None,
        "attention_bias": None,
    }
    for key in (
        "rms_norm_eps",
        "tie_word_embeddings",
        "hidden_act",
        "max_position_embeddings",
        "num_key_value_heads",
    ):
        del config[key]
    wanted = dataclasses.replace(ZOO["phi3-mini-4k"], window=0)
    assert meaning(hf_config.read(save(tmp_path, config))) == meaning(wanted)


def test_a_family_is_exported_as_itself(tmp_path):
    """Mistral without windows is Llama's function, and Phi 3 too, whose tensors have other names."""
    for name in ("mistral-7b", "phi3-mini-4k"):
        config = {**dict(RELEASED)[name], "sliding_window": None}
        assert hf_config.write(hf_config.read(save(tmp_path, config)))["model_type"] == config["model_type"]


def test_a_pattern_that_transformers_does_not_look_at_changes_nothing(tmp_path):
    config = dict(RELEASED)["gemma2-2b"]
    assert hf_config.read(save(tmp_path, {**config, "sliding_window_pattern": 3})).global_every == 2
    assert hf_config.read(save(tmp_path, {**config, "hidden_act": "gelu", "rope_theta": 1e4})).mlp == "geglu"
