"""Advantages of a rollout against loops written from the formulas in float64, and its annotation by the models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.models import value
from jaxtrain.ops.logprobs import logits
from jaxtrain.rl import advantages
from tests import tiny

RNG = np.random.default_rng(0)
R, T, G = 6, 9, 3
STARTS, ENDS = (2, 0, 1, 4, 3, 2), (5, 8, 2, 8, 6, 4)  # first and last place of a target in the loss
MASK = np.array([[a <= t <= b for t in range(T)] for a, b in zip(STARTS, ENDS, strict=True)], "f")
HERE = MASK > 0
OLD, REFERENCE, VALUES = RNG.normal(size=(3, R, T)).astype("f")
SCORES = np.array([0.7, -1.8, 2.0, 0.5, 0.5, 0.5], "f")  # the second group is flat
ENDED = np.array([True, False, True, False, True, True])
LENGTH = np.array([min(end + 1, T - 1) + 1 for end in ENDS], np.int32)
BETA = 0.3


def rows(garbage=0.0, reference=True):
    """The columns of a rollout, with `garbage` where nothing may be read."""

    def outside(x, inside):
        return jnp.asarray(np.where(inside, x, garbage).astype("f"))

    last = np.arange(T) == LENGTH[:, None] - 1  # what follows a completion that was cut off
    columns = {"mask": jnp.asarray(MASK), "length": jnp.asarray(LENGTH), "old_logps": outside(OLD, HERE)}
    columns["values"] = outside(VALUES, HERE | (last & ~ENDED[:, None]))
    return columns | ({"ref_logps": outside(REFERENCE, HERE)} if reference else {})


@functools.cache
def compiled(kind, how):
    return jax.jit(functools.partial(getattr(advantages, kind), how=how))


def computed(kind, how, columns=None, scores=SCORES):
    result = compiled(kind, how)(columns or rows(), jnp.asarray(scores), ENDED, BETA)
    return jax.tree.map(np.asarray, result)


def token_rewards(scores):
    """-β k1 at each token, and the score at the last one; f64."""
    out = np.zeros((R, T))
    for r in range(R):
        for t in range(STARTS[r], ENDS[r] + 1):
            out[r, t] = -BETA * (float(OLD[r, t]) - float(REFERENCE[r, t]))
        out[r, ENDS[r]] += scores[r]
    return out


def backwards(rewards, values, after, gamma, lam):
    """Advantages by δ_t + γλ A_{t+1}; f64."""
    out = np.zeros((R, T))
    for r in range(R):
        value, advantage = float(after[r]), 0.0
        for t in range(ENDS[r], STARTS[r] - 1, -1):
            delta = rewards[r, t] + gamma * value - float(values[r, t])
            advantage = delta + gamma * lam * advantage
            value, out[r, t] = float(values[r, t]), advantage
    return out


def whitened(x, shift=True):
    mean, std = x[HERE].mean(), x[HERE].std()
    return np.where(HERE, (x - mean) / std + (0 if shift else mean), 0)


HOW = {
    "plain": advantages.AdvantageConfig(whiten_advantages=False),
    "discounted": advantages.AdvantageConfig(gamma=0.9, lam=0.8, whiten_advantages=False),
    "bootstrap": advantages.AdvantageConfig(bootstrap=True, whiten_advantages=False),
    "whitened": advantages.AdvantageConfig(gamma=0.9, bootstrap=True, whiten_rewards=True),
}


@pytest.mark.parametrize("name", HOW)
def test_values_turn_scores_into_advantages_and_returns(name):
    how = HOW[name]
    columns, metrics = computed("gae_advantages", how)
    rewards = whitened(token_rewards(SCORES), shift=False) if how.whiten_rewards else token_rewards(SCORES)
    cut = VALUES[np.arange(R), LENGTH - 1] * ~ENDED * how.bootstrap
    wanted = backwards(rewards, VALUES, cut, how.gamma, how.lam)
    targets = np.where(HERE, wanted + VALUES, 0)
    np.testing.assert_allclose(columns["returns"], targets, rtol=1e-5, atol=1e-5)
    advantages = whitened(wanted) if how.whiten_advantages else wanted
    np.testing.assert_allclose(columns["advantages"], advantages, rtol=1e-5, atol=1e-5)
    assert np.array_equal(columns["old_values"][HERE], VALUES[HERE])
    left = 1 - (targets - VALUES)[HERE].var() / targets[HERE].var()
    np.testing.assert_allclose(metrics["val/explained_var"], np.full(R, left), rtol=1e-5, atol=1e-5)


def test_a_completion_that_ended_has_nothing_after_it_and_one_that_did_not_has_its_last_state():
    plain, after = (computed("gae_advantages", HOW[name])[0]["returns"] for name in ("plain", "bootstrap"))
    changed = [(plain[r] != after[r]).any() for r in range(R)]
    assert changed == (~ENDED).tolist()
    last = VALUES[3, LENGTH[3] - 1]
    assert after[3, ENDS[3]] - plain[3, ENDS[3]] == pytest.approx(last, rel=1e-5)


def test_advantages_of_a_rollout_have_mean_0_and_variance_1_over_all_its_tokens():
    result = computed("gae_advantages", advantages.AdvantageConfig())[0]["advantages"]
    assert result[HERE].mean() == pytest.approx(0, abs=1e-6) and result[HERE].var() == pytest.approx(
        1, rel=1e-5
    )
    assert abs(result[0][HERE[0]].mean()) > 0.01  # not by row


GROUPS = {
    "grpo": ("mean", "std", lambda r, rest: (r[0] - r.mean()) / (r.std(ddof=1) + 1e-4)),
    "rloo": ("others", "none", lambda r, rest: r[0] - rest.mean()),
    "dr_grpo": ("mean", "none", lambda r, rest: r[0] - r.mean()),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_turn_scores_into_advantages(name):
    baseline, scale, formula = GROUPS[name]
    how = advantages.AdvantageConfig(group=G, baseline=baseline, scale=scale)
    columns, metrics = computed("group_advantages", how)
    kl = np.where(HERE, OLD.astype(float) - REFERENCE, 0).sum(1)
    worth = SCORES - BETA * kl
    for r in range(R):
        others = [i for i in range(r // G * G, r // G * G + G) if i != r]
        wanted = formula(worth[[r, *others]], worth[others])
        np.testing.assert_allclose(columns["advantages"][r], np.where(HERE[r], wanted, 0), rtol=1e-4)
    assert columns.keys() == {"advantages"}
    groups = np.asarray(SCORES).reshape(-1, G)
    assert metrics["frac_reward_zero_std"].tolist() == np.repeat(np.ptp(groups, 1) == 0, G).tolist()


def test_a_group_whose_scores_are_equal_has_no_advantage_and_is_counted():
    how = advantages.AdvantageConfig(group=G)
    columns, metrics = computed("group_advantages", how, rows(reference=False))
    assert metrics["frac_reward_zero_std"].tolist() == [0, 0, 0, 1, 1, 1]
    assert not columns["advantages"][G:].any() and columns["advantages"][:G][HERE[:G]].all()


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_without_a_baseline_a_token_has_what_is_still_to_come(gamma):
    how = advantages.AdvantageConfig(gamma=gamma, baseline="none", scale="none")
    columns, metrics = computed("group_advantages", how)
    rewards, wanted = token_rewards(SCORES), np.zeros((R, T))
    for r in range(R):
        for t in range(STARTS[r], ENDS[r] + 1):
            wanted[r, t] = sum(gamma ** (s - t) * rewards[r, s] for s in range(t, ENDS[r] + 1))
    np.testing.assert_allclose(columns["advantages"], whitened(wanted), rtol=1e-4, atol=1e-5)
    assert "frac_reward_zero_std" not in metrics


@pytest.mark.parametrize(
    "kind, how",
    [("gae_advantages", HOW["whitened"]), ("group_advantages", advantages.AdvantageConfig(group=G))],
)
def test_what_stands_outside_the_mask_changes_nothing_to_the_bit(kind, how):
    clean = computed(kind, how)
    for garbage in (1e30, -np.inf, np.nan):
        columns, metrics = computed(kind, how, rows(garbage))
        columns["old_values"] = np.where(HERE, columns.get("old_values", 0), 0)
        for name, x in {**clean[0], **clean[1]}.items():
            result = {**columns, **metrics}[name]
            assert np.array_equal(result, np.where(HERE, x, 0) if name == "old_values" else x), name


def test_numbers_of_completions_by_name():
    metrics = {
        name: np.asarray(x) for name, x in advantages.completion_metrics(rows(np.nan), SCORES, BETA).items()
    }
    kl = np.where(HERE, OLD.astype(float) - REFERENCE, 0).sum(1)
    wanted = {
        "objective/scores": SCORES,
        "objective/entropy": -np.where(HERE, OLD.astype(float), 0).sum(1),
        "objective/kl": kl,
        "objective/non_score_reward": -BETA * kl,
        "objective/rlhf_reward": SCORES - BETA * kl,
        "objective/kl_coef": np.full(R, BETA),
    }
    assert metrics.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_allclose(metrics[name], x, rtol=1e-5, err_msg=name)
    alone = advantages.completion_metrics(rows(reference=False), SCORES, BETA)
    assert alone.keys() == {"objective/scores", "objective/entropy"}


ARCH = tiny.shrink("llama2-7b", layers=1, vocab=32)


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_columns_of_sampled_tokens_are_the_models_log_probabilities(critic, temperature):
    model = tiny.model(ARCH)
    policy, other = (model.init(jax.random.key(seed)) for seed in (0, 1))
    heads = value.build(model, shared=False) if critic else None
    params = heads.grow(policy, jax.random.key(2)) if critic else policy
    batch = {k: jnp.asarray(x) for k, x in tiny.batch(3, 12, ARCH.vocab).items()}
    if critic:
        params["value"]["score"]["weight"] = jnp.ones(ARCH.width)
    columns = jax.jit(advantages.annotate_logps(model, heads, temperature))(params, other, batch)

    def logps(of):
        result = jax.nn.log_softmax(logits(model.hidden(of, batch), model.head(of)) / temperature)
        return jnp.take_along_axis(result, batch["targets"][..., None], 2)[..., 0]

    np.testing.assert_allclose(columns["old_logps"], logps(policy), atol=1e-5)
    np.testing.assert_allclose(columns["ref_logps"], logps(other), atol=1e-5)
    assert not np.allclose(columns["old_logps"], columns["ref_logps"], atol=0.1)
    if critic:
        np.testing.assert_allclose(
            columns["values"], model.hidden(policy, batch).sum(-1), rtol=1e-4, atol=1e-4
        )
    assert columns.keys() == {"old_logps", "ref_logps", *(["values"] if critic else [])}
    assert "ref_logps" not in advantages.annotate_logps(model, heads, temperature)(params, (), batch)


@pytest.mark.parametrize("scale", ["none", "batch"])
def test_all_other_scores_of_the_rollout_are_a_baseline(scale):
    """REINFORCE++ with leave-one-out: r_i − the mean of the other R − 1 scores, the KL taken off before; f64."""
    how = advantages.AdvantageConfig(group=1, baseline="batch", scale=scale)
    columns, metrics = computed("group_advantages", how)
    kl = np.where(HERE, OLD.astype(float) - REFERENCE, 0).sum(1)
    net = SCORES.astype(float) - BETA * kl
    wanted = np.array([net[i] - np.delete(net, i).mean() for i in range(R)])
    if scale == "batch":
        wanted /= np.sqrt((wanted**2).mean()) + 1e-4
    np.testing.assert_allclose(columns["advantages"], wanted[:, None] * MASK, rtol=2e-5, atol=2e-5)
    assert not metrics["frac_reward_zero_std"].any()
    same, metrics = computed("group_advantages", how, rows(reference=False), np.ones(R, "f"))
    assert not same["advantages"].any() and metrics["frac_reward_zero_std"].all()
