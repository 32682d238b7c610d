"""What is traced of the TPU's kernel; tests/models/test_attention.py and test_context_attention.py interpret it."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax._src.interpreters import partial_eval  # dead code of a trace: jax has no public way to drop it

from jaxtrain.models import attention
from jaxtrain.models.splash_attention import splash

PLAIN = {"causal": True, "window": 0, "softcap": 0.0}


def shapes(length, heads=4, kv_heads=2, width=64):
    of_heads = [
        jax.ShapeDtypeStruct((1, length, h, width), jnp.bfloat16) for h in (heads, kv_heads, kv_heads)
    ]
    return *of_heads, jax.ShapeDtypeStruct((1, length), jnp.int32)


def test_saved_by_their_names_the_forward_kernel_does_not_run_twice():
    def kernels(policy):
        def step(q, k, v, segments):
            layer = jax.checkpoint(lambda *a: splash(*a, segments, interpret=False, **PLAIN), policy=policy)
            out, pull = jax.vjp(layer, q, k, v)
            return pull(out)

        traced = jax.make_jaxpr(step)(*shapes(256)).jaxpr
        return str(partial_eval.dce_jaxpr(traced, [True] * 3)[0]).count(" pallas_call[")

    policies = jax.checkpoint_policies
    assert kernels(policies.nothing_saveable) == kernels(policies.save_only_these_names(*attention.SAVED)) + 1


@pytest.mark.parametrize(("length", "block"), [(128, 128), (384, 128), (640, 128), (1024, 512)])
def test_blocks_divide_a_row(length, block):
    """The kernel refuses blocks that do not: its grid has one program for each block of queries."""
    jaxpr = str(jax.make_jaxpr(functools.partial(splash, interpret=False, **PLAIN))(*shapes(length)))
    assert (
        f"f32[{block},{block}]" in jaxpr
        or f"i32[{block},{block}]" in jaxpr
        or f"bool[{block},{block}]" in jaxpr
    )
