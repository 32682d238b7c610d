"""The architectures of transformers that an Arch can say: what each has, takes by default, and must not ask for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Config = Mapping[str, Any]


class Family(NamedTuple):
    architecture: str  # the class of transformers
    arch: Config  # fields of Arch that are the same in the whole family
    defaults: Config  # what transformers takes where config.json is silent
    legal: Mapping[str, tuple]  # key -> the values that an Arch can say, first that of a silent file
    slides: Callable[[Config, int], bool]  # whether layer i has a window, where layer_types does not say it


_EVERYWHERE = {"causal": True, "query_scale": 0.0, "attn_softcap": 0.0, "logit_softcap": 0.0}
_ROPE = {**_EVERYWHERE, "positions": "rope", "norm": "rms", "rope_theta_local": 0.0}
_LLAMA = {**_ROPE, "norm_offset": 0.0, "post_norms": False, "embed_scale": False, "mlp": "swiglu"}
_PLAIN = {"qk_norm": False, "qkv_bias": False, "bias": False}
_GEMMA = {"causal": True, "positions": "rope", "norm": "rms", "norm_offset": 1.0, "post_norms": True,
    "embed_scale": True, "mlp": "geglu", "qkv_bias": False, "bias": False}  # fmt: skip

_SIZES = {"num_key_value_heads": None, "head_dim": None, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
    "tie_word_embeddings": False, "sliding_window": None, "initializer_range": 0.02}  # fmt: skip
_QWEN_SIZES = {**_SIZES, "num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096,
    "use_sliding_window": False, "max_window_layers": 28}  # fmt: skip
_GEMMA_SIZES = {**_SIZES, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True,
    "sliding_window": 4096, "query_pre_attn_scalar": 256}  # fmt: skip
# A config.json that wraps the text model in one of images leaves out what has its default value.
_GEMMA3_SIZES = {**_GEMMA_SIZES, "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "max_position_embeddings": 131072, "rope_theta": 1e6,
    "rope_local_base_freq": 1e4, "sliding_window_pattern": 6, "final_logit_softcapping": None,
    "attn_logit_softcapping": None}  # fmt: skip

LEGAL: dict[str, tuple] = {
    "quantization_config": (None,),
    "pruned_heads": (None, {}),
    "is_encoder_decoder": (False,),
}
_ROPE_LEGAL = {**LEGAL, "partial_rotary_factor": (None, 1)}
_SILU = {**_ROPE_LEGAL, "hidden_act": ("silu", "swish")}
_NO_BIAS = {"attention_bias": (False, None), "mlp_bias": (False, None)}
_GELU = ("gelu_pytorch_tanh", "gelu_new")
_GEMMA_LEGAL = {**_ROPE_LEGAL, **_NO_BIAS, "hidden_activation": (*_GELU, None),
    "use_bidirectional_attention": (False, None)}  # fmt: skip


def _never(config: Config, layer: int) -> bool:
    return False


def _always(config: Config, layer: int) -> bool:
    return config["sliding_window"] is not None


def _upper(config: Config, layer: int) -> bool:
    used = config["use_sliding_window"] and config["sliding_window"] is not None
    return bool(used) and layer >= config["max_window_layers"]


def _alternate(config: Config, layer: int) -> bool:
    return bool((layer + 1) % config["sliding_window_pattern"])


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        {**_EVERYWHERE, "positions": "learned", "norm": "layer", "norm_offset": 0.0, "post_norms": False,
            "embed_scale": False, "mlp": "gelu", "qk_norm": False, "qkv_bias": True, "bias": True, "window": 0},
        {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
            "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "initializer_range": 0.02},
        {**LEGAL, "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
        _never,
    ),
    "llama": Family(
        "LlamaForCausalLM",
        {**_LLAMA, "qk_norm": False, "window": 0},
        {**_SIZES, "max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
        _SILU,
        _never,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        {**_LLAMA, **_PLAIN, "global_every": 0},
        {**_SIZES, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        {**_SILU, **_NO_BIAS},
        _always,
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM", {**_LLAMA, **_PLAIN, "qkv_bias": True}, _QWEN_SIZES, _SILU, _upper
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", {**_LLAMA, **_PLAIN, "qk_norm": True}, {**_QWEN_SIZES, "head_dim": 128},
        {**_SILU, **_NO_BIAS}, _upper,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        {**_GEMMA, "qk_norm": False, "rope_theta_local": 0.0},
        {**_GEMMA_SIZES, "max_position_embeddings": 8192, "sliding_window_pattern": 2,
            "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
        _GEMMA_LEGAL,
        _alternate,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", {**_GEMMA, "qk_norm": True}, _GEMMA3_SIZES, _GEMMA_LEGAL, _alternate
    ),
}  # fmt: skip
