import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.models import attention, transformer
from jaxtrain.ops.logprobs import logits
from jaxtrain.types import Shards
from tests import tiny
from tests.models import reference


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that short rows are several blocks of queries."""
    monkeypatch.setattr(attention, "BLOCK", 10)


families = pytest.mark.parametrize("name", tiny.FAMILIES)
# What compiles long: the others' parts are all in these, and their combination is in the logits of each family here and
# in the completions beside transformers' own (test_hf_transformers.py).
covering = pytest.mark.parametrize("name", tiny.covering())


@functools.cache
def arch_of(name):
    return tiny.shrink(name)


def parts(arch):
    """(field, what it chooses): a string itself, a table by its length, of a number whether there is one."""
    values = ((field.name, getattr(arch, field.name)) for field in dataclasses.fields(arch))
    return {
        (name, value if isinstance(value, str) else len(value) if isinstance(value, tuple) else bool(value))
        for name, value in values
    }


def test_the_covering_families_have_every_part():
    missing = set().union(*(parts(arch_of(name)) for name in tiny.FAMILIES)) - set().union(
        *(parts(arch_of(name)) for name in tiny.COVERING)
    )
    assert not missing


def run(model, params, batch):
    return logits(model.hidden(params, batch), model.head(params))


@families
def test_logits_equal_the_formulas_in_float64(name):
    arch = arch_of(name)
    model = tiny.model(arch)
    params = jax.tree.map(  # biases and scales away from 0 and 1, so that none can be left out
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), model.init(jax.random.key(0))
    )
    batch = tiny.batch(2, 24, arch.vocab)
    found = jax.jit(functools.partial(run, model))(params, batch)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for row in range(2):
        columns = (batch[c][row] for c in ("tokens", "positions", "segments"))
        wanted = reference.logits(arch, exact, *columns)
        np.testing.assert_allclose(found[row], wanted, atol=2e-4 * np.abs(wanted).max())


@covering
def test_decoding_with_a_cache_equals_the_full_forward(name):
    """Prompts of different length, padded on the right, then token by token. Prefill has the kernel of training."""
    arch = arch_of(name)
    model = tiny.model(arch)
    params = model.init(jax.random.key(0))
    lengths, total = np.array([9, 4, 7]), 20
    tokens = np.random.default_rng(0).integers(0, arch.vocab, (3, total)).astype(np.int32)
    positions = np.tile(np.arange(total, dtype=np.int32), (3, 1))
    batch = {"tokens": tokens, "positions": positions, "segments": np.ones_like(tokens)}
    full = jax.jit(functools.partial(run, model))(params, batch)

    step = jax.jit(lambda *args: model.decode(params, *args))
    prompt = np.where(np.arange(9) < lengths[:, None], tokens[:, :9], 13)
    hidden, cache = step(prompt, None, model.cache(3, total))
    by_cache = step(prompt, positions[:, :9], model.cache(3, total))
    for a, b in zip(*map(jax.tree.leaves, ((hidden, cache), by_cache)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for t in range(total - 9):
        place = lengths + t
        last = hidden[np.arange(3), lengths - 1] if t == 0 else hidden[:, 0]
        found = logits(last, model.head(params))
        np.testing.assert_allclose(found, full[np.arange(3), place - 1], atol=1e-4)
        hidden, cache = step(tokens[np.arange(3), place][:, None], place[:, None], cache)


@pytest.mark.parametrize("name", ["gpt2", "llama3.1-8b", "gemma3-4b", "qwen2-upper"])
def test_scanned_layers_remat_and_xla_attention_change_nothing(name):
    arch, batch = arch_of(name), tiny.batch(2, 24, 64)

    def loss(model, params):
        return (run(model, params, batch) * jnp.cos(jnp.arange(64.0))).sum() / 1e3

    plain, other = tiny.model(arch), tiny.model(arch, attention="xla", scan=True, remat="full")
    params = plain.init(jax.random.key(0))
    wanted = jax.jit(jax.value_and_grad(functools.partial(loss, plain)))(params)
    found = jax.jit(jax.value_and_grad(functools.partial(loss, other)))(params)
    for a, b in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-4 * (1 + np.abs(a).max()))


@covering
def test_no_gradient_reaches_back_in_time_or_across_documents(name):
    """The output at t depends on the embeddings of its own document up to t and on exactly nothing else."""
    arch, length = arch_of(name), 9
    # Untied, one token a position, so that the gradient of embedding row t is that of position t.
    arch = dataclasses.replace(arch, vocab=length, tied=False)
    model = tiny.model(arch)
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2]], np.int32)
    positions = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]], np.int32)
    batch = {"tokens": np.arange(length, dtype=np.int32)[None], "positions": positions, "segments": segments}
    params = model.init(jax.random.key(0))

    def out(embed):
        return model.hidden({**params, "embed": embed}, batch)[0]

    gradient = np.abs(jax.jit(jax.jacrev(out))(params["embed"])).sum((1, 3))  # [t, s]
    t, s = np.mgrid[:length, :length]
    sees = (s <= t) & (segments[0][t] == segments[0][s])
    assert np.all(gradient[~sees] == 0.0)
    if not arch.window:
        assert np.all(gradient[sees] > 0.0)


def test_flops_of_a_token():
    arch = tiny.shrink("llama2-7b", layers=2, width=8, heads=2, ff=16, vocab=10, head_width=0, max_len=0)
    products = 2 * (4 * 8 * 8 + 3 * 8 * 16) + 8 * 10
    # Two layers, 2 heads of 4, 5 keys seen on average by 9 positions, 2 products of 2 FLOPs, 3 passes.
    assert transformer.flops_per_token(arch, 9) == 6 * products + 2 * 12 * 8 * 5
    windowed = dataclasses.replace(arch, window=3)
    assert transformer.flops_per_token(windowed, 9) == 6 * products + 2 * 12 * 8 * (1 + 2 + 7 * 3) / 9


def test_dropout_of_a_row_depends_on_the_row_alone():
    model = tiny.model(tiny.shrink("gpt2", dropout=0.5))
    params, batch = model.init(jax.random.key(0)), tiny.batch(4, 8, 64, packed=False)
    hidden = jax.jit(model.hidden)
    whole = hidden(params, batch, jax.random.key(1))
    last = hidden(params, {k: v[3:] for k, v in batch.items()}, jax.random.key(1))
    np.testing.assert_allclose(whole[3:], last, atol=1e-5)
    assert not np.allclose(whole, hidden(params, batch, jax.random.key(2)))
    assert not np.allclose(whole, hidden(params, batch))


def test_bfloat16_computes_near_float32():
    arch = tiny.shrink("llama3.1-8b", init_std=0.1)
    batch = tiny.batch(2, 24, 64)
    params = tiny.model(arch).init(jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    half = tiny.model(arch, dtype=jnp.bfloat16)
    exact, rough = (
        jax.jit(functools.partial(run, model))(params, batch) for model in (tiny.model(arch), half)
    )
    assert jax.eval_shape(half.hidden, params, batch).dtype == jnp.bfloat16
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize(("platform", "remat"), [("cpu", "none"), ("gpu", "dots"), ("tpu", "dots")])
def test_what_is_recomputed_by_default_depends_on_the_platform(platform, remat):
    assert transformer.execution(config.Model(), platform).remat == remat
    assert transformer.execution(config.Model(remat="full"), platform).remat == "full"


def test_logits_on_a_mesh_are_bounded_by_the_device_and_its_part_of_the_vocabulary():
    arch = dataclasses.replace(tiny.shrink("llama2-7b"), vocab=64)
    params = tiny.model(arch).init(jax.random.key(0))

    def head(tensor):
        how = transformer.execution(config.Model(logits_limit_mb=1), "cpu", Shards(None, 2, 4, tensor))
        return transformer.build(arch, how).head(params)

    assert head(1).parts == (4, 2) and head(1).limit == 2**18
    assert head(2).limit == 2 * 2**18 and head(3).limit == 2**18  # 64 does not divide by 3
