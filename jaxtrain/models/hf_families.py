"""The architectures of transformers that an Arch can say: what each has, takes by default, and must not ask for."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError
from jaxtrain.models.zoo import Arch

Config = Mapping[str, Any]


class Family(NamedTuple):
    architecture: str  # the class of transformers
    arch: Config  # fields of Arch that are the same in the whole family
    defaults: Config  # what transformers takes where config.json is silent
    legal: Mapping[str, tuple]  # key -> the values that an Arch can say, first that of a silent file
    slides: Callable[[Config, int], bool]  # whether layer i has a window, where layer_types does not say it
    acts: Mapping[str, str]  # the activation -> Arch.mlp; of two for one, the first is written
    fields: Mapping[str, str] = {}  # key -> the field of Arch with the same value, 0 or false for null
    spelled: Mapping[str, str] = {}  # Llama's name of a key -> this family's
    layout: str = "llama"  # the tensors' names and shapes, hf_layout
    prefix: str = "model."  # of all tensors but the head
    head: str = "lm_head.weight"


_EVERYWHERE = {"causal": True, "norm_offset": 0.0, "embed_scale": False, "experts": 0, "attn_sinks": False}
_UNCAPPED = {**_EVERYWHERE, "query_scale": 0.0, "attn_softcap": 0.0, "logit_softcap": 0.0}
_LAYERNORM = {**_UNCAPPED, "norm": "layer", "pre_norms": True, "post_norms": False, "qk_norm": False,
    "mlp_bias": True, "window": 0}  # fmt: skip
_RMS = {"positions": "rope", "norm": "rms", "parallel": False}
_ROPE = {**_RMS, "rope_width": 0}
_PHI = {
    **_UNCAPPED,
    **_RMS,
    "rope_theta_local": 0.0,
    "pre_norms": True,
    "post_norms": False,
    "qk_norm_joint": False,
}
_LLAMA = {**_PHI, **_ROPE}
_NO_BIAS = {"qkv_bias": False, "out_bias": False, "mlp_bias": False}
_GEMMA = {**_ROPE, "causal": True, "norm_offset": 1.0, "pre_norms": True, "post_norms": True, "qk_norm_joint": False,
    "embed_scale": True, "mlp_bias": False, "experts": 0, "attn_sinks": False}  # fmt: skip
_OLMO = {"pre_norms": False, "post_norms": True, "qk_norm": True, "qk_norm_joint": True, "mlp_bias": False}

_EXPERTS = {**{field: value for field, value in _LLAMA.items() if field != "experts"}, "mlp_bias": False,
    "shared_experts": 0, "router_bias": False}  # fmt: skip

_SIZES = {"num_key_value_heads": None, "head_dim": None, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
    "tie_word_embeddings": False, "sliding_window": None, "initializer_range": 0.02, "hidden_act": "silu"}  # fmt: skip
_MISTRAL_SIZES = {
    **_SIZES,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
_QWEN_SIZES = {**_SIZES, "num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096,
    "use_sliding_window": False, "max_window_layers": 28}  # fmt: skip
_OLMO_SIZES = {**_SIZES, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "attention_bias": False}
_MIXTRAL_SIZES = {**_SIZES, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
    "rope_theta": 1e6, "num_experts": 8, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.001}  # fmt: skip
_QWEN_MOE_SIZES = {**_QWEN_SIZES, "num_key_value_heads": 4, "attention_bias": False, "norm_topk_prob": False,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    "router_aux_loss_coef": 0.001}  # fmt: skip
_OLMOE_SIZES = {**_SIZES, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "attention_bias": False,
    "norm_topk_prob": False, "num_experts": 64, "num_experts_per_tok": 8, "router_aux_loss_coef": 0.01}  # fmt: skip
# Its router_aux_loss_coef, .9 in the published files, acts in transformers only where router logits are asked for.
_GPT_OSS_SIZES = {**_SIZES, "num_hidden_layers": 36, "num_experts": 128, "vocab_size": 201088, "hidden_size": 2880,
    "intermediate_size": 2880, "head_dim": 64, "num_attention_heads": 64, "num_key_value_heads": 8,
    "sliding_window": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 15e4,
    "num_experts_per_tok": 4, "attention_bias": True, "rope_parameters": {"rope_type": "yarn", "factor": 32.0,
    "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 4096}}  # fmt: skip
_GEMMA_SIZES = {**_SIZES, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True,
    "sliding_window": 4096, "query_pre_attn_scalar": 256, "attention_bias": False,
    "hidden_act": "gelu_pytorch_tanh"}  # fmt: skip
# A config.json that wraps the text model in one of images leaves out what has its default value.
_GEMMA3_SIZES = {**_GEMMA_SIZES, "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "max_position_embeddings": 131072, "rope_theta": 1e6,
    "rope_local_base_freq": 1e4, "sliding_window_pattern": 6, "final_logit_softcapping": None,
    "attn_logit_softcapping": None}  # fmt: skip

# What would change the function, whatever the family: quantised weights, and what other architectures multiply, clip,
# bias or leave out. The classes of transformers named here ignore it, but then the weights are not theirs.
LEGAL: dict[str, tuple] = {
    "quantization_config": (None,),
    "quantization": (None,),
    "compression_config": (None,),
    "pruned_heads": (None, {}),
    "is_encoder_decoder": (False,),
    "is_causal": (None, True),
    "alibi": (None, False),
    "clip_qkv": (None,),
    "attention_multiplier": (None,),
    "attention_chunk_size": (None,),
    "attn_temperature_tuning": (None, False),
    "embedding_multiplier": (None, 1),
    "residual_multiplier": (None, 1),
    "logits_scaling": (None, 1),
    "logit_scale": (None, 1),
    "scale_emb": (None, 1),
    "scale_depth": (None, 1),
    "no_rope_layers": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "n_routed_experts": (None, 0),
    "kv_lora_rank": (None,),
    "use_qk_norm": (None, False),
    "qk_layernorm": (None, False),
}
_UNCAPPED_LEGAL = {**LEGAL, "attn_logit_softcapping": (None, 0), "final_logit_softcapping": (None, 0),
    "use_bidirectional_attention": (False, None)}  # fmt: skip
_ROPE_LEGAL = {**_UNCAPPED_LEGAL, "partial_rotary_factor": (None, 1)}
_BIAS_LEGAL = {"attention_bias": (False, None), "mlp_bias": (False, None)}
# Families with as many key heads as heads, of width / heads.
_ALL_HEADS = {"head_dim": (None,), "num_key_value_heads": (None,)}
_NO_MLP_BIAS = {"mlp_bias": (False, None)}
_GEMMA_LEGAL = {**LEGAL, **_NO_MLP_BIAS, "partial_rotary_factor": (None, 1),
    "use_bidirectional_attention": (False, None)}  # fmt: skip

_EXPERTS_LEGAL = {key: values for key, values in {**_ROPE_LEGAL, **_NO_MLP_BIAS}.items()
    if key not in ("num_experts", "num_local_experts")}  # fmt: skip
# Each layer has experts.
_SPARSE_LEGAL = {**_EXPERTS_LEGAL, "decoder_sparse_step": (1,), "mlp_only_layers": (None, [])}

# Experts in MXFP4 are read (models/mxfp4.py); the numbers are models/activations.py's.
_GPT_OSS_LEGAL = {**{key: values for key, values in _EXPERTS_LEGAL.items() if key != "quantization_config"},
    "swiglu_limit": (7.0,), "swiglu_alpha": (1.702,)}  # fmt: skip

_SILU = {"silu": "swiglu", "swish": "swiglu"}
_GEGLU = {"gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_GELU = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu": "gelu_erf"}
_CAPS = {"query_pre_attn_scalar": "query_scale", "attn_logit_softcapping": "attn_softcap",
    "final_logit_softcapping": "logit_softcap"}  # fmt: skip
_EXPERT_FIELDS = {"num_experts": "experts", "num_experts_per_tok": "experts_per_token",
    "router_aux_loss_coef": "balance_weight"}  # fmt: skip
_GEMMA_NAMES = {"hidden_act": "hidden_activation"}
_GPT2_NAMES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions", "rms_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function"}  # fmt: skip


def _never(config: Config, layer: int) -> bool:
    return False


def _always(config: Config, layer: int) -> bool:
    return config["sliding_window"] is not None


def _used(config: Config, layer: int) -> bool:
    return bool(config["use_sliding_window"]) and config["sliding_window"] is not None


def _upper(config: Config, layer: int) -> bool:
    return _used(config, layer) and layer >= config["max_window_layers"]


def _but_every_nth(config: Config, layer: int, every: int = 0) -> bool:
    return bool((layer + 1) % (every or config["sliding_window_pattern"]))


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        {**_LAYERNORM, "positions": "learned", "parallel": False, "qkv_bias": True, "out_bias": True},
        {**_SIZES, "vocab_size": 50257, "max_position_embeddings": 1024, "hidden_size": 768, "num_hidden_layers": 12,
            "num_attention_heads": 12, "intermediate_size": None, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
            "hidden_act": "gelu_new"},
        {**_UNCAPPED_LEGAL, **_ALL_HEADS, "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,)},
        _never, _GELU, spelled=_GPT2_NAMES, layout="gpt2", prefix="transformer.",
    ),
    "llama": Family(
        "LlamaForCausalLM",
        {**_LLAMA, "qk_norm": False, "window": 0},
        {**_SIZES, "max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
        _ROPE_LEGAL, _never, _SILU,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        {**_LLAMA, **_NO_BIAS, "qk_norm": False, "global_every": 0, "global_layers": ()},
        _MISTRAL_SIZES, {**_ROPE_LEGAL, **_BIAS_LEGAL}, _always, _SILU,
    ),
    "ministral": Family(
        "MinistralForCausalLM", {**_LLAMA, **_NO_BIAS, "qk_norm": False},
        _MISTRAL_SIZES, {**_ROPE_LEGAL, **_BIAS_LEGAL}, _always, _SILU,
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM", {**_LLAMA, **_NO_BIAS, "qk_norm": False, "qkv_bias": True}, _QWEN_SIZES,
        {**_ROPE_LEGAL, **_NO_MLP_BIAS}, _upper, _SILU,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", {**_LLAMA, "qk_norm": True, "mlp_bias": False},
        {**_QWEN_SIZES, "head_dim": 128, "attention_bias": False},
        {**_ROPE_LEGAL, **_NO_MLP_BIAS}, _upper, _SILU,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        {**_GEMMA, "qk_norm": False, "rope_theta_local": 0.0},
        {**_GEMMA_SIZES, "max_position_embeddings": 8192,
            "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
        _GEMMA_LEGAL, partial(_but_every_nth, every=2), _GEGLU, _CAPS, _GEMMA_NAMES,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", {**_GEMMA, "qk_norm": True, "attn_softcap": 0.0}, _GEMMA3_SIZES,
        {**_GEMMA_LEGAL, "attn_logit_softcapping": (None, 0)}, _but_every_nth, _GEGLU, _CAPS, _GEMMA_NAMES,
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM", {**_UNCAPPED, **_ROPE, **_OLMO, "rope_theta_local": 0.0, "window": 0}, _OLMO_SIZES,
        {**_ROPE_LEGAL, **_NO_MLP_BIAS}, _never, _SILU,
    ),
    "olmo3": Family(
        "Olmo3ForCausalLM", {**_UNCAPPED, **_ROPE, **_OLMO},
        {**_OLMO_SIZES, "rope_theta": 5e5, "rope_local_base_freq": 5e5, "sliding_window": 4096},
        {**_ROPE_LEGAL, **_NO_MLP_BIAS, "rope_local_base_freq": (None, 5e5)},
        partial(_but_every_nth, every=4), _SILU,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        {**_PHI, **_NO_BIAS, "qk_norm": False, "global_every": 0, "global_layers": ()},
        {**_SIZES, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
            "vocab_size": 32064},
        {**_UNCAPPED_LEGAL, **_BIAS_LEGAL}, _always, _SILU, layout="phi3",
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        {**_EXPERTS, **_NO_BIAS, "qk_norm": False, "expert_ff": 0, "norm_topk": True, "global_every": 0,
            "global_layers": ()},
        _MIXTRAL_SIZES, {**_EXPERTS_LEGAL, **_BIAS_LEGAL}, _always, _SILU, _EXPERT_FIELDS,
        {"num_experts": "num_local_experts"}, layout="mixtral",
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM", {**_EXPERTS, "qk_norm": True, "global_every": 0, "global_layers": ()},
        _QWEN_MOE_SIZES, _SPARSE_LEGAL, _used, _SILU,
        {**_EXPERT_FIELDS, "norm_topk_prob": "norm_topk", "moe_intermediate_size": "expert_ff"}, layout="experts",
    ),
    "olmoe": Family(
        "OlmoeForCausalLM", {**_EXPERTS, "qk_norm": True, "qk_norm_joint": True, "expert_ff": 0, "window": 0},
        _OLMOE_SIZES, _EXPERTS_LEGAL, _never, _SILU, {**_EXPERT_FIELDS, "norm_topk_prob": "norm_topk"},
        layout="experts",
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM",
        {**_EXPERTS, "mlp_bias": True, "router_bias": True, "attn_sinks": True, "qk_norm": False, "expert_ff": 0,
            "norm_topk": True},
        _GPT_OSS_SIZES, _GPT_OSS_LEGAL, partial(_but_every_nth, every=2), {"silu": "clamped_swiglu"},
        {key: field for key, field in _EXPERT_FIELDS.items() if key != "router_aux_loss_coef"},
        {"num_experts": "num_local_experts"}, layout="gpt_oss",
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        {**_LAYERNORM, "positions": "rope", "rope_theta_local": 0.0},
        {**_SIZES, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "partial_rotary_factor": 0.25,
            "attention_bias": True, "hidden_act": "gelu", "use_parallel_residual": True},
        {**_UNCAPPED_LEGAL, **_ALL_HEADS},
        _never, _GELU, {"use_parallel_residual": "parallel"},
        {"rms_norm_eps": "layer_norm_eps", "rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
        layout="gpt_neox", prefix="gpt_neox.", head="embed_out.weight",
    ),
}  # fmt: skip


def nearest(arch: Arch) -> str:
    """The model_type that an Arch was read from, or the one nearest to it. Raises ConfigError for an unknown one."""
    if arch.family:
        if arch.family not in FAMILIES:
            raise ConfigError(f"--model: family={arch.family} is none of {', '.join(FAMILIES)}")
        return arch.family
    if arch.attn_sinks:
        return "gpt_oss"
    if arch.experts:
        return ("olmoe" if arch.qk_norm_joint else "qwen3_moe") if arch.qk_norm else "mixtral"
    if arch.positions == "learned":
        return "gpt2"
    if arch.norm == "layer" and arch.mlp_bias:
        return "gpt_neox"
    if not arch.pre_norms:
        return "olmo3" if any(arch.windows()) else "olmo2"
    if arch.post_norms:
        return "gemma3_text" if arch.qk_norm else "gemma2"
    if arch.qk_norm:
        return "qwen3"
    if arch.rope_width not in (0, arch.C):
        return "phi3"
    if arch.qkv_bias and not arch.out_bias:
        return "qwen2"
    return "mistral" if arch.window else "llama"
