"""What holds for every objective: sums over rows, the same result under every plan, no dependence on padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import config
from jaxtrain.train import optim, parallel
from jaxtrain.train.step import init_state, train_step
from tests.objectives.cases import CASES, build

ROWS = 16

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def flat(loss):
    """A Loss as {name: float}."""
    pairs = {f"{name}/{part}": x for name, pair in loss.metrics.items() for part, x in enumerate(pair)}
    return {k: float(v) for k, v in {"total": loss.total, "weight": loss.weight, **pairs}.items()}


@cases
def test_a_batch_is_the_sum_of_its_rows(case):
    model, batch = build(case), case.batch(5)
    objective, params = jax.jit(case.objective(model)), model.init(jax.random.key(0))
    whole = flat(objective(params, case.frozen, batch, jax.random.key(1)))
    parts = [
        flat(objective(params, case.frozen, {k: v[i : i + 1] for k, v in batch.items()}, jax.random.key(1)))
        for i in range(5)
    ]
    assert len({round(part["total"], 3) for part in parts}) == 5  # the rows do differ
    for name, value in whole.items():
        np.testing.assert_allclose(sum(part[name] for part in parts), value, rtol=2e-5, atol=1e-5)


@cases
def test_padding_changes_nothing_to_the_bit(case):
    model, batch = build(case), case.batch(4)
    grad = jax.jit(jax.value_and_grad(lambda p, b: case.objective(model)(p, case.frozen, b, None).total))
    params, free = model.init(jax.random.key(0)), case.free(batch)
    assert free.any() and not free.all()
    garbage = dict(batch)
    for name in case.positions:
        high = 24 if name != "positions" else 100
        garbage[name] = np.where(
            free, np.random.default_rng(7).integers(0, high, free.shape), batch[name]
        ).astype(batch[name].dtype)
    clean, dirty = grad(params, batch), grad(params, garbage)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (clean, dirty)), strict=True))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.like])
def test_gradients_in_bfloat16_are_those_of_f32(name):
    """Within the rounding of bfloat16 activations: 1.2 % of each leaf's norm, 1 % of a table's."""
    case = CASES[name]
    batch = case.batch(32)

    def gradient(dtype):
        model = build(case, dtype, tied=False)
        exact = jax.tree.map(  # a cast loses nothing of these
            lambda x: x.astype(jnp.bfloat16).astype(x.dtype), model.init(jax.random.key(0))
        )
        objective = case.objective(model)
        return jax.jit(jax.grad(lambda p: objective(p, case.frozen, batch, jax.random.key(1)).total))(exact)

    low, full = gradient(jnp.bfloat16), gradient(jnp.float32)
    norm = optax.tree.norm(full)
    for (path, a), b in zip(jax.tree.leaves_with_path(low), jax.tree.leaves(full), strict=True):
        if jnp.linalg.norm(b) > 1e-3 * norm:  # smaller ones are differences of larger terms
            most = 0.010 if "embed" in str(path[-1]) else 0.0125
            assert jnp.linalg.norm(a - b) < most * jnp.linalg.norm(b), jax.tree_util.keystr(path)


PLANS = {
    "jit": ("mesh", "data:1", 1),
    "jit, 4 microbatches": ("mesh", "data:1", 4),
    "pmap": ("pmap", "", 1),
    "pmap, 2 microbatches": ("pmap", "", 2),
    "data": ("mesh", "data:8", 1),
    "fsdp": ("mesh", "fsdp:8", 1),
    "fsdp x tensor": ("mesh", "fsdp:4,tensor:2", 1),
    "2 x 2 x 2, 2 microbatches": ("mesh", "data:2,fsdp:2,tensor:2", 2),
    "expert": ("mesh", "data:2,expert:4", 1),
    "fsdp x expert x tensor, 2 microbatches": ("mesh", "fsdp:2,expert:2,tensor:2", 2),
    "expert x context": ("mesh", "expert:4,context:2", 1),
    "context": ("mesh", "data:2,context:4", 1),
    "fsdp x context x tensor, 2 microbatches": ("mesh", "fsdp:2,context:2,tensor:2", 2),
}


def trained(case, kind, mesh, microbatches, dropout=0.0, matmul_dtype="auto"):
    """(first raw gradient, parameters after 5 steps, grad_norm of each step) under a plan, with SGD."""
    devices = jax.devices()[: 1 if mesh == "data:1" else 8]
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh), devices)
    model = build(case, local=plan.local, kv_heads=2, dropout=dropout, matmul_dtype=matmul_dtype)
    settings = config.Optim(
        optimizer="sgd", lr=case.lr, warmup=0, schedule="constant", weight_decay=0, b1=0, clip=0
    )
    tx = optim.optimizer(settings, 5, model.axes)

    def start():
        return init_state(model.init(jax.random.key(0)), tx, jax.random.key(1))

    step = plan.step(
        functools.partial(train_step, objective=case.objective(model), tx=tx, microbatches=microbatches)
    )
    state, norms, history = plan.init(start, model.axes), [], []
    for _ in range(5):
        history.append(plan.get(state.params))
        state, metrics = step(state, case.frozen, plan.put(case.batch(ROWS)))
        total, count = plan.get(metrics["grad_norm"])
        norms.append(total / count)
    history.append(plan.get(state.params))
    return jax.tree.map(lambda a, b: (a - b) / case.lr, *history[:2]), history[-1], norms


@functools.cache
def baseline(name, dropout):
    return trained(CASES[name], *PLANS["jit"], dropout)


# The first objective goes through all plans; of those that share its code, the one with everything stands for all.
TRIED = [
    (name, plan)
    for name in CASES
    for plan in list(PLANS)[1:]
    if (not CASES[name].like and plan != "context" and "expert" not in plan)
    or (name == "next_token_moe" and "expert" in plan)
    or (name in ("dpo_moe", "reward_moe") and plan == "fsdp x expert x tensor, 2 microbatches")
    or plan == "2 x 2 x 2, 2 microbatches"
    or (plan == "context" and name in ("next_token", "masked", "sft", "policy_gradient"))
]


@pytest.mark.parametrize(("name", "plan"), TRIED)
def test_every_plan_takes_the_same_steps(name, plan):
    """With SGD, whose steps show a gradient that is wrong by a factor; Adam would hide it. With dropout too."""
    dropout = 0.0 if CASES[name].like else 0.2
    wanted, found = baseline(name, dropout), trained(CASES[name], *PLANS[plan], dropout)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[0])) > 1e-3
    for a, b in zip(jax.tree.leaves(wanted[:2]), jax.tree.leaves(found[:2]), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)
    np.testing.assert_allclose(found[2], wanted[2], rtol=1e-5)
