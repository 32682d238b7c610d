"""Small models and batches that the tests share."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.models import transformer
from jaxtrain.models.attention import AttentionExecution
from jaxtrain.models.zoo import ZOO, Arch

# One of each family, with everything that makes it different kept and the sizes made small.
FAMILIES = (
    "gpt2", "llama2-7b", "llama3.1-8b", "mistral-7b", "qwen2-0.5b", "qwen3-0.6b", "gemma2-2b", "gemma3-1b", "gemma3-4b",
    "pythia-160m", "olmo2-7b", "phi4-mini", "qwen2-upper",
    "mixtral-8x7b", "qwen3-30b-a3b", "olmoe-1b-7b", "experts-biased", "gpt-oss-20b",
)  # fmt: skip
EXPORTED = tuple(name for name in FAMILIES if name != "experts-biased")  # those that transformers has
# Of these, every kind of norm, position, attention and feed-forward at least once (tests/models/test_transformer.py has
# the proof). The others combine the same parts anew.
COVERING = (
    "gpt2", "llama3.1-8b", "gemma2-2b", "gemma3-4b", "pythia-160m", "olmo2-7b", "phi4-mini", "qwen2-upper",
    "olmoe-1b-7b", "experts-biased", "gpt-oss-20b",
)  # fmt: skip
# What no name of the zoo has: (the nearest name, the fields that differ at the small size).
_VARIANTS = {
    "phi4-mini": ("phi3-mini-4k", {
        "kv_heads": 2, "rope_width": 6, "rope_scaling": (10, 1.2), "window": 0, "tied": True,
        "rope_factors": (1.0, 1.1, 1.5, 1.0, 2.5, 6.0),
    }),
    "experts-biased": ("tinytown-moe", {
        "mlp_bias": True, "router_bias": True, "mlp": "gelu", "shared_experts": 1,
    }),
    "qwen2-upper": ("qwen2-0.5b", {
        "rope_scaling": (4.0, 4.0, 1.0, 8, 1.1, True), "window": 5, "global_layers": (0,),
    }),
}  # fmt: skip


def covering():
    """The FAMILIES as parameters of a test: those beside COVERING are slow."""
    return [name if name in COVERING else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def shrink(name: str, **changes) -> Arch:
    """One of FAMILIES, or another architecture of the zoo, at a size that a test can afford."""
    name, own = _VARIANTS.get(name, (name, {}))
    arch = ZOO[name]
    small = {
        "layers": 3,
        "width": 32,
        "heads": 4,
        "kv_heads": 2 if arch.kv_heads else 0,
        "head_width": 12 if arch.head_width else 0,
        "rope_width": 4 if arch.rope_width else 0,
        "ff": 48,
        "vocab": 64,
        "max_len": 160 if arch.max_len else 0,
        "window": 5 if arch.window else 0,
        "global_every": 2 if arch.global_every else 0,
        "query_scale": 12 if arch.query_scale else 0,
        "attn_softcap": 2.0 if arch.attn_softcap else 0.0,
        "logit_softcap": 3.0 if arch.logit_softcap else 0.0,
        "init_std": 0.3,
        **(
            {"experts": 6, "experts_per_token": 2, "expert_ff": 24 if arch.expert_ff else 0}
            if arch.experts
            else {}
        ),
    }
    if len(arch.rope_scaling) == 4:
        small["rope_scaling"] = (4.0, 1.0, 4.0, 16)
    if len(arch.rope_scaling) == 6:
        small["rope_scaling"] = (4.0, 4.0, 1.0, 8.0, arch.rope_scaling[4], arch.rope_scaling[5])
    return dataclasses.replace(arch, **{**small, **own, **changes})


def how(attention: str = "blocked", *, scan: bool = False, remat: str = "none", dtype=jnp.float32, **changes):
    """A way to compute a model."""
    made = AttentionExecution(jnp.dtype(dtype), attention, scan, remat, 2**28, "cpu")
    return dataclasses.replace(made, **changes)


def model(arch: Arch, **kwargs):
    """The model and how it is computed, in one call."""
    return transformer.build(arch, how(**kwargs))


def batch(rows: int, length: int, vocab: int, *, seed: int = 0, packed: bool = True) -> dict[str, np.ndarray]:
    """Rows of random tokens: with `packed`, documents of random length, padding at the end, ragged masks."""
    rng = np.random.default_rng(seed)
    segments = np.ones((rows, length), np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    if packed:
        for row in range(rows):
            cuts = np.sort(rng.choice(np.arange(1, length), 3, replace=False))
            segments[row] = 1 + np.searchsorted(cuts, np.arange(length), side="right")
            segments[row, cuts[-1] :] = 0
            starts = np.concatenate([[0], cuts])
            positions[row] = (
                np.arange(length) - starts[np.searchsorted(cuts, np.arange(length), side="right")]
            )
    mask = (segments > 0) & (rng.random((rows, length)) < (0.2 + 0.6 * rng.random((rows, 1))))
    mask[:, 0] = True
    return {
        "tokens": rng.integers(0, vocab, (rows, length)).astype(np.int32),
        "targets": rng.integers(0, vocab, (rows, length)).astype(np.int32),
        "mask": mask.astype(np.float32),
        "segments": segments,
        "positions": positions,
        "row": np.arange(rows, dtype=np.int32),
        "bytes": (3 * mask.sum(1)).astype(np.float32),
    }
