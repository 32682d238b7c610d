"""The named architectures: for each name the fields of its zoo.Arch. Plain data."""

from typing import Any


def _sizes(layers: int, width: int, heads: int, ff: int, **fields: Any) -> dict[str, Any]:
    return {"layers": layers, "width": width, "heads": heads, "ff": ff, **fields}


def _moe(experts: int, per_token: int, width: int, **fields: Any) -> dict[str, Any]:
    return {"experts": experts, "experts_per_token": per_token, "expert_ff": width, **fields}


_biased = {"norm": "layer", "qkv_bias": True, "out_bias": True, "mlp_bias": True}
_gpt2 = {**_biased, "positions": "learned", "max_len": 1024, "mlp": "gelu", "vocab": 50257}
_llama3_rope = (8.0, 1.0, 4.0, 8192)
_gemma = {"norm_offset": 1.0, "norm_eps": 1e-6, "embed_scale": True, "mlp": "geglu", "post_norms": True}
_pythia = {**_biased, "parallel": True, "max_len": 2048, "mlp": "gelu_erf", "vocab": 50304, "tied": False}
_qwen = {"norm_eps": 1e-6, "rope_theta": 1e6}
_gpt_oss = {"width": 2880, "heads": 64, "ff": 2880, "kv_heads": 8, "head_width": 64, "vocab": 201088, "max_len": 131072,
    "rope_theta": 15e4, "rope_scaling": (32.0, 32.0, 1.0, 4096.0, 1.3465735902799727, 0.0), "window": 128,
    "global_every": 2, "attn_sinks": True, "qkv_bias": True, "out_bias": True, "mlp_bias": True,
    "mlp": "clamped_swiglu", "tied": False, "experts_per_token": 4, "router_bias": True}  # fmt: skip

NAMED_SIZES: dict[str, dict[str, Any]] = {
    # Ours, with the vocabulary of whatever tokenizer they are trained with.
    "tinytown-200k": _sizes(2, 80, 4, 208),
    "tinytown-1m": _sizes(4, 128, 4, 384),
    "tinytown-moe": _sizes(
        4, 128, 4, 384, **_moe(8, 2, 128, balance_weight=0.01, router_z_weight=0.001)
    ),
    "nano": _sizes(6, 256, 8, 704),
    "nano-gpt2": _sizes(6, 256, 8, 1024, **{**_gpt2, "vocab": 0}),
    # The sizes that experiments/bench.py measures beside other projects.
    "bench-s": _sizes(4, 256, 8, 1024, vocab=512),
    "bench-s-gpt2": _sizes(4, 256, 8, 1024, **{**_gpt2, "max_len": 256, "vocab": 512}),
    "bench-m": _sizes(12, 768, 12, 3072, **{**_gpt2, "max_len": 512}),
    # Shapes of the released checkpoints.
    "gpt2": _sizes(12, 768, 12, 3072, **_gpt2),
    "gpt2-medium": _sizes(24, 1024, 16, 4096, **_gpt2),
    "gpt2-large": _sizes(36, 1280, 20, 5120, **_gpt2),
    "gpt2-xl": _sizes(48, 1600, 25, 6400, **_gpt2),
    "llama2-7b": _sizes(32, 4096, 32, 11008, vocab=32000, max_len=4096, tied=False),
    "llama2-13b": _sizes(40, 5120, 40, 13824, vocab=32000, max_len=4096, tied=False),
    "llama3-8b": _sizes(
        32, 4096, 32, 14336, kv_heads=8, vocab=128256, max_len=8192, rope_theta=5e5, tied=False
    ),
    "llama3.1-8b": _sizes(
        32, 4096, 32, 14336, kv_heads=8, vocab=128256, max_len=131072, rope_theta=5e5, tied=False,
        rope_scaling=_llama3_rope,
    ),
    "llama3.2-1b": _sizes(
        16, 2048, 32, 8192, kv_heads=8, vocab=128256, max_len=131072, rope_theta=5e5,
        rope_scaling=(32.0, 1.0, 4.0, 8192),
    ),
    "mistral-7b": _sizes(
        32, 4096, 32, 14336, kv_heads=8, vocab=32000, max_len=32768, window=4096, tied=False
    ),
    "qwen2-0.5b": _sizes(
        24, 896, 14, 4864, kv_heads=2, vocab=151936, max_len=32768, qkv_bias=True, **_qwen
    ),
    "qwen2.5-7b": _sizes(
        28, 3584, 28, 18944, kv_heads=4, vocab=152064, max_len=32768, qkv_bias=True, tied=False, **_qwen
    ),
    "qwen3-0.6b": _sizes(
        28, 1024, 16, 3072, kv_heads=8, head_width=128, vocab=151936, max_len=40960, qk_norm=True, **_qwen
    ),
    "qwen3-8b": _sizes(
        36, 4096, 32, 12288, kv_heads=8, head_width=128, vocab=151936, max_len=40960, qk_norm=True, tied=False,
        **_qwen,
    ),
    "gemma2-2b": _sizes(
        26, 2304, 8, 9216, kv_heads=4, head_width=256, vocab=256000, max_len=8192, window=4096, global_every=2,
        query_scale=256, attn_softcap=50.0, logit_softcap=30.0, **_gemma,
    ),
    "gemma3-1b": _sizes(
        26, 1152, 4, 6912, kv_heads=1, head_width=256, vocab=262144, max_len=32768, window=512, global_every=6,
        query_scale=256, rope_theta=1e6, rope_theta_local=1e4, qk_norm=True, **_gemma,
    ),
    "gemma3-4b": _sizes(
        34, 2560, 8, 10240, kv_heads=4, head_width=256, vocab=262208, max_len=131072, window=1024, global_every=6,
        query_scale=256, rope_theta=1e6, rope_theta_local=1e4, rope_scaling=(8.0,), qk_norm=True, **_gemma,
    ),
    "pythia-160m": _sizes(12, 768, 12, 3072, rope_width=16, **_pythia),
    "pythia-1.4b": _sizes(24, 2048, 16, 8192, rope_width=32, **_pythia),
    "olmo2-7b": _sizes(
        32, 4096, 32, 11008, vocab=100352, max_len=4096, rope_theta=5e5, norm_eps=1e-6, pre_norms=False,
        post_norms=True, qk_norm=True, qk_norm_joint=True, tied=False,
    ),
    "mixtral-8x7b": _sizes(
        32, 4096, 32, 14336, kv_heads=8, vocab=32000, max_len=32768, rope_theta=1e6, tied=False,
        experts=8, experts_per_token=2, balance_weight=0.02,
    ),
    "mixtral-8x22b": _sizes(
        56, 6144, 48, 16384, kv_heads=8, vocab=32000, max_len=65536, rope_theta=1e6, tied=False,
        experts=8, experts_per_token=2, balance_weight=0.001,
    ),
    "qwen3-30b-a3b": _sizes(
        48, 2048, 32, 6144, kv_heads=4, head_width=128, vocab=151936, max_len=40960, qk_norm=True, tied=False,
        **_qwen, **_moe(128, 8, 768, balance_weight=0.001),
    ),
    "qwen3-235b-a22b": _sizes(
        94, 4096, 64, 12288, kv_heads=4, head_width=128, vocab=151936, max_len=40960, qk_norm=True, tied=False,
        **_qwen, **_moe(128, 8, 1536, balance_weight=0.001),
    ),
    "olmoe-1b-7b": _sizes(
        16, 2048, 16, 1024, vocab=50304, max_len=4096, qk_norm=True, qk_norm_joint=True, tied=False,
        experts=64, experts_per_token=8, norm_topk=False, balance_weight=0.01, router_z_weight=0.001,
    ),
    "gpt-oss-20b": _sizes(layers=24, experts=32, **_gpt_oss),
    "gpt-oss-120b": _sizes(layers=36, experts=128, **_gpt_oss),
    "phi3-mini-4k": _sizes(32, 3072, 32, 8192, vocab=32064, max_len=4096, window=2047, tied=False, family="phi3"),
}  # fmt: skip
