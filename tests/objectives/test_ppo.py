"""What PPO adds to the policy gradient: values, by hand and at the first step, and where their gradient goes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.objectives.policy_gradient import policy_gradient
from jaxtrain.objectives.ppo import ppo
from jaxtrain.ops import returns
from jaxtrain.ops.logprobs import token_stats
from jaxtrain.ops.policy_gradient import PolicyGradientSettings
from jaxtrain.types import ActorCritic
from tests.objectives.cases import CASES, build
from tests.objectives.test_policy_gradient import BATCH, HERE, LOGITS, MODEL, means

RNG = np.random.default_rng(1)
OLD_VALUES, RETURNS = RNG.normal(size=(2, *HERE.shape))
# On the way to the return, where the clip acts, and in the last row away from it, where it does not.
VALUES = OLD_VALUES + np.array([[0.8], [0.0], [-0.5]]) * (RETURNS - OLD_VALUES)
ROWS = {
    **BATCH,
    "old_values": np.where(HERE, OLD_VALUES, np.nan).astype("f"),
    "returns": np.where(HERE, RETURNS, np.nan).astype("f"),
}
# Policy and values that are their parameters.
CRITIC = ActorCritic(None, {}, lambda p, batch, rng=None: (p["logits"], p["values"]), MODEL.head)
PARAMS = {
    "logits": jnp.asarray(LOGITS, jnp.float32),
    "values": jnp.asarray(np.where(HERE, VALUES, np.nan), jnp.float32),
}


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_the_value_term_by_hand(clip, aggregate):
    settings = PolicyGradientSettings(value_weight=0.7, value_clip=clip, aggregate=aggregate)
    found = ppo(PARAMS, (), ROWS, None, model=CRITIC, settings=settings)
    policy = policy_gradient(
        PARAMS["logits"], (), BATCH, None, model=MODEL, settings=PolicyGradientSettings(aggregate=aggregate)
    )
    free = (VALUES - RETURNS) ** 2
    held = (np.clip(VALUES, OLD_VALUES - clip, OLD_VALUES + clip) - RETURNS) ** 2
    loss = 0.5 * (np.maximum(free, held) if clip else free)
    rows = [loss[b][HERE[b]] for b in (0, 2)]
    wanted = np.concatenate(rows).mean() if aggregate == "token" else np.mean([x.mean() for x in rows])
    values = means(found)
    assert values["loss/value_avg"] == pytest.approx(wanted, rel=1e-5)
    clipped = (held > free)[HERE].mean() if clip else 0
    assert values["val/clipfrac_avg"] == pytest.approx(clipped)
    assert not clip or 0 < clipped < 1
    assert float(found.total - policy.total) == pytest.approx(0.7 * wanted * float(found.weight), rel=1e-5)
    assert set(found.metrics) == set(policy.metrics) | {"loss/value_avg", "val/clipfrac_avg"}
    for name in set(policy.metrics) - {"loss"}:
        assert values[name] == pytest.approx(means(policy)[name], rel=1e-6)


def test_what_is_outside_the_mask_has_no_gradient():
    grad = jax.grad(lambda p: ppo(p, (), ROWS, None, model=CRITIC, settings=PolicyGradientSettings()).total)(
        PARAMS
    )
    for name, found in grad.items():
        assert np.isfinite(found).all() and not np.asarray(found)[~HERE].any(), name
    assert np.asarray(grad["values"])[HERE].any()


@functools.cache
def real(name):
    """(policy and values of a model with dropout, their parameters, completions as a rollout has them)."""
    critic = build(CASES[name], dropout=0.5)
    params, batch = critic.init(jax.random.key(0)), CASES[name].batch(5)

    @jax.jit
    def look(params, batch):
        hidden, values = critic.model.look(params, batch)
        head = critic.model.head(params)
        return token_stats(hidden, head, batch["targets"], temperature=0.8)["logps"], values

    old, values = look(params, batch)
    scores = jnp.asarray([0.7, -1.8, 0.2, 1.0, 3.0])
    rewards = returns.token_rewards(old, old, batch["mask"], scores, 0.1)
    advantages, back = returns.gae(rewards, values, batch["mask"], gamma=1.0, lam=0.95)
    columns = {"old_logps": old, "ref_logps": old, "old_values": values, "returns": back}
    return critic, params, {**batch, **columns, "advantages": advantages}


@functools.cache
def stepped(name, ptx):
    critic, params, batch = real(name)
    settings = PolicyGradientSettings(
        temperature=0.8, clip_low=1e-4, clip_high=1e-4, value_clip=1e-4, ptx_weight=ptx
    )
    objective = functools.partial(ppo, model=critic.model, settings=settings)

    def total(params):
        loss = objective(params, (), batch, jax.random.key(3))
        return loss.total, loss

    grad, loss = jax.jit(jax.grad(total, has_aux=True))(params)
    return jax.tree.map(np.asarray, (grad, loss))


@pytest.mark.parametrize("name", ["ppo", "ppo_shared"])
def test_at_the_first_step_nothing_has_moved(name):
    batch = real(name)[2]
    values = means(stepped(name, 0.0)[1])
    assert values["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert values["policy/approxkl_avg"] == pytest.approx(0, abs=1e-9)
    assert values["policy/clipfrac_avg"] == values["val/clipfrac_avg"] == 0
    here = batch["mask"] > 0
    wanted = 0.5 * np.mean(
        np.square(np.asarray(batch["advantages"]))[here]
    )  # (V − R)² is A² before whitening
    assert values["loss/value_avg"] == pytest.approx(wanted, rel=1e-4)
    assert values["loss/policy_avg"] == pytest.approx(-np.asarray(batch["advantages"])[here].mean(), abs=1e-5)


def test_values_of_their_own_trunk_leave_the_policy_alone():
    """The policy's gradient is that of the policy gradient alone, and pretraining does not teach the values."""
    _, params, batch = real("ppo")
    model = build(CASES["policy_gradient"], dropout=0.5)
    settings = PolicyGradientSettings(temperature=0.8, clip_low=1e-4, clip_high=1e-4, ptx_weight=2.0)
    alone = jax.jit(
        jax.grad(lambda p: policy_gradient(p, (), batch, None, model=model, settings=settings).total)
    )(params["policy"])
    plain, mixed = stepped("ppo", 0.0)[0], stepped("ppo", 2.0)[0]
    for a, b in zip(*map(jax.tree.leaves, (alone, mixed["policy"])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (plain["value"], mixed["value"])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert any(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(mixed["value"]["trunk"]))
    assert any(
        not np.allclose(a, b)
        for a, b in zip(*map(jax.tree.leaves, (plain["policy"], mixed["policy"])), strict=True)
    )
