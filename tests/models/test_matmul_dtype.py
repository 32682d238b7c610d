"""The decoder with products in int8 and fp8: gradients, decode, what a backward pass keeps, what is refused."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError, Lora
from jaxtrain.inference.config import MachineFlags
from jaxtrain.models import lora, quantized_weights, transformer
from tests import tiny
from tests.objectives.cases import CASES, build
from tests.objectives.test_properties import PLANS, flat, trained

ARCH = tiny.shrink("llama3.1-8b", layers=2, init_std=0.1, width=64, ff=96)
BIASED = tiny.shrink("pythia-160m", layers=2, init_std=0.1)
kinds = pytest.mark.parametrize("kind", ["int8", "fp8"])


@functools.cache
def base(arch=ARCH):
    return jax.jit(tiny.model(arch).init)(jax.random.key(0))


def off(found, wanted):
    """The distance of two trees, as a share of the second one."""
    return float(optax.tree.norm(optax.tree.sub(found, wanted)) / optax.tree.norm(wanted))


@functools.cache
def differentiated(arch, **how):
    """(hidden states, gradient) of a fixed loss on packed rows."""
    model, batch = tiny.model(arch, **how), tiny.batch(4, 32, arch.vocab)
    weight = batch["mask"][..., None] * np.random.default_rng(1).normal(size=(4, 32, arch.width))

    @jax.jit
    def run(params):
        hidden, back = jax.vjp(lambda params: model.hidden(params, batch), params)
        return hidden, back(jnp.asarray(weight, hidden.dtype))[0]

    return run(base(arch))


@pytest.mark.parametrize("arch", [ARCH, pytest.param(BIASED, marks=pytest.mark.slow)], ids=["llama", "neox"])
@kinds
def test_gradients_are_near_those_of_float32(arch, kind):
    """Of each parameter's; in bfloat16 they are as near as in float32."""
    hidden, wanted = differentiated(arch)
    most = {"int8": 0.05, "fp8": 0.25}[kind]
    for dtype in ("float32", "bfloat16"):
        low, found = differentiated(arch, matmul_dtype=kind, dtype=dtype)
        assert 1e-3 < off(low.astype(jnp.float32), hidden) < most / 2
        norm = optax.tree.norm(wanted)
        for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
            if jnp.linalg.norm(b) > 1e-3 * norm:
                assert jnp.linalg.norm(a - b) < most * jnp.linalg.norm(b), jax.tree_util.keystr(path)
                cosine = jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b)
                assert cosine > 0.97, jax.tree_util.keystr(path)


WAYS = [(True, "dots")] + [
    pytest.param(scan, remat, marks=pytest.mark.slow)
    for scan, remat in ((True, "none"), (True, "full"), (False, "dots"), (False, "full"))
]


@pytest.mark.parametrize(("scan", "remat"), WAYS)
@kinds
def test_scanned_or_unrolled_and_recomputed_or_kept_are_one_function(kind, scan, remat):
    wanted = differentiated(ARCH, matmul_dtype=kind)
    found = differentiated(ARCH, matmul_dtype=kind, scan=scan, remat=remat)
    assert off(found[0], wanted[0]) < 1e-6 and off(found[1], wanted[1]) < 1e-5


def products(kind, remat, dtype=jnp.bfloat16):
    """(types of operands and result) -> how many such products of 8 bits the program of one layer's gradient has."""
    arch = dataclasses.replace(ARCH, layers=1)
    model, batch = (
        tiny.model(arch, matmul_dtype=kind, remat=remat, dtype=dtype),
        tiny.batch(2, 16, arch.vocab),
    )

    def loss(params):
        return jnp.square(model.hidden(params, batch).astype(jnp.float32)).sum()

    text = jax.jit(jax.grad(loss)).lower(jax.eval_shape(model.init, jax.random.key(0))).as_text()
    shape = r"tensor<[\dx]*x(\w+)>"
    found = re.findall(rf"dot_general[^\n]*: \({shape}, {shape}\) -> {shape}", text)
    return {each: found.count(each) for each in set(found) if "8" in each[0][:3] + each[1][:3]}


def test_the_kernels_of_a_layer_are_in_products_of_8_bits_and_remat_runs_none_twice():
    """Seven kernels, forward and back; the products of attention itself, and of int8 ∂W, are not."""
    for remat in ("none", "dots"):
        assert products("int8", remat) == {("i8", "i8", "i32"): 14}
        e4m3, e5m2 = "f8E4M3FN", "f8E5M2"
        wanted = {(e4m3, e4m3, "bf16"): 7, (e5m2, e4m3, "bf16"): 7, (e4m3, e5m2, "bf16"): 7}
        assert products("fp8", remat) == wanted
    assert products("int8", "full")[("i8", "i8", "i32")] > 14
    assert products("auto", "none") == {}


def test_what_remat_keeps_is_in_the_type_of_computation():
    model = tiny.model(ARCH, matmul_dtype="int8", remat="dots", dtype=jnp.bfloat16)
    batch = tiny.batch(2, 16, ARCH.vocab)

    def loss(params):
        return jnp.square(model.hidden(params, batch).astype(jnp.float32)).sum()

    kept = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], base())
    shapes = {(x.dtype.name, x.shape) for x in jax.tree.leaves(kept)}
    assert ("bfloat16", (32, ARCH.ff)) in shapes
    assert not any(dtype == "int32" and shape[-1] == ARCH.ff for dtype, shape in shapes)


DECODED = [("int8", True, "float32"), ("fp8", False, "bfloat16")] + [
    pytest.param(*each, marks=pytest.mark.slow)
    for each in (("int8", False, "bfloat16"), ("fp8", True, "float32"), ("fp8", False, "float32"))
]


@pytest.mark.parametrize(("kind", "scan", "dtype"), DECODED)
def test_decode_holds_codes_and_computes_what_training_does(kind, scan, dtype):
    """Codes of the parameters, not of a cast of theirs. A token's scale is its own, so no other token moves it."""
    model = tiny.model(ARCH, matmul_dtype=kind, scan=scan, dtype=dtype)
    batch = tiny.batch(3, 12, ARCH.vocab, packed=False)
    tokens = jnp.asarray(batch["tokens"])

    @jax.jit
    def decoded(params):
        ready = model.ready(params)
        first, cache = model.decode(ready, tokens[:, :8], None, model.cache(3, 12))
        out = [first]
        for at in range(8, 12):
            hidden, cache = model.decode(ready, tokens[:, at : at + 1], jnp.full((3, 1), at), cache)
            out.append(hidden)
        return jnp.concatenate(out, 1).astype(jnp.float32), ready

    found, ready = decoded(base())
    whole = jax.jit(model.hidden)(base(), batch).astype(jnp.float32)
    plain = jax.jit(tiny.model(ARCH, dtype=dtype).hidden)(base(), batch).astype(jnp.float32)
    assert off(found, whole) < {"float32": 0.25, "bfloat16": 0.5}[dtype] * off(plain, whole)
    layers = ready["layers"] if scan else jax.tree.map(lambda *x: jnp.stack(x), *ready["layers"])
    down = base()["layers"]["mlp"]["down"]["kernel"]
    wanted, scale = quantized_weights.quantized_matmul.rounded(down, (1,), quantized_weights.CODES[kind])
    held = layers["mlp"]["down"]["kernel"]
    assert held[kind].dtype == wanted.dtype and np.array_equal(held[kind], wanted)
    assert np.array_equal(held["scale"], scale)
    assert ready["embed"].dtype == dtype


@pytest.mark.parametrize("name", ["next_token", pytest.param("dpo", marks=pytest.mark.slow)])
@kinds
def test_objectives_are_sums_over_rows_and_padding_changes_nothing_to_the_bit(kind, name):
    """The gradient of kernels too: of fp8 as far as its one scale of a batch goes, see ops/quantized_matmul.py."""
    case = CASES[name]
    model, batch = build(case, matmul_dtype=kind), case.batch(4)
    params, key = jax.jit(model.init)(jax.random.key(0)), jax.random.key(1)

    @jax.jit
    def run(batch):
        loss = case.objective(model)(params, case.frozen, batch, key)
        return loss, jax.grad(lambda params: case.objective(model)(params, case.frozen, batch, key).total)(
            params
        )

    whole, gradient = run(batch)
    parts = [run({k: v[i : i + 1] for k, v in batch.items()}) for i in range(4)]
    for part, value in flat(whole).items():
        np.testing.assert_allclose(sum(flat(loss)[part] for loss, _ in parts), value, rtol=2e-5, atol=1e-5)
    assert off(jax.tree.map(lambda *x: sum(x), *(each for _, each in parts)), gradient) < 1e-5
    free, random = case.free(batch), np.random.default_rng(7)
    garbage = dict(batch)
    for column in case.positions:
        drawn = random.integers(0, 24 if column != "positions" else 100, free.shape)
        garbage[column] = np.where(free, drawn, batch[column]).astype(batch[column].dtype)
    same = jax.tree.map(np.array_equal, run(garbage), (whole, gradient))
    assert free.any() and all(jax.tree.leaves(same))


@functools.cache
def in_one_jit(kind):
    return trained(CASES["next_token"], *PLANS["jit"], matmul_dtype=kind)


PARITY = [("fp8", "pmap, 2 microbatches"), ("int8", "2 x 2 x 2, 2 microbatches")] + [
    pytest.param(*each, marks=pytest.mark.slow)
    for each in (
        ("int8", "jit, 4 microbatches"),
        ("fp8", "jit, 4 microbatches"),
        ("int8", "pmap, 2 microbatches"),
        ("fp8", "2 x 2 x 2, 2 microbatches"),
        ("int8", "fsdp x context x tensor, 2 microbatches"),
        ("fp8", "fsdp x context x tensor, 2 microbatches"),
    )
]


@pytest.mark.parametrize(("kind", "plan"), PARITY)
def test_every_plan_takes_the_same_steps(kind, plan):
    """As far as rounding is continuous: where a sum in float32 ends beside another one, a code may be the next one.

    And a token's other codes follow it. So plans differ by more than float32 does, and by less than from float32.
    """
    wanted, exact = in_one_jit(kind), in_one_jit("auto")
    found = trained(CASES["next_token"], *PLANS[plan], matmul_dtype=kind)
    for one, other, right in zip(found[:2], wanted[:2], exact[:2], strict=True):
        assert 1e-3 < off(other, right) < 0.2 and off(one, other) < 0.4 * off(other, right)
    np.testing.assert_allclose(found[2], wanted[2], rtol=5e-3)


def test_adapters_over_int8_kernels_have_products_of_their_codes():
    """The base's own codes, without a second rounding, and the gradients of adapters near those in float32."""
    settings = Lora(lora_rank=3, lora_alpha=6.0, base_weights="int8")
    model, plain = tiny.model(ARCH, matmul_dtype="int8"), tiny.model(ARCH)
    codes = quantized_weights.quantize(base(), model.axes, "int8")
    adapters = jax.tree.map(lambda x: x + 0.02, lora.init(codes, jax.random.key(1), model.axes, settings))
    batch = tiny.batch(2, 16, ARCH.vocab)

    def gradient(model):
        def loss(trained):
            hidden = model.hidden(lora.merge(codes, trained, model.axes, settings), batch)
            return jnp.square(hidden * jnp.arange(64) / 64).sum()

        return jax.jit(jax.grad(loss)), adapters

    (low, _), (full, _) = gradient(model), gradient(plain)
    assert 1e-4 < off(low(adapters), full(adapters)) < 0.05
    text = low.lower(adapters).as_text()
    # What q, k and v of the first layer read has no gradient.
    assert len(re.findall(r"dot_general.*xi8>.*xi8>.*xi32>", text)) == 2 * 14 - 3
    ready = model.ready(lora.merge(codes, adapters, model.axes, settings))
    assert ready["layers"][0]["mlp"]["up"]["kernel"]["int8"].dtype == jnp.int8


def test_bad_input_is_refused_with_the_flag_and_the_remedy():
    with pytest.raises(ConfigError, match=r"--matmul_dtype=fp8: the model has 6 experts.* leave it out"):
        tiny.model(tiny.shrink("olmoe-1b-7b"), matmul_dtype="fp8")
    for held, kind in (("nf4", "int8"), ("nf4", "fp8"), ("int8", "fp8")):
        with pytest.raises(ConfigError, match=rf"--matmul_dtype={kind}.*--base_weights={held}.*float32"):
            quantized_weights.require_codes(held, kind)
        arch = tiny.shrink("llama3.1-8b", layers=1, width=64, ff=64)
        model = tiny.model(arch, matmul_dtype=kind)
        codes = jax.eval_shape(
            lambda held=held, model=model: quantized_weights.quantize(
                model.init(jax.random.key(0)), model.axes, held
            )
        )
        with pytest.raises(ConfigError, match=rf"--matmul_dtype={kind}"):
            jax.eval_shape(functools.partial(model.hidden, batch=tiny.batch(1, 8, arch.vocab)), codes)
    for held, kind in (("float32", "fp8"), ("int8", "int8"), ("nf4", "auto")):
        quantized_weights.require_codes(held, kind)


def test_the_flag_reaches_the_model():
    for settings in (config.Model(matmul_dtype="fp8"), MachineFlags(matmul_dtype="fp8").model()):
        assert transformer.execution(settings, "cpu").matmul_dtype == "fp8"
    assert transformer.execution(config.Model(), "cpu").matmul_dtype == "auto"
