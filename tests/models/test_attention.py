import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.models import attention, flash_attention
from tests import tiny


def inputs(kv_heads, length=256, width=64):
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, length, h, width)) / width**0.25
        for i, h in enumerate((4, kv_heads, kv_heads))
    )
    segments = jnp.asarray(np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], length // 4, axis=1), jnp.int32)
    return q, k, v, segments


# Multi-head, grouped and multi-query, each with and without what the others lack.
@pytest.mark.parametrize(
    ("kv_heads", "causal", "window", "softcap", "splash"),
    [
        (4, True, 0, 0.0, True),
        (2, True, 70, 1.5, True),
        (1, True, 0, 1.5, False),
        (4, False, 0, 0.0, False),
        (2, False, 30, 0.0, False),
    ],
)
def test_kernels_equal_the_plain_square(kv_heads, causal, window, softcap, splash, monkeypatch):
    """Values and gradients; splash, the TPU's kernel, is interpreted here."""
    monkeypatch.setattr(flash_attention, "BLOCK", 100)  # three blocks of 86, which 256 does not fill
    q, k, v, segments = inputs(kv_heads)

    def scalar(kernel, q, k, v):
        out = kernel(q, k, v, segments, causal=causal, window=window, softcap=softcap)
        return (out * jnp.sin(jnp.arange(64.0))).sum(), out

    def grad(kernel):
        return jax.jit(jax.grad(functools.partial(scalar, kernel), argnums=(0, 1, 2), has_aux=True))

    wanted = grad(attention.xla)(q, k, v)
    for kernel in (
        attention.blocked,
        attention.flash,
        *([functools.partial(attention.splash, interpret=True)] if splash else []),
    ):
        for a, b in zip(*map(jax.tree.leaves, (wanted, grad(kernel)(q, k, v))), strict=True):
            np.testing.assert_allclose(b, a, atol=2e-5)


def test_the_best_kernel_of_each_platform_is_chosen_and_a_fallback_says_why():
    llama, gemma = tiny.shrink("llama3.1-8b", head_width=64), tiny.shrink("gemma2-2b", head_width=64)
    wide = tiny.shrink("gemma3-1b", head_width=256)
    choose = functools.partial(attention.choose, "auto")
    for arch, dtype, length, platform, capability, best in [
        (llama, jnp.float32, 100, "cpu", "", "blocked"),
        (llama, jnp.float32, 2047, "cpu", "", "blocked"),
        (llama, jnp.float32, 2048, "cpu", "", "flash"),
        (llama, jnp.bfloat16, 101, "gpu", "", "cudnn"),
        (llama, jnp.bfloat16, 101, "cuda", "8.0", "cudnn"),
        (wide, jnp.bfloat16, 100, "gpu", "9.0", "cudnn"),
        (llama, jnp.bfloat16, 1024, "tpu", "", "splash"),
    ]:
        assert choose(arch, dtype, length, platform, capability) == (best, "")
    for arch, dtype, length, platform, capability, word in [
        (llama, jnp.float32, 100, "gpu", "9.0", "bfloat16"),
        (gemma, jnp.bfloat16, 100, "gpu", "9.0", "soft cap"),
        (wide, jnp.bfloat16, 100, "gpu", "8.0", "C <= 128"),
        (wide, jnp.bfloat16, 100, "gpu", "", "C <= 128"),
        (wide, jnp.bfloat16, 100, "gpu", "10.0", "C <= 128"),
        (llama, jnp.bfloat16, 100, "gpu", "7.5", "8.0"),
        (llama, jnp.bfloat16, 100, "tpu", "", "T=100"),
    ]:
        name, reason = choose(arch, dtype, length, platform, capability)
        assert name == "flash" and word in reason
    bidirectional = dataclasses.replace(llama, causal=False)
    assert "both sides" in choose(bidirectional, jnp.bfloat16, 100, "gpu", "9.0", window=8)[1]
    assert attention.choose("xla", llama, jnp.float32, 100, "cpu") == ("xla", "")


def test_a_kernel_that_was_named_and_cannot_be_is_refused():
    how = tiny.how("cudnn", dtype=jnp.float32, platform="gpu", capability="9.0")
    with pytest.raises(ConfigError, match="--attention=cudnn: cudnn needs bfloat16, not float32; use"):
        attention.kernel_for(how, tiny.shrink("llama3.1-8b"), 0, 128)


def test_a_short_prompt_is_no_reason_for_a_warning(caplog):
    attention._say_once.cache_clear()
    arch, how = (
        tiny.shrink("llama3.1-8b", head_width=64),
        tiny.how("auto", dtype=jnp.bfloat16, platform="tpu"),
    )
    for length in (16, 64):
        attention.kernel_for(how, arch, 0, length)
    assert not caplog.records
    attention.kernel_for(how, arch, 0, 200)
    assert "T=200" in caplog.text


def test_a_fallback_is_said_once(caplog):
    attention._say_once.cache_clear()
    for _ in range(3):
        attention._say_once("attention: for this test")
    assert sum("for this test" in record.message for record in caplog.records) == 1
