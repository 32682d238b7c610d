"""The rule on spikes, in the compiled step: z-scores, what enters the window, what a resumed run decides."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.train import parallel, spikes
from jaxtrain.train.step import train_step
from tests.train.test_step import BAD, SGD, data, same, squares, start

Z = 6.0


def window(losses, norms=None):
    """A window that has seen these values, the oldest first."""
    seen = spikes.empty_window()
    for loss, norm in zip(losses, norms if norms is not None else np.ones(len(losses)), strict=True):
        seen = judged(seen, loss, norm, 1e30)[1]
    return seen


@jax.jit
def _judge(seen, loss, norm, finite, threshold):
    return spikes.judge(seen, loss, norm, finite, threshold)


def judged(seen, loss, norm, threshold=Z):
    finite = np.isfinite(loss) and np.isfinite(norm)
    return _judge(seen, jnp.float32(loss), jnp.float32(norm), finite, threshold)


@pytest.mark.parametrize("count", [16, 100, 128, 150])
def test_the_score_is_that_of_the_last_128_accepted_steps(count):
    rng = np.random.default_rng(count)
    losses, norms = rng.normal(5, 1, count).astype(np.float32), rng.normal(2, 0.5, count).astype(np.float32)
    seen, last = window(losses, norms), slice(-spikes.STEPS, None)
    _, _, metrics = judged(seen, 9.0, 3.0)
    for name, value, values in (("loss", 9.0, losses), ("grad_norm", 3.0, norms)):
        wanted = (value - values[last].mean()) / values[last].std()
        np.testing.assert_allclose(metrics[f"spikes/{name}_z"][0], wanted, rtol=1e-4)
    above = losses[last].mean() + np.array([0.99, 1.01]) * Z * losses[last].std()
    assert [bool(judged(seen, loss, norms.mean())[0]) for loss in above] == [True, False]
    above = norms[last].mean() + np.array([0.99, 1.01]) * Z * norms[last].std()
    assert [bool(judged(seen, losses.mean(), norm)[0]) for norm in above] == [True, False]
    assert judged(seen, -1e6, 1e-6)[0], "far below is no spike"


def test_nothing_is_a_spike_before_there_is_enough_to_compare_with():
    losses = np.linspace(5, 4, spikes.FEWEST)
    assert judged(window(losses[:-1]), 1e6, 1e6)[0] and not judged(window(losses), 1e6, 1.0)[0]


@pytest.mark.parametrize(
    ("loss", "norm"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, 1.0), (1.0, np.inf), (1e6, 1.0), (1.0, 1e6)]
)
def test_what_is_not_applied_leaves_no_trace_in_the_window(loss, norm):
    seen = window(np.linspace(1, 2, 20))
    applied, after, metrics = judged(seen, loss, norm)
    spike = np.isfinite([loss, norm]).all()
    assert not applied and same(
        (after.losses, after.norms, after.accepted), (seen.losses, seen.norms, seen.accepted)
    )
    assert int(after.skipped) == float(metrics[spikes.SHARE][0]) == float(metrics[spikes.TOTAL][0]) == spike
    assert judged(after, 1.5, 1.0)[0], "the next step is applied"


def test_constant_losses_and_gradients_that_vanish_make_no_step_a_spike():
    """A loss of rounding errors around 0, as a policy gradient's is, and rollouts without a signal."""
    around_0 = window([1e-8, -1e-8] * 10)
    assert judged(around_0, 0.01, 1.0)[0] and judged(window([0.5] * 20), 0.51, 1.01)[0]
    silent = window([0.0] * 200, [0.0] * 200)
    assert int(silent.accepted) == 0 and judged(silent, 0.0, 0.7)[0]


def guarded(plan, saved=None, threshold=Z):
    return spikes.SpikeGuard(plan, functools.partial(train_step, objective=squares, tx=SGD), threshold, saved)


def spoilt(batch):
    return {**batch, "y": batch["y"] + 300}


def trained(plan, count, state=None, guard=None, spoil=(), first=0):
    state = state if state is not None else plan.init(lambda: start(SGD), {})
    guard, metrics = guard or guarded(plan), []
    for i in range(first, count):
        batch = data(seed=i)
        state, values = guard(state, (), plan.put(spoilt(batch) if i in spoil else batch))
        metrics.append(plan.get(values))
    return state, guard, metrics


PLANS = {
    "pmap": lambda: parallel.make(config.Run(parallel="pmap"), jax.devices()[:2]),
    "mesh": lambda: parallel.make(config.Run(parallel="mesh", mesh="data:2,fsdp:2"), jax.devices()[:4]),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_spike_is_skipped_as_a_step_that_is_not_finite_is(name):
    plan = PLANS[name]()
    state, guard, metrics = trained(plan, 24, spoil={20, 21})
    assert [int(values["skipped"][0]) for values in metrics] == [0] * 20 + [1, 2, 2, 2]
    assert [int(values["skipped_in_row"][0]) for values in metrics[19:]] == [0, 1, 2, 0, 0]
    assert [bool(values[spikes.SHARE][0]) for values in metrics[19:]] == [False, True, True, False, False]
    assert guard.record()["skipped"] == 2 and guard.record()["accepted"] == 22
    without = trained(plan, 20)
    without = trained(plan, 24, *without[:2], first=22)  # as if the two had never been
    assert same(state.params, without[0].params) and same(
        guard.record()["losses"], without[1].record()["losses"]
    )


def test_a_resumed_run_decides_to_the_bit_what_one_that_goes_on_decides():
    plan = PLANS["pmap"]()
    state, guard, _ = trained(plan, 18)
    copy = jax.tree.map(lambda x: x.copy(), state)
    record = json.loads(json.dumps(guard.record()))
    on = trained(plan, 40, state, guard, spoil={30}, first=18)
    back = trained(plan, 40, copy, guarded(plan, record), spoil={30}, first=18)
    assert on[1].record() == back[1].record() and same(on[0].params, back[0].params)
    assert (
        all(same(one, other) for one, other in zip(on[2], back[2], strict=True)) and int(on[0].skipped) == 1
    )


def test_without_the_rule_the_state_and_its_update_are_the_same():
    plan = PLANS["pmap"]()
    plain = plan.step(functools.partial(train_step, objective=squares, tx=SGD))
    state, other = plan.init(lambda: start(SGD), {}), plan.init(lambda: start(SGD), {})
    guard = guarded(plan)
    for i in range(3):
        state, values = plain(state, (), plan.put(data(seed=i)))
        other, more = guard(other, (), plan.put(data(seed=i)))
    keyless = [tree._replace(rng=()) for tree in (state, other)]
    assert jax.tree.structure(state) == jax.tree.structure(other) and same(*keyless)
    assert not any(name.startswith("spikes/") for name in values) and set(values) < set(more)


def test_a_bad_batch_of_any_kind_never_poisons_the_rule():
    plan = PLANS["pmap"]()
    state, guard, _ = trained(plan, 17)
    for kind, spoil in BAD.items():
        state, values = guard(state, (), plan.put(spoil(data(seed=50))))
        assert int(values["skipped_in_row"][0]) == (kind != "no weight"), kind
        state, values = guard(state, (), plan.put(data(seed=51)))
        assert int(values["skipped_in_row"][0]) == 0, kind
    assert spikes.described({f"spikes/{n}_z": (1.25, 1.0) for n in ("loss", "grad_norm")}).startswith(
        "loss +1.2"
    )


def test_a_spike_among_the_first_steps_hides_no_later_one():
    losses = np.random.default_rng(0).normal(5, 0.2, 40).astype(np.float32)
    losses[6] = 400.0
    seen = spikes.empty_window()
    for loss in losses:
        applied, seen, _ = judged(seen, loss, 1.0)
        assert applied
    assert float(seen.losses[6]) < 9 and not judged(seen, 12.0, 1.0)[0]
