"""The KV cache in int8: its error, decode of every kind of attention on it, and completions under every plan."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.models import kv_cache, transformer
from jaxtrain.stages import sampling, weights
from jaxtrain.train import parallel
from tests import tiny


def test_codes_are_the_nearest_ones_in_float64_and_zeros_stay():
    new = np.random.default_rng(0).normal(size=(2, 3, 4, 16)).astype(np.float32)
    new[0, 0, 0] = 0
    empty = {"int8": jnp.zeros((1,), jnp.int8), "scale": jnp.zeros((1,))}
    held = kv_cache.parts_to_write(empty, jnp.asarray(new))
    assert held["int8"].dtype == jnp.int8 and held["scale"].shape == (2, 3, 4, 1)
    scale = np.abs(new.astype(np.float64)).max(-1, keepdims=True) / 127
    np.testing.assert_allclose(held["scale"], scale, rtol=1e-6)
    values = np.asarray(held["int8"], np.float64) * np.asarray(held["scale"], np.float64)
    assert (np.abs(values - new) <= 0.5001 * scale).all() and not values[0, 0, 0].any()
    assert np.abs(held["int8"]).max() == 127


def decoded(arch, tokens, **how):
    """Hidden states of tokens i32[B, T]: of 5 by prefill, then one after the other."""
    model = tiny.model(arch, **how)
    params = model.init(jax.random.key(0))
    B, T = tokens.shape
    step = jax.jit(lambda *args: model.decode(model.ready(params), *args))
    hidden, cache = step(tokens[:, :5], None, model.cache(B, T))
    out = [hidden]
    for t in range(5, T):
        hidden, cache = step(tokens[:, t : t + 1], jnp.full((B, 1), t), cache)
        out.append(hidden)
    return np.concatenate(out, 1), cache


# Windows in a scan and without, grouped heads, softcaps, sinks.
@pytest.mark.parametrize("name", ["llama3.1-8b", "gemma2-2b", "gpt-oss-20b"])
@pytest.mark.parametrize("scan", [False, True])
def test_decode_on_int8_is_decode_within_its_rounding(name, scan):
    arch = tiny.shrink(name, layers=2)
    tokens = np.random.default_rng(1).integers(0, arch.vocab, (2, 12)).astype(np.int32)
    wanted, exact = decoded(arch, tokens, scan=scan)
    found, cache = decoded(arch, tokens, scan=scan, kv_cache="int8")
    assert np.array_equal(found[:, :5], wanted[:, :5])  # prefill attends to keys and values as they are
    error = np.linalg.norm(found[:, 5:] - wanted[:, 5:]) / np.linalg.norm(wanted[:, 5:])
    assert 0 < error < 0.03
    size, full = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (cache, exact))
    assert size == full * (arch.C + 4) / (4 * arch.C)
    assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {jnp.dtype("int8"), jnp.dtype("float32")}


def test_bfloat16_loses_no_more_by_the_codes_than_float32():
    """Codes are exact in it, and scales are applied to sums in f32."""
    arch = tiny.shrink("llama3.1-8b", layers=2)
    tokens = np.random.default_rng(1).integers(0, arch.vocab, (2, 12)).astype(np.int32)
    exact = decoded(arch, tokens)[0]
    plain, int8 = (
        np.linalg.norm(decoded(arch, tokens, dtype=jnp.bfloat16, **how)[0].astype(np.float32) - exact)
        for how in ({}, {"kv_cache": "int8"})
    )
    assert int8 < 1.5 * plain + 0.01 * np.linalg.norm(exact)


@functools.cache
def completions(kind, mesh, cache):
    arch = tiny.shrink("llama3.1-8b", layers=2, vocab=32)
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh), jax.devices()[: 1 if kind == "pmap" else 4])
    model = transformer.build(arch, tiny.how(local=plan.local, kv_cache=cache))
    run = types.SimpleNamespace(
        plan=plan, arch=arch, model=model, trained=weights.trained_part(model.axes, config.Lora())
    )
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)
    prompts = [[1, 5, 9, 2], [3], [4, 4, 6, 1, 2, 3, 9, 30, 11], [8, 2]]
    sample = sampling.token_sampler(run, (7,), max_new=10)
    return sample(params, (), prompts, 0)


def test_completions_are_the_same_under_a_mesh_and_log_probabilities_are_of_what_was_sampled():
    one, other = completions("pmap", "", "int8"), completions("mesh", "fsdp:2,tensor:2", "int8")
    assert [each.ids for each in one] == [each.ids for each in other]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-3)
    plain = completions("pmap", "", "auto")
    assert any(not np.array_equal(a.logps, b.logps) for a, b in zip(one, plain, strict=True))


def test_the_flag_reaches_training_and_inference():
    from jaxtrain.inference.config import MachineFlags

    for settings in (config.Model(kv_cache="int8"), MachineFlags(kv_cache="int8").model()):
        assert transformer.execution(settings, "cpu").kv_cache == "int8"
    assert transformer.execution(config.Model(), "cpu").kv_cache == "auto"
