"""Layers scanned and unrolled: one result, and a KV cache that decode writes in place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.models import transformer
from tests import tiny

SLOTS = 64


def _decoded(model, params, tokens, lengths):
    """Hidden states of a prefill and of two tokens more, at other places in each row."""
    ready, kv_cache = model.ready(params), model.cache(len(tokens), SLOTS)
    first, kv_cache = model.decode(ready, tokens[:, :-2], None, kv_cache, SLOTS)
    places = lengths[:, None] + jnp.arange(2)
    return first, *model.decode(ready, tokens[:, -2:], places, kv_cache)


@pytest.mark.parametrize("name", ["gpt2", "gemma3-4b"])
def test_a_cache_of_all_layers_gives_what_one_for_each_layer_does(name):
    """Gemma 3 has layers with a window and layers without."""
    arch = tiny.shrink(name)
    rng = np.random.default_rng(0)
    tokens, lengths = jnp.asarray(rng.integers(0, arch.vocab, (3, 9))), jnp.array([7, 2, 5])
    scanned, unrolled = (tiny.model(arch, scan=scan) for scan in (True, False))
    params = scanned.init(jax.random.key(0))
    *hidden, kv_cache = _decoded(scanned, params, tokens, lengths)
    *expected, caches = _decoded(unrolled, params, tokens, lengths)
    for one, other in zip(hidden, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    for i, layer in enumerate(caches):
        for one, other in zip(kv_cache, layer, strict=True):
            np.testing.assert_allclose(one[i], other, atol=2e-5)


@pytest.mark.parametrize("scan", [True, False])
def test_decode_holds_no_second_cache(scan):
    """Parts of a cache that a scan takes and gives were copied at each token, all of it."""
    arch = tiny.shrink("llama3.1-8b", layers=4)
    model = tiny.model(arch, scan=scan)
    params = model.ready(model.init(jax.random.key(0)))
    kv_cache = model.cache(64, 256)

    @functools.partial(jax.jit, donate_argnums=1)
    def decode(params, kv_cache, token, place):
        def step(_, carry):
            kv_cache, place = carry
            _, kv_cache = model.decode(params, token, place, kv_cache)
            return kv_cache, place + 1

        return jax.lax.fori_loop(0, 3, step, (kv_cache, place))

    zeros = jnp.zeros((64, 1), jnp.int32)
    memory = decode.lower(params, kv_cache, zeros, zeros).compile().memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(kv_cache))
    assert memory.temp_size_in_bytes < size / 2


def test_a_gpu_scans_in_training_alone():
    """A flag decides both; `auto` unrolls prefill and decode there."""
    of_gpu, of_tpu = (transformer.execution(config.Model(), platform) for platform in ("gpu", "tpu"))
    assert of_gpu.scan_layers and of_gpu.unroll_decode and not of_tpu.unroll_decode
    assert not transformer.execution(config.Model(scan_layers="true"), "gpu").unroll_decode
    arch = tiny.shrink("gpt2", layers=3)
    model = tiny.model(arch, scan=True, unroll_decode=True)
    assert len(model.cache(2, 4)) == 3
    assert isinstance(
        jax.eval_shape(model.ready, jax.eval_shape(model.init, jax.random.key(0)))["layers"], tuple
    )
