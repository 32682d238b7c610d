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
GEMMA = {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 10}

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
    # Both kinds of bias, which makes of Llama what an Arch calls qkv_bias and bias.
    "llama_biases": lambda: transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
}  # fmt: skip


def make(kind):
    """A model whose every parameter is random: norms and biases are not left at 1 and 0."""
    torch.manual_seed(sum(map(ord, kind)))
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind](), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
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
