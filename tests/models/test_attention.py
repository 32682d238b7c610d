import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.models import attention
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
def test_blocked_and_splash_equal_the_plain_square(kv_heads, causal, window, softcap, splash):
    """Values and gradients; splash, the TPU's kernel, is interpreted here."""
    q, k, v, segments = inputs(kv_heads)

    def scalar(kernel, q, k, v):
        out = kernel(q, k, v, segments, causal=causal, window=window, softcap=softcap)
        return (out * jnp.sin(jnp.arange(64.0))).sum(), out

    def grad(kernel):
        return jax.jit(jax.grad(functools.partial(scalar, kernel), argnums=(0, 1, 2), has_aux=True))

    wanted = grad(attention.xla)(q, k, v)
    for kernel in (
        attention.blocked,
        *([functools.partial(attention.splash, interpret=True)] if splash else []),
    ):
        for a, b in zip(*map(jax.tree.leaves, (wanted, grad(kernel)(q, k, v))), strict=True):
            np.testing.assert_allclose(b, a, atol=2e-5)


def test_the_best_kernel_of_each_platform_is_chosen_and_a_fallback_says_why():
    llama, gemma = tiny.shrink("llama3.1-8b", head_width=64), tiny.shrink("gemma2-2b", head_width=64)
    choose = functools.partial(attention.choose, "auto")
    assert choose(llama, jnp.float32, 100, "cpu") == ("blocked", "")
    assert choose(llama, jnp.bfloat16, 100, "gpu") == ("cudnn", "")
    assert choose(llama, jnp.bfloat16, 1024, "tpu") == ("splash", "")
    for arch, dtype, length, platform, word in [
        (llama, jnp.float32, 100, "gpu", "bfloat16"),
        (gemma, jnp.bfloat16, 100, "gpu", "soft cap"),
        (llama, jnp.bfloat16, 100, "tpu", "T=100"),
    ]:
        name, reason = choose(arch, dtype, length, platform)
        assert name == "xla" and word in reason
    assert attention.choose("xla", llama, jnp.float32, 100, "cpu") == ("xla", "")


def test_a_fallback_is_said_once(caplog):
    attention._say_once.cache_clear()
    for _ in range(3):
        attention._say_once("attention: for this test")
    assert sum("for this test" in record.message for record in caplog.records) == 1


def test_cudnn_refuses_what_it_cannot_do():
    q, k, v, segments = inputs(4, 8, 8)
    with pytest.raises(ConfigError, match="--attention=auto"):
        attention.cudnn(q, k, v, segments, causal=True, window=0, softcap=1.0)
