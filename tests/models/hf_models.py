"""Tiny random models of transformers, one of each family that is read."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

torch.set_num_threads(1)  # of models this small, more threads only wait for each other

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
# LongRoPE's tables for 6 rotated components of a head of 8, and for all 8.
LONGROPE6 = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.5], "long_factor": [1.0, 2.5, 6.0]}
LONGROPE8 = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.5],
    "long_factor": [1.0, 2.5, 6.0, 9.0],
}
GEMMA = {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 10}

GPT_OSS = {**SIZES, "head_dim": 12, "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 5}

# A quarter of a head of 16 is rotated.
NEOX = {**SIZES, "num_attention_heads": 2, "layer_norm_eps": 1e-3}
del NEOX["num_key_value_heads"]

CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=64, n_positions=96, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    ),
    "llama": lambda: transformers.LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0}),
    "llama3": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=dict(LLAMA3)),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=5),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(
        **SIZES, head_dim=12, use_sliding_window=True, sliding_window=5, max_window_layers=0
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, **GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SIZES, **GEMMA, sliding_window_pattern=2, rope_parameters={k: dict(v) for k, v in GEMMA3_ROPE.items()}
    ),
    "llama_biases": lambda: transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama_attention_bias": lambda: transformers.LlamaConfig(**SIZES, attention_bias=True),
    "llama_mlp_bias": lambda: transformers.LlamaConfig(**SIZES, mlp_bias=True, head_dim=12),
    "llama_yarn": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=dict(YARN)),
    "llama_yarn_mscale": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 1.3, "truncate": False}
    ),
    "llama_dynamic": lambda: transformers.LlamaConfig(
        **{**SIZES, "max_position_embeddings": 32},
        rope_parameters={"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4},
    ),
    "llama_longrope": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={**LONGROPE8, "factor": 6.0, "original_max_position_embeddings": 16}
    ),
    "mistral_full": lambda: transformers.MistralConfig(**SIZES, sliding_window=None, head_dim=12),
    "ministral": lambda: transformers.MinistralConfig(
        **SIZES, head_dim=12, sliding_window=5, layer_types=["full_attention", "sliding_attention", "sliding_attention"]
    ),
    "qwen2_yarn": lambda: transformers.Qwen2Config(
        **SIZES, rope_parameters={**YARN, "attention_factor": 1.3, "beta_fast": 8, "beta_slow": 2}
    ),
    "qwen2_upper": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3_bias": lambda: transformers.Qwen3Config(
        **SIZES, head_dim=12, attention_bias=True, use_sliding_window=True, sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    ),
    "gemma2_bias": lambda: transformers.Gemma2Config(**SIZES, **GEMMA, attention_bias=True),
    "gemma3_yarn": lambda: transformers.Gemma3TextConfig(
        **SIZES, **GEMMA, tie_word_embeddings=False, final_logit_softcapping=3.0,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        rope_parameters={**{k: dict(v) for k, v in GEMMA3_ROPE.items()}, "full_attention": dict(YARN)},
    ),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
    "olmo2_bias": lambda: transformers.Olmo2Config(**SIZES, attention_bias=True, rope_parameters=dict(LLAMA3)),
    "olmo3": lambda: transformers.Olmo3Config(
        **SIZES, sliding_window=5, rope_parameters={
            "full_attention": {**YARN, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
        },
    ),
    "phi3": lambda: transformers.Phi3Config(**SIZES, sliding_window=7),
    "phi4_mini": lambda: transformers.Phi3Config(
        **SIZES, tie_word_embeddings=True, original_max_position_embeddings=24,
        rope_parameters={**LONGROPE6, "rope_theta": 1e4, "partial_rotary_factor": 0.75},
    ),
    "phi3_long": lambda: transformers.Phi3Config(
        **SIZES, original_max_position_embeddings=64, rope_parameters={**LONGROPE8, "rope_theta": 1e4}
    ),
    "pythia": lambda: transformers.GPTNeoXConfig(**NEOX),
    "neox_serial": lambda: transformers.GPTNeoXConfig(
        **NEOX, use_parallel_residual=False, hidden_act="gelu_new", tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5, "rope_theta": 500.0},
    ),
    "mixtral": lambda: transformers.MixtralConfig(
        **SIZES, num_local_experts=6, num_experts_per_tok=3, sliding_window=5
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SIZES, head_dim=12, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20, norm_topk_prob=True
    ),
    "qwen3_moe_window": lambda: transformers.Qwen3MoeConfig(
        **SIZES, head_dim=12, num_experts=4, num_experts_per_tok=1, moe_intermediate_size=20, attention_bias=True,
        use_sliding_window=True, sliding_window=5,
    ),
    "olmoe": lambda: transformers.OlmoeConfig(**SIZES, num_experts=6, num_experts_per_tok=2),
    "olmoe_normed": lambda: transformers.OlmoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=2, norm_topk_prob=True, tie_word_embeddings=True,
        attention_bias=True,
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(**GPT_OSS),
    "gpt_oss_yarn": lambda: transformers.GptOssConfig(
        **{**GPT_OSS, "sliding_window": 3, "tie_word_embeddings": True}, attention_bias=False,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"], rope_parameters=dict(YARN),
    ),
    "neox_no_bias": lambda: transformers.GPTNeoXConfig(**NEOX, attention_bias=False),
}  # fmt: skip


def make(kind):
    """A model whose every parameter is random: norms and biases are not left at 1 and 0."""
    return _random(CONFIGS[kind](), sum(map(ord, kind)))


def of_folder(folder):
    """Such a model of a folder's config.json."""
    return _random(transformers.AutoConfig.from_pretrained(folder, local_files_only=True), 0)


def _random(config, seed):
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name.endswith("_bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", local_files_only=True
    ).eval()


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def greedy(model, tokens, count):
    """The `count` tokens that the model continues each row with."""
    rows = torch.tensor(tokens)
    with torch.no_grad():
        out = model.generate(
            rows, attention_mask=torch.ones_like(rows), do_sample=False, max_new_tokens=count, pad_token_id=0
        )
    return out[:, rows.shape[1] :].numpy()
