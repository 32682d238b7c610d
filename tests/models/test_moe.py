"""Mixture of experts: groups of rows, the router and its losses, beside plain NumPy."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError, Lora
from jaxtrain.models import lora, moe, transformer
from jaxtrain.models.grouped_product import with_megablox
from jaxtrain.models.zoo import ZOO, Arch, resolve
from jaxtrain.objectives.next_token import next_token
from jaxtrain.ops.auxiliary_losses import joined
from jaxtrain.train import parallel
from jaxtrain.train.step import init_state, train_step
from jaxtrain.types import Loss
from tests import tiny

E, K, D, F = 5, 2, 6, 7


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kernels():
    return {"gate": draw(E, D, F), "up": draw(E, D, F, seed=1), "down": draw(E, F, D, seed=2)}


def choices(B, T, *, within=E, seed=3):
    """i32[B, T, K], distinct for each token."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(within)[:K] for _ in range(B * T)]).reshape(B, T, K).astype(np.int32)


def by_token(x, choice, weight, kernels):
    """Each choice's expert by itself."""
    out = np.zeros_like(x, dtype=np.float64)
    for b, t, k in np.ndindex(choice.shape):
        e = choice[b, t, k]
        if e < E:
            gate, up = x[b, t] @ kernels["gate"][e], x[b, t] @ kernels["up"][e]
            out[b, t] += weight[b, t, k] * ((gate / (1 + np.exp(-gate)) * up) @ kernels["down"][e])
    return out


def run(platform, x, choice, weight, kernels):
    return moe.mixed(x, choice, weight, kernels, {}, mlp="swiglu", platform=platform)


@pytest.fixture
def interpreted(monkeypatch):
    """The TPU's kernels on a CPU."""
    monkeypatch.setattr(moe, "ragged_product", lambda x, k, sizes, _: with_megablox(x, k, sizes, True))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("case", ["even", "all to one", "nothing", "long"])
def test_products_over_groups_are_those_of_each_token(platform, case):
    B, T = (2, 70) if case == "long" else (2, 4)
    x, weight = draw(B, T, D, seed=4), np.abs(draw(B, T, K, seed=5))
    choice = choices(B, T)
    if case == "all to one":
        choice = np.full_like(choice, E)
        choice[..., 0] = 3
    if case == "nothing":
        choice = np.full_like(choice, E)
    f = functools.partial(run, platform)
    np.testing.assert_allclose(
        jax.jit(f)(x, choice, weight, kernels()), by_token(x, choice, weight, kernels()), atol=1e-4
    )

    def plain(x, weight, kernels):
        every = jnp.einsum("btd,edf->btef", x, kernels["up"])
        every = jax.nn.silu(jnp.einsum("btd,edf->btef", x, kernels["gate"])) * every
        share = (jax.nn.one_hot(choice, E) * weight[..., None]).sum(2)
        return jnp.einsum("btef,efd,bte->btd", every, kernels["down"], share)

    args, over = (x, weight, kernels()), (0, 1, 2)
    found = jax.jit(jax.grad(lambda x, w, k: jnp.sin(f(x, choice, w, k)).sum(), over))(*args)
    wanted = jax.grad(lambda *args: jnp.sin(plain(*args)).sum(), over)(*args)
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_choice_that_is_not_computed_moves_no_other_one(platform):
    """To the bit: what padding chooses has no part in it."""
    x, weight, choice = draw(2, 8, D, seed=4), np.abs(draw(2, 8, K, seed=5)), choices(2, 8)
    choice[:, 5:] = E
    dirty = x.copy()
    dirty[:, 5:] = np.nan
    f = jax.jit(functools.partial(run, platform))
    clean = np.asarray(f(x, choice, weight, kernels()))
    assert np.array_equal(np.asarray(f(dirty, choice, np.where(choice < E, weight, 7), kernels())), clean)
    assert not clean[:, 5:].any() and clean[:, :5].all()


def test_the_router_takes_the_likeliest_experts():
    logits = np.log(np.array([[[0.1, 0.5, 0.15, 0.25]]], np.float32))
    arch = resolve("tinytown-moe,experts=4")
    choice, weight = moe.route(logits, arch)
    assert choice.tolist() == [[[1, 3]]]
    np.testing.assert_allclose(weight, [[[2 / 3, 1 / 3]]], rtol=1e-6)
    weight = moe.route(logits, dataclasses.replace(arch, norm_topk=False))[1]
    np.testing.assert_allclose(weight, [[[0.5, 0.25]]], rtol=1e-6)


def test_router_sums_by_hand():
    """Two tokens of one row, one of another; k = 1 of 2 experts."""
    p = np.array([[[0.75, 0.25], [0.5, 0.5], [0.2, 0.8]], [[0.4, 0.6], [0.9, 0.1], [0.9, 0.1]]])
    choice = np.array([[[0], [0], [1]], [[1], [0], [0]]])
    valid = np.array([[True, True, False], [True, False, False]])
    found = moe.router_sums(jnp.log(2 * p).astype(jnp.float32), choice, valid)
    # Row 0: E / (k n) Σ_e c_e Σ_t p_te = 2 / 2 · 2 · 1.25; row 1: 2 / 1 · 1 · 0.6.
    assert float(found["balance_loss"]) == pytest.approx(2.5 + 1.2, rel=1e-6)
    assert float(found["z_loss"]) == pytest.approx(3 * np.log(2) ** 2, rel=1e-6)
    assert float(found["max_load"]) == pytest.approx(2 * 2 + 2 * 1, rel=1e-6)


def test_the_balance_loss_of_an_even_load_is_one_a_token():
    choice = np.stack([np.arange(8) % 4, (np.arange(8) + 1) % 4], -1)[None]
    found = moe.router_sums(jnp.zeros((1, 8, 4)), choice, np.ones((1, 8), bool))
    assert float(found["balance_loss"]) == pytest.approx(8) == float(found["max_load"])


def arch_with(**changes):
    return dataclasses.replace(tiny.shrink("tinytown-moe", layers=2), **changes)


def losses(arch, **how):
    """The auxiliary part of a loss of 0 tokens' worth."""
    model, batch = tiny.model(arch, **how), tiny.batch(3, 16, arch.vocab)

    def objective(params, frozen, batch, rng):
        return Loss(0.0 * model.hidden(params, batch).sum(), batch["mask"].sum(), {})

    return jax.jit(functools.partial(joined, objective))(
        model.init(jax.random.key(0)), (), batch, jax.random.key(1)
    )


def test_the_losses_of_layers_that_are_scanned_or_not_are_the_same():
    plain, scanned = losses(arch_with()), losses(arch_with(), scan=True, remat="dots")
    for a, b in zip(*map(jax.tree.leaves, (plain, scanned)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    ratio = {name: float(total / count) for name, (total, count) in plain.metrics.items()}
    assert set(ratio) == {"router/balance_loss", "router/z_loss", "router/max_load"}
    wanted = 0.01 * ratio["router/balance_loss"] + 1e-3 * ratio["router/z_loss"]
    assert float(plain.total / plain.weight) == pytest.approx(wanted, rel=1e-5)


def test_without_weights_there_are_no_losses():
    found = losses(arch_with(balance_weight=0.0, router_z_weight=0.0))
    assert float(found.total) == 0 and not found.metrics


def test_a_step_whose_router_overflows_is_skipped_and_counted():
    model, batch = tiny.model(arch_with()), tiny.batch(2, 8, 64)
    params = model.init(jax.random.key(0))
    params["layers"]["mlp"]["router"]["kernel"] = jnp.full((2, 32, 6), 1e38)
    tx = optax.sgd(0.1)
    step = functools.partial(train_step, objective=functools.partial(next_token, model=model), tx=tx)
    state = init_state(params, tx, jax.random.key(1))
    after, _ = jax.jit(step)(state, (), batch)
    assert int(after.skipped) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, params)


def test_the_balance_loss_evens_the_load():
    """Gradient descent on it alone brings a router that prefers one expert to an even load."""
    x = jnp.asarray(draw(4, 64, D)).at[..., 0].set(1.0)
    router = jnp.asarray(0.3 * draw(D, E, seed=7)).at[0, 0].add(3.0)
    arch = dataclasses.replace(ZOO["tinytown-moe"], experts=E, experts_per_token=K)
    valid = np.ones((4, 64), bool)

    def sums(router):
        logits = x @ router
        return moe.router_sums(logits, moe.route(logits, arch)[0], valid)

    step = jax.jit(lambda router: router - 0.01 * jax.grad(lambda r: sums(r)["balance_loss"])(router))
    before = float(sums(router)["max_load"]) / 256
    for _ in range(100):
        router = step(router)
    after = float(sums(router)["max_load"]) / 256
    assert before > 1.8 and after < 1.35


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tinytown-moe,experts_per_token=9", "experts_per_token=9 must be from 1 to experts=8"),
        ("tinytown-moe,experts_per_token=0", "experts_per_token=0 must be from 1"),
        ("tinytown-1m,experts=4", "experts_per_token=0 must be from 1 to experts=4"),
        ("tinytown-1m,experts_per_token=2", "experts_per_token=2 needs experts"),
        ("tinytown-1m,balance_weight=0.1", "balance_weight=0.1 needs experts"),
        ("tinytown-1m,norm_topk=false", "norm_topk=False needs experts"),
        ("tinytown-1m,router_bias=true", "router_bias=True needs experts"),
        ("tinytown-moe,expert_ff=-1", "expert_ff=-1 must be at least 0"),
        ("tinytown-moe,router_z_weight=-1", "router_z_weight=-1.0 must be at least 0"),
        ("tinytown-moe,balance_weight=nan", "balance_weight=nan must be at least 0"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        resolve(text)


def plan_of(mesh, count=8):
    return parallel.make(config.Run(parallel="mesh", mesh=mesh), jax.devices()[:count])


@pytest.mark.parametrize(
    ("mesh", "rows", "length", "changes"),
    [
        ("fsdp:2,expert:2,tensor:2", 8, 6, {"mlp_bias": True}),
        ("expert:2,tensor:4", 8, 6, {"expert_ff": 6}),  # F stays whole
        ("data:2,expert:2,context:2", 3, 1, {}),  # as a token of decode, which stays whole
        ("data:4,tensor:2", 3, 5, {"mlp_bias": True}),
    ],
)
def test_experts_on_a_mesh_compute_what_one_device_does(mesh, rows, length, changes):
    """Results and gradients of all kernels, whatever of rows, time and F divides."""
    arch, plan = arch_with(**changes), plan_of(mesh)
    x, valid = (
        jnp.asarray(draw(rows, length, arch.width)),
        np.arange(length) < np.arange(1, rows + 1)[:, None],
    )

    def module(local):
        return moe.feed_forward(arch, tiny.how(local=local))()

    params = nn.meta.unbox(module(None).init(jax.random.key(0), x, valid))
    params = jax.tree.map(lambda p: 0.2 * draw(*p.shape, seed=p.size), params)

    def run(local, params):
        def total(params, x):
            y, sums = module(local).apply(params, x, valid)
            return jnp.sin(y).sum() + sum(sums.values()), y

        return jax.value_and_grad(total, (0, 1), has_aux=True)(params, x)

    wanted = jax.jit(functools.partial(run, None))(params)
    found = plan.ready(lambda params, _: run(plan.local, params))(params, ())
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(plan.get(a), b, atol=2e-4, rtol=1e-4)


def test_experts_lie_on_the_devices_of_their_axis():
    plan, arch = plan_of("expert:2,tensor:4"), arch_with()
    model = tiny.model(arch, local=plan.local)
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    assert kernel.shape == (2, 6, 32, 24) and kernel.sharding.shard_shape(kernel.shape) == (2, 3, 32, 6)


def test_an_axis_that_does_not_divide_the_experts_is_refused():
    plan = plan_of("expert:4,data:2")
    with pytest.raises(
        ConfigError, match=r"--mesh: expert:4 does not divide the 6 experts of the model; take 2, 3, 6$"
    ):
        tiny.model(arch_with(), local=plan.local)
    with pytest.raises(ConfigError, match="only the data axis"):
        config.Run(parallel="pmap", mesh="expert:2")


@pytest.mark.parametrize("dora", [False, True])
def test_each_expert_has_adapters_of_its_own(dora):
    model, settings = tiny.model(arch_with()), Lora(lora_rank=2, lora_alpha=4.0, dora=dora)
    base = model.init(jax.random.key(0))
    start = lora.init(base, jax.random.key(1), model.axes, settings)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), start)
    found = lora.merge(base, moved, model.axes, settings)["layers"]["mlp"]["down"]["kernel"]
    adapter, kernel = moved["layers"]["mlp"]["down"]["kernel"], base["layers"]["mlp"]["down"]["kernel"]
    assert adapter["a"].shape == (2, 6, 24, 2) and adapter["b"].shape == (2, 6, 2, 32)
    for place in np.ndindex(2, 6):
        wanted = np.float64(kernel[place]) + 2 * np.float64(adapter["a"][place]) @ np.float64(
            adapter["b"][place]
        )
        if dora:
            wanted = wanted * np.float64(adapter["m"][place]) / np.sqrt((wanted**2).sum(0))
        np.testing.assert_allclose(found[place], wanted, atol=1e-5)


def test_flops_count_the_experts_of_a_token():
    sizes = Arch(2, 8, 2, 99, vocab=10, experts=6, experts_per_token=2, expert_ff=16, shared_experts=1)
    dense = Arch(2, 8, 2, 48, vocab=10)
    extra = transformer.flops_per_token(sizes, 9) - transformer.flops_per_token(dense, 9)
    assert extra == 6 * 2 * 8 * 6  # the router
